"""
A model's target output at given points.

A row is one point of one example; the rows of a batch go through the network together.
"""

import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from copy import copy
from functools import partial
from typing import Any, NamedTuple, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from captum_cams._captum import TargetType, run_forward
from captum_cams._nested import describe, find_tensors
from captum_cams._validation import check_count, check_finite, check_target, shape_of
from captum_cams.model_state import ModelState, uncompiled
from captum_cams.module_search import find_modules
from captum_cams.watch import Watch


class _ThreadState(threading.local):
    """What stands for the pass that this thread runs, if any."""

    active_pass: object = None


_CURRENT = _ThreadState()
_MEMORY_ERRORS = (MemoryError, torch.OutOfMemoryError)


def in_own_pass() -> bool:
    """Whether this thread runs a pass itself, and does not help another one."""
    return _CURRENT.active_pass is not None


class TargetOutput:
    """
    The target output y of `forward_func`, one number a row.

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (tuple of Tensor): The examples, of which the number and shapes count.
        target: Any of Captum's forms.
        additional_forward_args (Any): Tensors whose first axis counts the examples
            follow their rows; everything else is passed on as it is.
        output_func (Callable, optional): Applied to the output before the target is
            selected, e.g. a softmax.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        output_func: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if isinstance(forward_func, DistributedDataParallel):
            # It would wait for all processes, and count the passes as training.
            forward_func = forward_func.module
        self.forward_func = forward_func
        self.shapes = [x.shape for x in inputs]
        self.num_examples = inputs[0].shape[0]
        self.target = check_target(target, self.num_examples)
        self.output_func = output_func
        self.arguments: tuple[Any, ...] = (
            additional_forward_args
            if isinstance(additional_forward_args, tuple)
            else (() if additional_forward_args is None else (additional_forward_args,))
        )
        self.state = ModelState(forward_func)
        self._rows: tuple[tuple[Tensor, ...], Tensor] | None = None
        self._y: Tensor | None = None
        self._watch: Watch | None = None
        self._error: Exception | None = None
        self.hook_error: Exception | None = None
        """What a hook of this package raised: no reason to try other batch sizes."""

    def with_output_func(
        self, output_func: Callable[[Tensor], Tensor] | None
    ) -> "TargetOutput":
        """The same with another `output_func`; of the two only one warns."""
        other = copy(self)
        other.output_func = output_func
        return other

    def __call__(self, points: tuple[Tensor, ...], examples: Tensor) -> Tensor:
        """Values of y, (B,), at `points`, whose rows belong to `examples`, (B,)."""
        self._rows = points, examples
        self._watch = self.state.watch(len(examples)) or self._watch
        try:
            y = self._values(points, examples, self._watch)
        except Exception as error:
            if error is not self.hook_error:
                self._error = error
            raise
        self._y = y.detach()
        return y

    def _values(
        self,
        points: tuple[Tensor, ...],
        examples: Tensor,
        watch: AbstractContextManager[Any] | None = None,
    ) -> Tensor:
        points = tuple(x.clone() for x in points)  # models may write to theirs
        arguments = self._gather_arguments(examples)
        with watch or nullcontext():
            output: Any = run_forward(self.forward_func, points, None, arguments)
        if self.output_func is not None:
            output = self.output_func(output)
        target = None if self.target is None else self.target[examples]  # (B, d)
        y = _check_output(output, len(examples), target, self.num_examples)
        return self.select(y, target)

    def select(self, output: Tensor, target: Tensor | None) -> Tensor:
        """The number to explain of each row's output, (B,), at `target`, (B, d)."""
        if target is not None:
            rows = torch.arange(len(output), device=output.device)
            output = output[(rows, *target.to(output.device).unbind(1))]
        return output.reshape(len(output))  # (B,)

    def _gather_arguments(self, examples: Tensor) -> tuple[Any, ...]:
        """The additional arguments, with the rows of the examples."""

        def rows(argument: Any) -> Any:
            follows = isinstance(argument, Tensor) and argument.dim() > 0
            if follows and argument.shape[0] == self.num_examples:
                argument = argument[examples.to(argument.device)]
            # A hook at the layer may set requires_grad on what the caller holds.
            return argument.detach() if isinstance(argument, Tensor) else argument

        return tuple(rows(argument) for argument in self.arguments)

    @contextmanager
    def guarded(self, changed: bool = False) -> Iterator[None]:
        """
        Around a pass, and its backward pass.

        Leaves the model as found, warns where its outputs depend on more than their
        example, and tells where an error comes from the length of the batch.

        Args:
            changed (bool): Whether a hook changes the outputs.
        """
        around, _CURRENT.active_pass = _CURRENT.active_pass, object()
        try:
            with uncompiled():
                with self.state.kept():
                    yield
                if self._rows is not None:
                    y = None if changed else self._y
                    again = partial(self._repeat, *self._rows)
                    self.state.warn(self._watch, y, again)
        except Exception as error:
            if error in (self._error, self.hook_error) and self._rows is not None:
                self._check_form(error, *self._rows)
            if error is self._error and self._rows is not None:
                self._check_fixed_batch(error, *self._rows)
            raise
        finally:
            _CURRENT.active_pass = around
            self._rows = self._y = self._watch = self._error = self.hook_error = None

    def _repeat(
        self,
        points: tuple[Tensor, ...],
        examples: Tensor,
        part: Tensor | slice,
        watch: AbstractContextManager[Any] | None = None,
    ) -> Tensor:
        with torch.no_grad():
            return self._values(tuple(x[part] for x in points), examples[part], watch)

    def _check_form(
        self, error: Exception, points: tuple[Tensor, ...], examples: Tensor
    ) -> None:
        """Raise an error if the model takes the inputs in another form."""

        def fits(points: tuple[Tensor, ...], examples: Tensor) -> bool:
            try:
                arguments = self._gather_arguments(examples)
                with uncompiled(), self.state.kept(), torch.no_grad():
                    output = run_forward(self.forward_func, points, None, arguments)
            except Exception:
                return False
            return isinstance(output, Tensor) and output.shape[:1] == examples.shape

        if isinstance(error, _MEMORY_ERRORS) or fits(points, examples):
            return
        parameters = (
            p for m in find_modules(self.forward_func) for p in m.parameters(False)
        )
        dtypes = {p.dtype for p in parameters if p.is_floating_point()}
        others = [dtype for dtype in dtypes if any(x.dtype != dtype for x in points)]
        shapes = ", ".join(str(tuple(shape)) for shape in self.shapes)
        given = f"got {points[0].dtype} of shape {shapes}"
        for dtype in (None, *others):
            rows = tuple(x.to(dtype or x.dtype) for x in points)
            one = tuple(
                x.new_zeros(1, *shape)  # (1, *input)
                for x, shape in zip(rows, self.shapes, strict=True)
            )
            cast = f".to({dtype})" if dtype else ""
            if dtype and fits(rows, examples):
                raise ValueError(
                    f"inputs must be of the dtype that forward_func takes, {dtype}, "
                    f"{given}; pass inputs{cast}, in the range that it was trained with"
                ) from error
            if fits(one, examples[:1]):
                raise ValueError(
                    "inputs must have a batch dimension in front, as forward_func "
                    f"takes them, {given}; pass inputs{cast}.unsqueeze(0)"
                ) from error

    def _check_fixed_batch(
        self, error: Exception, points: tuple[Tensor, ...], examples: Tensor
    ) -> None:
        """Raise an error that names the batch size if it is to blame."""

        def fails(rows: Tensor | slice) -> bool:
            try:
                with uncompiled(), self.state.kept():
                    self._repeat(points, examples, rows)
            except Exception:
                return True
            return False

        rows, N = len(examples), self.num_examples
        known = rows == N or isinstance(error, _MEMORY_ERRORS)
        if known or not fails(slice(None)):
            return
        batches = torch.arange(-(-rows // N) * N) % rows  # the last one filled up
        if not any(map(fails, torch.split(batches, N))):
            _raise_fixed_batch(rows, N, error)


# For layers whose hooks see the calls of all threads, as `DataParallel` needs them.
_LOCKS: WeakKeyDictionary[Module, "threading.RLock"] = WeakKeyDictionary()
_LOCK_TIMEOUT = 60.0  # seconds
_STILL_LOCKED = (
    "layer has been explained by another thread for a minute, in a model that runs it "
    "in threads of its own; if that forward_func waits for this explanation, explain "
    "another copy of the model"
)


@contextmanager
def hooked(
    output: TargetOutput,
    layers: Sequence[Module],
    hook: Callable[..., Any],
    layer_input: bool = False,
    other_threads: bool = False,
) -> Iterator[None]:
    """
    A hook at layers that sees the passes of this evaluation alone.

    Other threads may run or explain the same layers: hooks sit on the module, not on
    the thread. Nothing waits for them, unless the layers run in threads of their own.

    Args:
        output (TargetOutput): What runs the model, inside of its `guarded`.
        layers (sequence of Module): Where.
        hook (Callable): Called with the layer, and with what PyTorch gives a forward
            hook, or a forward pre-hook.
        layer_input (bool): Whether it is a forward pre-hook.
        other_threads (bool): Whether threads that run no evaluation of their own count.
    """
    own, recorded = _CURRENT.active_pass, torch.is_grad_enabled()

    # `DataParallel` calls hooks with a replica: the layer itself is bound.
    def act(layer: Module, *values: Any) -> Any:
        current = _CURRENT.active_pass
        # A thread without an evaluation may work for this one, but not if it records
        # nothing where this one does.
        helps = (
            other_threads and current is None and torch.is_grad_enabled() >= recorded
        )
        if current is not own and not helps:
            return None
        try:
            return hook(layer, *values)
        except Exception as error:
            output.hook_error = error
            raise

    layers = list(dict.fromkeys(layers))
    with ExitStack() as stack:
        if other_threads:
            for layer in sorted(layers, key=id):  # one order, so that none wait in turn
                lock = _LOCKS.setdefault(layer, threading.RLock())
                if not lock.acquire(timeout=_LOCK_TIMEOUT):
                    raise RuntimeError(_STILL_LOCKED)
                stack.callback(lock.release)
        for layer in layers:
            register: Any = (
                layer.register_forward_pre_hook
                if layer_input
                else layer.register_forward_hook
            )
            stack.callback(register(partial(act, layer)).remove)
        yield


def rows_per_batch(inputs: tuple[Tensor, ...], internal_batch_size: int | None) -> int:
    """
    The number of rows that go through the network together.

    `None` chooses: as many as are about as large as four pictures of 224 x 224 on a
    CPU, where forwards are fastest, and 64 at most; as 32 such pictures on an
    accelerator, and 256 at most.
    """
    if internal_batch_size is not None:
        return check_count("internal_batch_size", internal_batch_size)
    pictures, most = (4, 64) if inputs[0].device.type == "cpu" else (32, 256)
    elements = sum(tensor[0].numel() for tensor in inputs)
    return min(most, max(1, pictures * 3 * 224 * 224 // max(1, elements)))


class Batch(NamedTuple):
    """Some examples, and their baselines where a method has any."""

    examples: Tensor  # (n,)
    inputs: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...] = ()


def batches(
    inputs: tuple[Tensor, ...], batch_size: int, baselines: tuple[Tensor, ...] = ()
) -> Iterator[Batch]:
    """All examples in order, as many at a time as go through the network together."""
    for examples in torch.split(torch.arange(len(inputs[0])), batch_size):
        yield Batch(
            examples,
            tuple(x[examples] for x in inputs),
            tuple(x[examples] for x in baselines),
        )


def outputs_in_batches(
    output: TargetOutput,
    rows: Callable[[int, int], tuple[tuple[Tensor, ...], Tensor]],
    num_rows: int,
    batch_size: int,
    hooks: Callable[[], AbstractContextManager[None]] | None = None,
) -> Tensor:
    """
    The output y at many rows that are made when their turn comes, without a graph.

    Args:
        output (TargetOutput): y.
        rows (Callable): Gives points and examples of the rows from start to stop.
        num_rows (int): Number of rows.
        batch_size (int): Rows that go through the network together.
        hooks (Callable): Sets hooks for a pass, as :func:`hooked` does. Default: None

    Returns:
        *Tensor*, (num_rows,).
    """
    outputs = []
    for start in range(0, num_rows, batch_size):
        with torch.no_grad():
            points, examples = rows(start, min(start + batch_size, num_rows))
            hooked_pass = nullcontext() if hooks is None else hooks()
            with output.guarded(changed=hooks is not None), hooked_pass:
                outputs.append(output(points, examples))
    return torch.cat(outputs)


def output_and_gradient(
    output: TargetOutput, points: Tensor, examples: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`output_and_gradients` of a single input."""
    y, (gradient,) = output_and_gradients(output, (points,), examples)
    return y, gradient


def output_and_gradients(
    output: TargetOutput, points: tuple[Tensor, ...], examples: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output y (B,), and dy/dx in the shapes of `points` x; all are detached."""
    check_recording()
    found: tuple[Tensor | None, ...] = ()
    with output.guarded(), torch.enable_grad():
        points = tuple(x.detach().requires_grad_() for x in points)
        y = output(points, examples)
        if y.requires_grad:
            found = torch.autograd.grad(y.sum(), points, allow_unused=True)
    if all(gradient is None for gradient in found):
        raise ValueError(_NO_INPUT_GRADIENT)
    gradients = tuple(
        torch.zeros_like(x) if gradient is None else gradient
        for x, gradient in zip(points, found, strict=True)
    )
    check_finite("forward_func's output", y, examples)
    for gradient in gradients:
        check_finite("the output's gradients", gradient, examples)
    return y.detach(), gradients


_NO_INPUT_GRADIENT = (
    "forward_func's output must depend on the inputs by operations that autograd "
    "records, but it does not; call the model without torch.no_grad() or .detach()"
)


def _check_output(
    output: object, rows: int, target: Tensor | None, num_examples: int
) -> Tensor:
    """What `forward_func` returned: a tensor with a row an example, and the target."""
    if not isinstance(output, Tensor):
        found = find_tensors(output, "model(*args)")
        # A loss has no row for each example.
        found.sort(key=lambda part: part[1].shape[:1] != (rows,))
        such = f", such as lambda *args: {found[0][0]}" if found else ""
        raise TypeError(
            f"forward_func must return a tensor, got {type(output).__name__}; wrap it "
            f"in a function that returns the scores alone{such} (it holds "
            f"{describe(output)}), or call model.eval() where it is training mode that "
            "adds outputs"
        )
    if output.dim() == 0 and rows == 1:
        output = output.reshape(1)
    if output.dim() == 0 or output.shape[0] != rows:
        raise ValueError(
            f"forward_func must return one row for each of its {rows} examples, got "
            f"shape {shape_of(output)}"
        )
    # For messages: users know their examples, not the rows of a batch.
    shape = str((num_examples, *output.shape[1:]))
    axes = () if target is None else tuple(range(1, 1 + target.shape[1]))
    if len(axes) >= output.dim() or output.shape[1 + len(axes) :].numel() != 1:
        raise ValueError(
            f"target must select one number of each example from an output of shape "
            f"{shape}, got "
            + ("None" if target is None else f"an index into {len(axes)} of its axes")
        )
    if target is not None:
        for axis, indices in zip(axes, target.unbind(1), strict=True):
            size = output.shape[axis]
            outside = (indices < -size) | (indices >= size)
            if outside.any():
                raise ValueError(
                    f"target must lie in [0, {size - 1}] for an output of shape "
                    f"{shape}, got {int(indices[outside][0])}"
                )
    return output


def _raise_fixed_batch(rows: int, examples: int, error: Exception) -> NoReturn:
    """An error that the length of a batch brought about."""
    reason = f"{type(error).__name__}: {error}"
    raise ValueError(
        f"forward_func fails on a batch of {rows} rows, but not on one of {examples}, "
        "as many as there are examples; pass internal_batch_size="
        f"{examples} (of metrics max_examples_per_batch), as the model seems to fix "
        f"its batch ({textwrap.shorten(reason, 200)})"
    ) from error


def check_recording() -> None:
    """A grad mode in which gradients can be had."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "gradients are needed, but torch.inference_mode() is on and records none; "
            "call attribute outside of it, under torch.no_grad() if you like"
        )
