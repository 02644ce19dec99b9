"""
What a pass must not change in a model, and what makes a model's outputs unsteady.

Knows neither layers nor targets, only that modules run while a pass is under way.
"""

import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import DataParallel, Module, Parameter
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from captum_cams._checks import warn_of_training, warn_of_unsteadiness

# What threads share: modules inside of a pass, and PyTorch's way with compiled code.
_LOCK = threading.Lock()
_UNDER_WAY: dict[Module, "_Buffers"] = {}

# Suspicious passes that are looked at more closely: other threads move generators, too.
_LOOKS = 3


class ModelState:
    """
    The buffers of a model as found, and what is seen of its passes.

    A model that is a function is known by the modules that its first pass runs.

    Args:
        forward_func (Callable): The model or any function of it.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self._is_module = isinstance(forward_func, Module)
        self.names: dict[Module, str] = {}
        if isinstance(forward_func, Module):
            self.names = {part: name for name, part in forward_func.named_modules()}
        self.moved: dict[Module, list[str]] = {}
        """The buffers that passes changed, of each module."""
        self._drew = False  # whether the last pass moved a random generator
        self._found: dict[Module, _Buffers] = {}
        self._passes = self._looks = 0
        self._watched = self._told = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around a forward pass and its backward pass: buffers stay as found."""
        held: list[Module] = []

        def hold(modules: Iterable[Module]) -> None:
            with _LOCK:
                for module in modules:
                    if module._buffers:
                        buffers = _UNDER_WAY.get(module) or self._as_found(module)
                        _UNDER_WAY[module] = buffers
                        buffers.passes += 1
                        held.append(module)

        def meet(module: Module) -> None:
            # The replicas of `DataParallel` run in other threads and share its buffers.
            every = isinstance(module, DataParallel)
            parts = module.modules() if every else (module,)
            new = {part: "" for part in parts if part not in self.names}
            self.names.update(new)
            hold(new)

        first = not self._passes
        before = _generators(first)
        with ExitStack() as stack:
            stack.callback(self._let_go, held)
            hold(self.names)
            if first and not self._is_module:
                stack.enter_context(_on_each_module(meet))
            yield
        self._passes += 1
        self._drew = _generators(first) != before

    def watch(self, rows: int) -> "Watch | None":
        """Watches a forward pass of several rows, the first one alone."""
        if rows == 1 or self._watched:
            return None
        self._watched = True
        return Watch(rows)

    def tell(
        self,
        watch: "Watch | None",
        outputs: Tensor | None,
        run: Callable[[slice], Tensor],
    ) -> None:
        """
        Warn, once, of modules that make the outputs depend on more than their example.

        Args:
            watch (Watch, optional): What watched the last pass.
            outputs (Tensor, optional): Its outputs, (B,), if nothing changed them.
            run (Callable): The outputs of some of its rows once more, which are asked
                for where something is suspicious.
        """
        drew = self._drew
        suspicious = drew or (
            watch is not None and bool(watch.statistics or watch.mixing)
        )
        if self._told or not (self.moved or (suspicious and self._looks < _LOOKS)):
            return
        reasons: list[tuple[Module | None, str]] = [
            (module, f"changes its {_listed('buffer', names)} as it runs")
            for module, names in self.moved.items()
        ]
        if suspicious:
            self._looks += 1
            with _generators_kept():
                definite = drew or (watch is not None and bool(watch.statistics))
                if outputs is None:
                    with self.kept():
                        outputs = run(slice(None))
                reasons += self._look(definite, outputs, run)
        if not reasons:
            return
        self._told = True
        training = {m for m, _ in reasons if m is not None and m.training}
        if training:
            warn_of_training({type(module).__name__ for module in training})
        steady = [(m, reason) for m, reason in reasons if m not in training]
        if steady:
            warn_of_unsteadiness(
                [f"{self._name(module)} {reason}" for module, reason in steady]
            )

    def _look(
        self, definite: bool, outputs: Tensor, run: Callable[[slice], Tensor]
    ) -> list[tuple[Module | None, str]]:
        """
        Modules that draw random numbers or mix the rows of a batch, and how.

        Args:
            definite (bool): Whether something was seen already; else rows are only
                suspected to be mixed, which those that run by themselves confirm.
            outputs (Tensor): Those of the batch, (B,).
            run (Callable): Gives outputs of some of the rows.
        """
        # Of rows that share their largest value, say, one is as it is by itself.
        ends = (slice(len(outputs) - 1, None), slice(1))
        if not definite and all(self._same(run, outputs, row) for row in ends):
            return []
        watch = Watch(len(outputs))
        with watch.naming():
            steady = self._same(run, outputs, slice(None))
        found = {
            "draws random numbers": set() if steady else watch.drawing,
            "takes statistics of the batch": watch.statistics,
            "mixes the rows of a batch": set() if definite else watch.mixing,
        }
        return [
            (module, words) for words, modules in found.items() for module in modules
        ]

    def _same(
        self, run: Callable[[slice], Tensor], outputs: Tensor, rows: slice
    ) -> bool:
        """Whether some rows give the same outputs once more, up to rounding."""
        try:
            with self.kept():
                again = run(rows)
        except Exception:  # a model that fixes its batch does not tell
            return True
        tolerance = torch.finfo(outputs.dtype).eps ** 0.5 * outputs.abs().max()
        return not (
            (again - outputs[rows]).abs() > tolerance
        ).any()  # NaN tells nothing

    def _name(self, module: Module | None) -> str:
        if module is None:
            return "forward_func"
        name = self.names.get(module)
        return f"{type(module).__name__} '{name}'" if name else type(module).__name__

    def _as_found(self, module: Module) -> "_Buffers":
        found = self._found.get(module)
        if found is None or not found.hold_for(module):
            self._found[module] = found = _Buffers(module)
        return found

    def _let_go(self, modules: list[Module]) -> None:
        """Puts buffers back, unless another thread is still inside of the module."""
        with _LOCK, torch.no_grad():
            for module in modules:
                buffers = _UNDER_WAY[module]
                buffers.passes -= 1
                if not buffers.passes:
                    del _UNDER_WAY[module]
                    # Batch normalization changes its statistics, not their versions.
                    closely = (
                        not self._passes or module.training or module in self.moved
                    )
                    moved = buffers.put_back(module, closely)
                    if moved:
                        self.moved[module] = moved


