"""
What a pass must not change in a model, and why a model's outputs may vary.

Knows neither layers nor targets, only that modules run during a pass.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.jit import ScriptModule
from torch.nn import Module
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from captum_cams._validation import warn
from captum_cams.module_search import find_modules
from captum_cams.watch import Watch, generators, generators_kept

# Shared by all threads: the modules that a pass is running, and what guards them.
_LOCK = threading.Lock()
_RUNNING: dict[Module, "_ModuleState"] = {}

# Passes of a model that are repeated because something looked suspicious. It may be
# nothing: other threads move the random generators, too.
_MAX_CHECKS = 3
# Elements of a buffer. A larger one is not copied: if it changes, it is named in the
# warning, but not put back.
_MAX_COPIED = 2**24

_Reasons = list[tuple[Module | None, str]]
_Run = Callable[[slice, AbstractContextManager[Any] | None], Tensor]


class ModelState:
    """
    A model's state as found, and what was observed in its passes.

    Args:
        forward_func (Callable): The model, or a function that refers to its modules.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self._root = forward_func if isinstance(forward_func, Module) else None
        self._modules = find_modules(forward_func)
        self._states: dict[Module, _ModuleState] = {}
        self._changed: dict[Module, list[str]] = {}  # buffers that passes changed
        self._drew = False  # whether the last pass moved a random generator
        self._passes = self._checks = 0
        self._watched = self._warned = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around a forward pass and its backward pass: buffers stay as found."""
        first = not self._passes
        entered: list[Module] = []
        try:
            with _LOCK:
                for module in self._modules:
                    if _registered(module)[1]:
                        state = _RUNNING.get(module) or self._as_found(module)
                        _RUNNING[module] = state
                        state.passes += 1
                        entered.append(module)
            before = generators(first)
            yield
        finally:
            with _LOCK, torch.no_grad(), ExitStack() as stack:
                for module in reversed(entered):
                    # Callbacks run for all modules, even if one of them raises.
                    stack.callback(self._leave, module)
        self._passes += 1
        self._drew = generators(first) != before

    def watch(self, rows: int) -> Watch | None:
        """Watches a forward pass of several rows, the first one alone."""
        if rows == 1 or self._watched:
            return None
        self._watched = True
        return Watch(rows)

    def warn(self, watch: Watch | None, outputs: Tensor | None, run: _Run) -> None:
        """
        Warn, once, of modules that make the outputs depend on more than their example.

        Args:
            watch (Watch, optional): What watched the last pass.
            outputs (Tensor, optional): Its outputs, (B,), if no hook changed them.
            run (Callable): The outputs of some of its rows once more, in a context
                that may watch the model; called where something is suspicious.
        """
        if self._warned:
            return
        reasons: _Reasons = []
        for module, names in self._changed.items():
            buffers = f"buffer{'s' * (len(names) > 1)} {', '.join(names)}"
            reasons.append((module, f"changes its {buffers} as it runs"))
        reasons += self._check(watch, outputs, run)
        training = {m for m, _ in reasons if m is not None and m.training}
        if training:
            _warn_of_training({type(module).__name__ for module in training})
        others = [
            f"{self.name(module)} {reason}"
            for module, reason in reasons
            if module not in training
        ]
        if others:
            _warn_of_varying_outputs(others)
        self._warned = bool(reasons)

    def name(self, module: Module | None) -> str:
        """A module in words: its class, and its name in the model."""
        if module is None:
            return "forward_func"
        parts = self._root.named_modules() if self._root is not None else ()
        name = next((name for name, part in parts if part is module), "")
        return f"{type(module).__name__} '{name}'" if name else type(module).__name__

    def _check(
        self, watch: Watch | None, outputs: Tensor | None, run: _Run
    ) -> _Reasons:
        """Modules that draw random numbers or mix the rows of a batch, and how."""
        varies, may_mix = self._drew, False
        if watch is not None:
            varies |= bool(watch.statistics or watch.drawing)
            may_mix = bool(watch.mixing)
        if not (varies or may_mix) or self._checks == _MAX_CHECKS:
            return []
        self._checks += 1
        with generators_kept():
            batch = self._run(run, slice(None)) if outputs is None else outputs
            if batch is None:
                return []
            # Two rows are compared: where rows share their largest value, one of them
            # may be unchanged by chance.
            rows = (slice(len(batch) - 1, None), slice(1))
            if not varies and all(
                _is_close(self._run(run, row), batch, row) for row in rows
            ):
                return []
            watch = Watch(len(batch))
            again = self._run(run, slice(None), watch.by_module())
        moved = set() if _is_close(again, batch) else watch.moving
        found = {
            "draws random numbers": watch.drawing or moved,
            "takes statistics of the batch": watch.statistics,
            "mixes the rows of a batch": set() if varies else watch.mixing,
        }
        return [
            (module, words) for words, modules in found.items() for module in modules
        ]

    def _run(
        self, run: _Run, rows: slice, watch: AbstractContextManager[Any] | None = None
    ) -> Tensor | None:
        """The outputs of some rows once more; None from a model that fails on them."""
        try:
            with self.kept():
                return run(rows, watch)
        except Exception:
            return None

    def _as_found(self, module: Module) -> "_ModuleState":
        state = self._states.get(module)
        if state is None or not state.is_unchanged(module):
            self._states[module] = state = _ModuleState(module)
        state.attributes = dict(vars(module))
        return state

    def _leave(self, module: Module) -> None:
        """Undo what a pass did, unless another pass is still inside of the module."""
        state = _RUNNING[module]
        state.passes -= 1
        last = not state.passes
        if last:
            del _RUNNING[module]
        # Batch normalization changes its statistics, but not their versions.
        by_value = not self._passes or module.training or module in self._changed
        if not by_value and state.is_unchanged(module):
            return
        changed = state.changed_buffers(module, by_value)
        if changed:
            self._changed[module] = changed
        if last:
            state.put_back(module, bool(changed))


class _ModuleState:
    """
    The buffers of a module as found, with its own parameters and attributes.

    Buffers often belong together with these, as a cache with the length that it is
    for: where a pass changes one of the buffers, all are put back.
    """

    def __init__(self, module: Module) -> None:
        self.passes = 0  # of any thread, that are inside of the module
        self.found = {
            name: (tensor, version_of(tensor), _copy(tensor))
            for name, tensor in _own_tensors(module).items()
        }
        parameters, buffers = _registered(module)
        self.parameters = frozenset(parameters)
        self.num_buffers = len(buffers)
        # What a lazy module initializes in its first pass stays.
        self.lazy = {*parameters, *buffers} - self.found.keys()
        self.attributes: dict[str, Any] = {}

    def is_unchanged(self, module: Module) -> bool:
        """Whether the module's buffers are still those that were found."""
        buffers = _registered(module)[1]
        if len(buffers) != self.num_buffers:
            return False
        for name, buffer in buffers.items():
            tensor, version, _ = self.found.get(name, _MISSING)
            if tensor is not buffer or version_of(buffer) != version:
                return False
        return True

    def changed_buffers(self, module: Module, by_value: bool) -> list[str]:
        """
        The names of the buffers that differ from what was found.

        Args:
            module (Module): The module.
            by_value (bool): Whether values are compared where versions are the same.
        """
        now = _own_tensors(module)
        names = (now.keys() | self.found.keys()) - self.lazy - self.parameters
        return sorted(name for name in names if self._differs(name, now, by_value))

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
        with ExitStack() as stack:
            for name in reversed(self.found):
                # Callbacks run for all tensors, even if one of them raises.
                stack.callback(self._put_back, module, name, now.get(name), changed)

    def _put_back(
        self, module: Module, name: str, current: Tensor | None, changed: bool
    ) -> None:
        tensor, _, copy = self.found[name]
        if current is not tensor:
            setattr(module, name, tensor)
        if changed and tensor is not None and copy is not None:
            if tensor.shape != copy.shape:
                tensor.resize_(copy.shape)
            if not _is_equal(tensor, copy):
                tensor.copy_(copy)
        self.found[name] = (tensor, version_of(tensor), copy)

    def _differs(
        self, name: str, now: dict[str, Tensor | None], by_value: bool
    ) -> bool:
        if name not in now or name not in self.found:
            return True
        tensor, version, copy = self.found[name]
        same = now[name] is tensor and version_of(tensor) == version
        if same and (not by_value or copy is None):
            return False
        equal = _is_equal(now[name], copy)
        return not same if equal is None else not equal


