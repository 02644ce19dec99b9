"""
What a pass must not change in a model, and what makes a model's outputs unsteady.

Knows neither layers nor targets, only that modules run while a pass is under way.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    suppress,
)
from functools import partial
from inspect import getattr_static
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.jit import ScriptModule
from torch.nn import Module
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from captum_cams._validation import (
    warn_of_training,
    warn_of_unsteadiness,
)
from captum_cams.watch import Watch, generators, generators_kept

# What all threads share: the modules inside of a pass, and its lock.
_LOCK = threading.Lock()
_UNDER_WAY: dict[Module, "_OwnState"] = {}

# Suspicious passes that are looked at more closely: other threads move generators, too.
_LOOKS = 3
# Larger buffers are not copied: one that is changed is named, but not put back.
_LARGE = 2**24
# Objects that are searched for the modules of a function.
_SEARCHED = 1000

_Reasons = list[tuple[Module | None, str]]
_Run = Callable[[slice, AbstractContextManager[Any] | None], Tensor]


class ModelState:
    """
    A model's state as found, and what is seen of its passes.

    Args:
        forward_func (Callable): The model, or a function that refers to its modules.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self._root = forward_func if isinstance(forward_func, Module) else None
        self._modules = _find_modules(forward_func)
        self._states: dict[Module, _OwnState] = {}
        self._changed: dict[Module, list[str]] = {}  # buffers that passes changed
        self._drew = False  # whether the last pass moved a random generator
        self._passes = self._looks = 0
        self._watched = self._warned = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around a forward pass and its backward pass: buffers stay as found."""
        first = not self._passes
        with _LOCK:
            held = [module for module in self._modules if _registered(module)[1]]
            for module in held:
                state = _UNDER_WAY.get(module) or self._as_found(module)
                _UNDER_WAY[module] = state
                state.users += 1
        before = generators(first)
        try:
            yield
        finally:
            self._put_back(held)
        self._passes += 1
        self._drew = generators(first) != before

    def watch(self, rows: int) -> Watch | None:
        """Watches a forward pass of several rows, the first one alone."""
        if rows == 1 or self._watched:
            return None
        self._watched = True
        return Watch(rows)

    def warn(
        self,
        watch: Watch | None,
        outputs: Tensor | None,
        run: _Run,
    ) -> None:
        """
        Warn, once, of modules that make the outputs depend on more than their example.

        Args:
            watch (Watch, optional): What watched the last pass.
            outputs (Tensor, optional): Its outputs, (B,), if nothing changed them.
            run (Callable): The outputs of some of its rows once more, in a context
                that may watch the model; called where something is suspicious.
        """
        if self._warned:
            return
        reasons: _Reasons = [
            (module, f"changes its {list_of('buffer', names)} as it runs")
            for module, names in self._changed.items()
        ]
        reasons += self._look(watch, outputs, run)
        training = {m for m, _ in reasons if m is not None and m.training}
        if training:
            warn_of_training({type(module).__name__ for module in training})
        steady = [(m, reason) for m, reason in reasons if m not in training]
        if steady:
            warn_of_unsteadiness(
                [f"{self.name(module)} {reason}" for module, reason in steady]
            )
        self._warned = bool(reasons)

    def name(self, module: Module | None) -> str:
        """A module in words: its class, and its place in the model."""
        if module is None:
            return "forward_func"
        parts = self._root.named_modules() if self._root is not None else ()
        name = next((name for name, part in parts if part is module), "")
        return f"{type(module).__name__} '{name}'" if name else type(module).__name__

    def _look(self, watch: Watch | None, outputs: Tensor | None, run: _Run) -> _Reasons:
        """Modules that draw random numbers or mix the rows of a batch, and how."""
        definite, suspected = self._drew, False
        if watch is not None:
            definite |= bool(watch.statistics or watch.drawing)
            suspected = bool(watch.mixing)
        if not (definite or suspected) or self._looks == _LOOKS:
            return []
        self._looks += 1
        with generators_kept():
            whole = self._again(run, slice(None)) if outputs is None else outputs
            if whole is None:
                return []
            # Of rows that share their largest value one is the same by itself: two are
            # compared.
            ends = (slice(len(whole) - 1, None), slice(1))
            if not definite and all(
                _is_close(self._again(run, row), whole, row) for row in ends
            ):
                return []
            watch = Watch(len(whole))
            again = self._again(run, slice(None), watch.naming())
        other = set() if _is_close(again, whole) else watch.moving
        found = {
            "draws random numbers": watch.drawing or other,
            "takes statistics of the batch": watch.statistics,
            "mixes the rows of a batch": set() if definite else watch.mixing,
        }
        return [
            (module, words) for words, modules in found.items() for module in modules
        ]

    def _again(
        self, run: _Run, rows: slice, watch: AbstractContextManager[Any] | None = None
    ) -> Tensor | None:
        """Some rows once more; None from a model that fixes its batch."""
        try:
            with self.kept():
                return run(rows, watch)
        except Exception:
            return None

    def _as_found(self, module: Module) -> "_OwnState":
        state = self._states.get(module)
        if state is None or not state.is_of(module):
            self._states[module] = state = _OwnState(module)
        state.attributes = dict(vars(module))
        return state

    def _put_back(self, modules: list[Module]) -> None:
        """Undo what a pass did, unless another thread is still inside of the module."""
        with _LOCK, torch.no_grad():
            for module in modules:
                state = _UNDER_WAY[module]
                # Batch normalization changes its statistics, but not their versions.
                closely = not self._passes or module.training or module in self._changed
                same = not closely and state.is_of(module)
                changed = [] if same else state.changed(module, closely)
                if changed:
                    self._changed[module] = changed
                state.users -= 1
                if not state.users:
                    del _UNDER_WAY[module]
                    if not same:
                        state.put_back(module, bool(changed))


class _OwnState:
    """
    The buffers of a module as found, with its own parameters and attributes.

    Buffers often belong together with these, as a cache with the length that it is
    for: where a pass changes one of the buffers, all are put back.
    """

    def __init__(self, module: Module) -> None:
        self.users = 0  # passes of any thread that are inside
        self.found = {
            name: (tensor, version_of(tensor), _copy(tensor))
            for name, tensor in _own_tensors(module).items()
        }
        parameters, buffers = _registered(module)
        self.parameters = frozenset(parameters)
        self.buffers = len(buffers)
        # What a lazy module initializes in its first pass stays.
        self.lazy = {*parameters, *buffers} - self.found.keys()
        self.attributes: dict[str, Any] = {}

    def is_of(self, module: Module) -> bool:
        """Whether the module's buffers are still those that were found."""
        buffers = _registered(module)[1]
        if len(buffers) != self.buffers:
            return False
        for name, buffer in buffers.items():
            tensor, version, _ = self.found.get(name, _MISSING)
            if tensor is not buffer or version_of(buffer) != version:
                return False
        return True

    def changed(self, module: Module, closely: bool) -> list[str]:
        """
        The names of the buffers that differ from what was found.

        Args:
            module (Module): The module.
            closely (bool): Whether values are compared where versions are the same.
        """
        now = _own_tensors(module)
        names = (now.keys() | self.found.keys()) - self.lazy - self.parameters
        return sorted(name for name in names if self._differs(name, now, closely))

    def put_back(self, module: Module, changed: bool) -> None:
        """
        Make tensors and attributes what they were found to be.

        Args:
            module (Module): The module.
            changed (bool): Whether a buffer differs; else only objects are exchanged.
        """
        now = _own_tensors(module)
        if changed:
            for name in now.keys() - self.found.keys() - self.lazy:
                delattr(module, name)
            plain = (bool, int, float, str, Tensor, type(None))
            found = self.attributes.items()
            vars(module).update({k: v for k, v in found if isinstance(v, plain)})
        for name, (tensor, _, copy) in self.found.items():
            if now.get(name) is not tensor:
                setattr(module, name, tensor)
            if changed and tensor is not None and copy is not None:
                if tensor.shape != copy.shape:
                    tensor.resize_(copy.shape)
                if not _is_equal(tensor, copy):
                    tensor.copy_(copy)
            self.found[name] = (tensor, version_of(tensor), copy)

    def _differs(self, name: str, now: dict[str, Tensor | None], closely: bool) -> bool:
        if name not in now or name not in self.found:
            return True
        tensor, version, copy = self.found[name]
        same = now[name] is tensor and version_of(tensor) == version
        if same and (not closely or copy is None):
            return False
        equal = _is_equal(now[name], copy)
        return not same if equal is None else not equal