class _Buffers:
    """A module's buffers as found, with their versions and copies."""

    def __init__(self, module: Module) -> None:
        self.passes = 0
        self.found = {
            name: (buffer, _version(buffer), buffer.detach().clone())
            for name, buffer in module._buffers.items()
            if buffer is not None
        }

    def hold_for(self, module: Module) -> bool:
        """Whether the buffers are still those that were found."""
        return all(
            name in self.found
            and self.found[name][0] is buffer
            and self.found[name][1] == _version(buffer)
            for name, buffer in module._buffers.items()
            if buffer is not None
        )

    def put_back(self, module: Module, closely: bool) -> list[str]:
        """
        Undoes what a pass did; returns the names of the buffers that it changed.

        Args:
            module (Module): The module.
            closely (bool): Whether values are compared where versions did not move.
        """
        moved = []
        for name, (buffer, version, copy) in self.found.items():
            now = module._buffers.get(name)
            if now is not buffer:
                if now is None or (now.shape, now.dtype) != (copy.shape, copy.dtype):
                    continue  # a cache that follows its inputs
                setattr(module, name, buffer)
                if not _same(now, copy):
                    moved.append(name)
            if (closely or _version(buffer) != version) and not _same(buffer, copy):
                if buffer.shape != copy.shape:
                    buffer.resize_(copy.shape)
                buffer.copy_(copy)
                moved.append(name)
            self.found[name] = (buffer, _version(buffer), copy)
        return moved


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN being equal to NaN."""
    if one.shape != other.shape or one.device != other.device:
        return False
    return torch.equal(one, other) or bool(
        ((one == other) | ((one != one) & (other != other))).all()
    )


def _generators(every: bool = True) -> list[Any]:
    """The states of PyTorch's random generators, and of all that models draw from."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    found: list[Any] = [state.numpy().tobytes() for state in states]
    if every:
        numpy_state: Any = np.random.get_state()
        found += [random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]]
    return found


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leaves the generators that models draw from as they are."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _listed(noun: str, names: list[str]) -> str:
    return f"{noun}{'s' * (len(names) > 1)} {', '.join(names)}"


def _moves_rows(name: str, dim: int, args: tuple[Any, ...]) -> bool:
    """Whether an operation moves the first axis, or goes along it."""
    if name == "permute":
        return bool(args[0][0] % dim)
    if name == "t":
        return dim == 2
    axes = [axis for arg in args for axis in (arg if isinstance(arg, list) else [arg])]
    along = name in (
        "transpose",
        "flip",
        "roll",
        "sort",
        "cumsum",
        "_softmax",
        "_log_softmax",
    )
    return along and any(type(axis) is int and axis % dim == 0 for axis in axes)


@contextmanager
def _on_each_module(
    before: Callable[[Module], None], after: Callable[[Module], None] | None = None
) -> Iterator[None]:
    """Calls a function before, and one after, each module that this thread runs."""
    here = threading.get_ident()

    def enter(module: Module, _: Any) -> None:
        if threading.get_ident() == here:
            before(module)

    def leave(module: Module, *_: Any) -> None:
        if after is not None and threading.get_ident() == here:
            after(module)

    handles = [register_module_forward_pre_hook(enter)]
    if after is not None:
        handles.append(register_module_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """
    Sees operations that make one value of several rows of a batch.

    Args:
        rows (int): The length of the batch.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = rows
        self.statistics: set[Module | None] = set()
        """Modules that normalize by statistics of the batch."""
        self.mixing: set[Module | None] = set()
        """Modules that join or move rows, which may be right and may mix them up."""
        self.drawing: set[Module | None] = set()
        """Modules that draw random numbers."""
        self._running: list[Module | None] = [None]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        x: Any = args[0] if args else None
        is_tensor = isinstance(x, Tensor) and not isinstance(x, Parameter)
        if self.rows > 1 and is_tensor and x.is_floating_point():
            name = func.overloadpacket.__name__
            batch = x.shape[:1] == (self.rows,)
            if "batch_norm" in name:
                if batch and any(argument is True for argument in args):
                    self.statistics.add(self._running[-1])
            elif self._joins(x, batch, result) or (
                batch and _moves_rows(name, x.dim(), args[1:])
            ):
                self.mixing.add(self._running[-1])
        return result

    def _joins(self, x: Tensor, batch: bool, result: Any) -> bool:
        """Whether what came of x is smaller and no batch any more."""
        results = result if isinstance(result, (tuple, list)) else [result]
        return all(
            isinstance(part, Tensor)
            and part.numel() < x.numel()
            and (part.numel() == 1 or (batch and part.shape[:1] != (self.rows,)))
            for part in results
        )

    @contextmanager
    def naming(self) -> Iterator[None]:
        """With the modules that do so, which slows each of them down."""
        states = _generators()

        def turn() -> None:
            nonlocal states
            now = _generators()
            if now != states:
                self.drawing.add(self._running[-1])
            states = now

        def enter(module: Module) -> None:
            turn()
            self._running.append(module)

        def leave(module: Module) -> None:
            turn()
            while self._running.pop() is not module:
                pass

        with _on_each_module(enter, leave), self:
            yield
            turn()


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