def _own_tensors(module: Module) -> dict[str, Tensor | None]:
    """A module's own parameters and buffers, without those still to be initialized."""
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
    if tensor is None or tensor.numel() > _MAX_COPIED:
        return None
    return tensor.detach().clone()


def _is_equal(one: Tensor | None, other: Tensor | None) -> bool | None:
    """Whether two tensors are equal, NaN to NaN; None where they cannot be compared."""
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


def _warn_of_training(modules: Collection[str]) -> None:
    """Modules that compute something else while a model is trained."""
    warn(
        "the model is in training mode, and in it "
        f"{', '.join(sorted(modules))}: its outputs depend on the batch or on chance, "
        "and so do the attributions; call model.eval() first"
    )


def _warn_of_varying_outputs(reasons: Sequence[str]) -> None:
    """Modules in evaluation mode whose outputs depend on more than their example."""
    warn(
        "the outputs may depend on the batch, on chance or on what ran before, and so "
        f"may the attributions, though in evaluation mode: {'; '.join(reasons)} "
        "(buffers are put back); switch that off first, as with "
        "torch.ao.quantization.disable_observer, track_running_stats=True or "
        "dropout(x, p, self.training)"
    )


class _Eager:
    """How many passes run compiled models in Python, and what undoes that."""

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
