"""What can be seen of a pass: random numbers, and rows of a batch that are joined."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode


def generators(every: bool = True) -> list[Any]:
    """The states of PyTorch's random generators, and of all that models draw from."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    found: list[Any] = [state.numpy().tobytes() for state in states]
    if every:
        numpy_state: Any = np.random.get_state()
        found += [random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]]
    return found


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leaves the generators that models draw from as they are."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class _Operation(NamedTuple):
    """What is known of an operation by itself."""

    name: str
    is_batch_norm: bool
    seeded: bool  # whether it may draw random numbers

    @classmethod
    def of(cls, func: Any) -> "_Operation":
        packet = getattr(func, "overloadpacket", func)
        name = getattr(packet, "__name__", "")
        seeded = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
        return cls(name, "batch_norm" in name, seeded)


_OPERATIONS: dict[Any, _Operation] = {}


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """
    Sees operations that make one value of several rows, or draw random numbers.

    Args:
        rows (int): The length of the batch.
    """

    supports_higher_order_operators = True

    def __init__(self, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = rows
        self.statistics: set[Module | None] = set()
        """Modules that normalize by statistics of the batch."""
        self.mixing: set[Module | None] = set()
        """Modules that join or move rows, which may be right and may mix them up."""
        self.drawing: set[Module | None] = set()
        """Modules that draw from PyTorch's generators."""
        self.moving: set[Module | None] = set()
        """Modules while which some generator moved, perhaps for another thread."""
        self._running: list[Module | None] = [None]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        known = _OPERATIONS.get(func)
        if known is None:
            known = _OPERATIONS[func] = _Operation.of(func)
        before = torch.get_rng_state() if known.seeded else None
        result = func(*args, **kwargs)
        # Some operations can draw, but do so on request alone.
        drew = before is not None and not torch.equal(before, torch.get_rng_state())
        if drew or isinstance(kwargs.get("generator"), torch.Generator):
            self.drawing.add(self._running[-1])
        x: Any = args[0] if args else None
        if self.rows > 1 and type(x) is Tensor and x.is_floating_point():
            batch = x.shape[:1] == (self.rows,)
            if known.is_batch_norm:
                # An instance normalization has all rows in the second axis.
                rows = x.shape[0] % self.rows == 0
                if rows and any(argument is True for argument in args):
                    self.statistics.add(self._running[-1])
            elif self._joins(x, batch, result) or (
                batch and _moves_rows(known.name, x.dim(), args[1:])
            ):
                self.mixing.add(self._running[-1])
        return result

    def _joins(self, x: Tensor, batch: bool, result: Any) -> bool:
        """Whether what came of x is smaller and no batch any more."""
        if isinstance(result, Tensor) and result.shape == x.shape:
            return False
        results = result if isinstance(result, (tuple, list)) else [result]
        return all(
            isinstance(part, Tensor)
            and part.numel() < x.numel()
            and (
                part.numel() == 1
                or (batch and part.shape[:1] != (self.rows,))
                or (batch and part.shape == x.shape[1:])
            )
            for part in results
        )

    @contextmanager
    def naming(self) -> Iterator[None]:
        """With the modules that do so, which slows each of them down."""
        here, states = threading.get_ident(), generators()

        def compare() -> None:
            nonlocal states
            now = generators()
            if now != states:
                self.moving.add(self._running[-1])
            states = now

        def enter(module: Module, _: Any) -> None:
            if threading.get_ident() == here:
                compare()
                self._running.append(module)

        def leave(module: Module, *_: Any) -> None:
            if threading.get_ident() == here:
                compare()
                while self._running.pop() is not module:
                    pass

        handles = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave),
        ]
        try:
            with self:
                yield
            compare()
        finally:
            for handle in handles:
                handle.remove()


# Operations that may move rows, or go along the axis that they are given.
_MOVING = frozenset(
    [
        "permute",
        "t",
        "index",
        "transpose",
        "flip",
        "roll",
        "sort",
        "cumsum",
        "gather",
        "index_select",
        "_softmax",
        "_log_softmax",
    ]
)


def _moves_rows(name: str, dim: int, args: tuple[Any, ...]) -> bool:
    """Whether an operation moves the first axis, goes along it, or picks from it."""
    if name not in _MOVING:
        return False
    if name == "permute":
        return bool(args[0][0] % dim)
    if name == "t":
        return dim == 2
    if name == "index":
        return args[0][0] is not None
    axes = [axis for arg in args for axis in (arg if isinstance(arg, list) else [arg])]
    return any(type(axis) is int and axis % dim == 0 for axis in axes)