def _own_tensors(module: Module) -> dict[str, Tensor | None]:
    """A module's own parameters and buffers, which are not still to be initialized."""
    parameters, buffers = _registered(module)
    tensors = {**parameters, **buffers}
    # `is_lazy` takes ten times as long.
    lazy = [name for name, t in tensors.items() if type(t) in _LAZY]
    for name in lazy:
        del tensors[name]
    return tensors


_MISSING = (torch.empty(0), -1, None)
_LAZY = (UninitializedBuffer, UninitializedParameter)


def _registered(
    module: Module,
) -> tuple[Mapping[str, Tensor | None], Mapping[str, Tensor | None]]:
    """A module's own parameters and buffers; of a scripted one the buffers alone."""
    if isinstance(module, ScriptModule):
        return {}, dict(module.named_buffers(recurse=False))
    # `named_buffers` takes ten times as long.
    return module._parameters, module._buffers


def version_of(tensor: Tensor | None) -> int:
    """How often a tensor was written to, as far as PyTorch counts that."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _copy(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or tensor.numel() > _LARGE:
        return None
    return tensor.detach().clone()


def _is_equal(one: Tensor | None, other: Tensor | None) -> bool | None:
    """Whether two tensors are equal, NaN to NaN; None for those that do not tell."""
    if one is None or other is None:
        return one is other
    try:
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return torch.equal(one, other) or bool(
            ((one == other) | ((one != one) & (other != other))).all()
        )
    except Exception:  # sparse, nested, on the device "meta", of a transformation ...
        return None


def _is_close(again: Tensor | None, outputs: Tensor, rows: slice = slice(None)) -> bool:
    """Whether rows that ran again gave the same outputs, up to rounding."""
    if again is None:
        return True
    tolerance = torch.finfo(outputs.dtype).eps ** 0.5 * outputs.abs().max()
    # Outputs that are not finite differ from nothing.
    return not bool(((again - outputs[rows]).abs() > tolerance).any())


def _find_modules(forward_func: Any) -> list[Module]:
    """
    The modules that a model consists of, or that a function refers to.

    A function is searched for what it is bound to, closes over and has as defaults,
    and for the globals that it names; objects for their attributes.
    """
    found: dict[Module, None] = {}
    seen: set[int] = set()
    waiting = [forward_func]
    while waiting and len(seen) < _SEARCHED:
        value = waiting.pop(0)
        if id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Module):
                parts = list(value.modules())
                found.update(dict.fromkeys(parts))
                # Lists of modules that no ModuleList holds.
                own = [p for p in parts if not type(p).__module__.startswith("torch.")]
                held = (item for part in own for item in vars(part).values())
                waiting += [item for item in held if isinstance(item, (list, tuple))]
            else:
                waiting += _parts_of(value)
    return list(found)


def _parts_of(value: Any) -> list[Any]:
    """What a function, a collection or an object refers to."""
    if isinstance(
        value, (str, bytes, int, float, Tensor, type, ModuleType, type(None))
    ):
        return []
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    parts = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # an empty one
                parts.append(cell.cell_contents)
        parts += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return parts + _named_globals(value.__code__, value.__globals__)
    call = getattr_static(type(value), "__call__", None)
    return [*parts, call] if isinstance(call, FunctionType) else parts


def _named_globals(code: CodeType, known: dict[str, Any]) -> list[Any]:
    """The globals that a function names, and the models in modules among them."""
    named = [known[name] for name in code.co_names if name in known]
    for value in list(named):
        if isinstance(value, ModuleType):
            inside = (vars(value).get(name) for name in code.co_names)
            named += [item for item in inside if isinstance(item, Module)]
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return named + [item for part in inner for item in _named_globals(part, known)]


def list_of(noun: str, names: list[str]) -> str:
    return f"{noun}{'s' * (len(names) > 1)} {', '.join(names)}"


class _Eager:
    """How many passes need compiled models to run in Python, and what undoes it."""

    passes = 0
    undo = ExitStack()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled models run in Python: their code takes no hooks once it has run."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with _LOCK:
        if not _Eager.passes:
            _Eager.undo.enter_context(torch.compiler.set_stance("force_eager"))
            _Eager.undo.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", ".*torch.compile.* when there are global")
        _Eager.passes += 1
    try:
        yield
    finally:
        with _LOCK:
            _Eager.passes -= 1
            if not _Eager.passes:
                _Eager.undo.close()
