"""What can be observed of a pass: random numbers, and rows of a batch that mix."""

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
    """
    The states of random generators, which can be compared.

    Args:
        every (bool): Whether Python's and NumPy's count, too, beside PyTorch's.
            Default: True
    """
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
    """Restores the random generators of PyTorch, Python and NumPy afterwards."""
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
    Notes the modules that combine rows of a batch or draw random numbers.

    Which module runs is known inside of :meth:`by_module` alone; elsewhere None stands
    for all of them.

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
        """Modules that combine or move rows, which is no fault by itself."""
        self.drawing: set[Module | None] = set()
        """Modules that draw from PyTorch's generators."""
        self.moving: set[Module | None] = set()
        """Modules during which a generator moved, perhaps because of another thread."""
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
        # Some operations, such as dropout, draw only if their arguments say so.
        drew = before is not None and not torch.equal(before, torch.get_rng_state())
        if drew or isinstance(kwargs.get("generator"), torch.Generator):
            self.drawing.add(self._running[-1])
        x: Any = args[0] if args else None
        if self.rows > 1 and type(x) is Tensor and x.is_floating_point():
            batch = x.shape[:1] == (self.rows,)
            if known.is_batch_norm:
                # Instance normalization moves the rows into the second axis, and asks
                # for statistics as well.
                by_rows = x.shape[0] % self.rows == 0
                if by_rows and any(argument is True for argument in args):
                    self.statistics.add(self._running[-1])
            elif self._combines_rows(x, batch, result) or (
                batch and _moves_rows(known.name, x.dim(), args[1:])
            ):
                self.mixing.add(self._running[-1])
        return result

    def _combines_rows(self, x: Tensor, batch: bool, result: Any) -> bool:
        """Whether the result of x is smaller, and no longer a batch of rows."""
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
    def by_module(self) -> Iterator[None]:
        """Watches with hooks at all modules, to tell which one does what; slower."""
        thread, states = threading.get_ident(), generators()

        def note_moved_generators() -> None:
            nonlocal states
            now = generators()
            if now != states:
                self.moving.add(self._running[-1])
            states = now

        def enter(module: Module, _: Any) -> None:
            if threading.get_ident() == thread:
                note_moved_generators()
                self._running.append(module)

        def leave(module: Module, *_: Any) -> None:
            if threading.get_ident() == thread:
                note_moved_generators()
                while self._running.pop() is not module:
                    pass

        handles = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave),
        ]
        try:
            with self:
                yield
            note_moved_generators()
        finally:
            for handle in handles:
                handle.remove()


# Operations that may move rows, or combine them along an axis that is an argument.
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
    """Whether an operation moves the first axis, works along it, or indexes it."""
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
