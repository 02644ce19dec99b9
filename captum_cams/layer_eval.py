"""
The only place that runs a model: outputs, activations and gradients at chosen points.

A row is one point of one example; rows are what goes through the network together.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import DataParallel, Module
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from captum_cams._captum import (
    TargetType,
    compute_layer_gradients_and_eval,
    forward_layer,
    run_forward,
)
from captum_cams._checks import (
    check_count,
    check_finite,
    check_layer_tensors,
    check_output,
    check_recording,
    check_target,
    check_transformed,
    warn_of_axes,
    warn_of_training,
    warn_of_zeros,
)
from captum_cams.path import Path

Transform = Callable[[Tensor], Tensor]

# Hooks sit on the module, not on the thread: two walks at once would mix their tensors.
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def alone(output: "TargetOutput") -> Iterator[None]:
    """
    One evaluation at a time, which leaves buffers as found.

    Modules in training mode change theirs as they run (BatchNorm's statistics), which
    brings one warning. Which modules `forward_func` runs is seen by a hook on all. It
    slows each of them down: where the first evaluation met none in training mode, and
    the model has none, the others do without.
    """
    found: dict[Module, dict[str, Tensor]] = {}
    here = threading.get_ident()

    def keep(module: Module, _: Any) -> None:
        if threading.get_ident() != here:  # somebody else's, which may be in training
            return
        # The replicas of `DataParallel`, which run in other threads, share its buffers.
        every = isinstance(module, DataParallel)
        for part in module.modules() if every else (module,):
            if part.training and part not in found:
                buffers = part.named_buffers(recurse=False)
                found[part] = {name: buffer.clone() for name, buffer in buffers}

    unsteady: set[str] = set()
    with _ONE_AT_A_TIME, _uncompiled():
        handle = None if output.steady else register_module_forward_pre_hook(keep)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()
            with torch.no_grad():
                for module, buffers in found.items():
                    if _is_random(module):
                        unsteady.add(type(module).__name__)
                    for name, buffer in buffers.items():
                        now = module.get_buffer(name)
                        if not torch.equal(now, buffer):
                            unsteady.add(type(module).__name__)
                            now.copy_(buffer)
    output.steady = not found and not output.trains
    output.tell_of_training(unsteady)


def _is_random(module: Module) -> bool:
    """Whether a module draws random numbers in training mode, judged by its name."""
    names = ("Dropout", "StochasticDepth", "DropPath", "RReLU")
    named = any(name in type(module).__name__ for name in names)
    within: Any = getattr(module, "dropout", 0)  # of attention and recurrent modules
    return (named and getattr(module, "p", None) != 0) or (
        isinstance(within, float) and within > 0
    )


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Compiled models run in Python: their code takes no hooks once it has run."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.compile.* when there are global")
        yield


class Evaluation(NamedTuple):
    """
    A layer and the output at some rows. Tensors are detached.

    One tensor for each tensor of each layer: `activations` A and `gradients` dy/dA of
    shape (B, K, *spatial); `outputs` y of shape (B,).
    """

    activations: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    outputs: Tensor

    def rows(self, part: slice, copy: bool = False) -> "Evaluation":
        """Some of the rows, as views of all or as copies that set all free."""

        def take(tensor: Tensor) -> Tensor:
            return tensor[part].clone() if copy else tensor[part]

        return Evaluation(
            tuple(map(take, self.activations)),
            tuple(map(take, self.gradients)),
            take(self.outputs),
        )


class TargetOutput:
    """
    The target output y of `forward_func`, one number a row.

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (tuple of Tensor): The examples, for their number.
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
        self.told: set[str] = set()  # modules that have been warned of
        self.steady = False  # whether no module is known to be in training mode

    def through(self, output_func: Callable[[Tensor], Tensor] | None) -> "TargetOutput":
        """The same output with another function between; both warn but once."""
        other = copy(self)
        other.output_func = output_func
        return other

    @property
    def trains(self) -> bool:
        """Whether the model, where it is one, has a part in training mode."""
        model = self.forward_func
        parts = model.modules() if isinstance(model, Module) else ()
        return any(part.training for part in parts)

    def tell_of_training(self, modules: set[str]) -> None:
        """Warn, once, of modules in training mode."""
        if modules and not self.told:
            self.told.update(modules)
            warn_of_training(modules)

    def __call__(self, points: tuple[Tensor, ...], examples: Tensor) -> Tensor:
        """Values of y, (B,), at `points`, whose rows belong to `examples`, (B,)."""
        points = tuple(x.clone() for x in points)  # models may write to theirs
        output: Any = run_forward(self.forward_func, points, None, self._rows(examples))
        if self.output_func is not None:
            output = self.output_func(output)
        target = None if self.target is None else self.target[examples]  # (B, d)
        y = check_output(output, len(examples), target)
        if target is not None:
            rows = torch.arange(len(examples), device=y.device)
            y = y[(rows, *target.to(y.device).unbind(1))]
        return y.reshape(len(examples))  # (B,)

    def _rows(self, examples: Tensor) -> tuple[Any, ...]:
        def rows(argument: Any) -> Any:
            follows = isinstance(argument, Tensor) and argument.dim() > 0
            if follows and argument.shape[0] == self.num_examples:
                argument = argument[examples.to(argument.device)]
            # Captum's hook would set requires_grad on what the caller holds.
            return argument.detach() if isinstance(argument, Tensor) else argument

        return tuple(rows(argument) for argument in self.arguments)


class LayerEvaluator:
    """
    Activations of layers and gradients of y with respect to them.

    The part of the network before the first of the layers records no autograd graph:
    recording is switched on by a hook on the layer itself.

    Args:
        output (TargetOutput): y.
        layer (Module or list of Module): The layers.
        device_ids (list of int, optional): As in Captum, for `DataParallel`.
        attribute_to_layer_input (bool): Whether A is a layer's input or its output.
        grad_kwargs (dict, optional): Passed to `torch.autograd.grad`.
        reshape_transform (Callable, optional): Linear; applied to each tensor of A and
            of dy/dA.
    """

    def __init__(
        self,
        output: TargetOutput,
        layer: Module | list[Module],
        device_ids: list[int] | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        reshape_transform: Transform | None = None,
    ) -> None:
        self.output = output
        self.layers = layer if isinstance(layer, list) else [layer]
        self.device_ids = device_ids
        self.attribute_to_layer_input = attribute_to_layer_input
        self.grad_kwargs = grad_kwargs
        self.reshape_transform = reshape_transform
        self.sizes: list[int] = []
        self.shapes: list[torch.Size] = []
        self.silent = torch.ones(output.num_examples, dtype=torch.bool)

    def __call__(self, points: tuple[Tensor, ...], examples: Tensor) -> Evaluation:
        """A, dy/dA and y at `points`, whose rows belong to `examples` (B,)."""
        check_recording()
        outputs: list[Tensor] = []

        def forward(*points: Tensor) -> Tensor:
            with torch.set_grad_enabled(self._gathers_elsewhere):
                output = self.output(points, examples)
            if not reached.issuperset(self.layers):
                raise ValueError(_UNREACHED)
            if not output.requires_grad:
                # The model sets its own grad mode behind the layer: record it all.
                output = self.output(points, examples)
            if not output.requires_grad:
                raise ValueError(_INDEPENDENT)
            outputs.append(output.detach())
            return output

        with alone(self.output), _Hooks(self, record=True) as reached:
            try:
                gradients, activations = compute_layer_gradients_and_eval(
                    forward,
                    self.layers,
                    points,
                    device_ids=self.device_ids or self._device_ids,
                    attribute_to_layer_input=self.attribute_to_layer_input,
                    grad_kwargs=self.grad_kwargs,
                )
            except RuntimeError as error:
                if "appears to not have been used in the graph" in str(error):
                    raise ValueError(_INDEPENDENT) from error
                raise
        layer = self._flat(activations, examples)
        check_finite("forward_func's output", outputs[0], examples)
        slopes = self._flat(gradients)
        for gradient in slopes:
            check_finite("the output's gradients", gradient, examples)
        if self.silent[examples].any():
            for gradient in slopes:
                self.hear(examples, (gradient != 0).flatten(1).any(1))
        return Evaluation(layer, slopes, outputs[0])

    def activations(
        self, points: tuple[Tensor, ...], examples: Tensor
    ) -> tuple[Tensor, ...]:
        """A alone, without a backward pass."""

        def forward(*points: Tensor) -> Tensor:
            output = self.output(points, examples)
            if not reached.issuperset(self.layers):
                raise ValueError(_UNREACHED)
            return output

        with alone(self.output), _Hooks(self, record=False) as reached:
            activations = forward_layer(
                forward,
                points,
                self.layers,
                device_ids=self.device_ids or self._device_ids,
                attribute_to_layer_input=self.attribute_to_layer_input,
            )
        return self._flat(activations, examples)

    def hear(self, examples: Tensor, moved: Tensor) -> None:
        """Note for which examples, (B,), the layer moved the output, (B,)."""
        self.silent[examples[moved.cpu()]] = False

    def tell(self, silence: str | None = None) -> None:
        """Warn, once all is done, of what makes maps wrong or 0."""
        axes = {len(shape) for shape in self.output.shapes if len(shape) > 2}
        odd = [s for s in self.shapes if axes and len(s) > 2 and len(s) not in axes]
        if odd and self.reshape_transform is None:
            warn_of_axes(odd[0], self.output.shapes)
        if self.silent.any():
            examples = self.silent.nonzero().flatten().tolist()
            warn_of_zeros(examples, silence or _SILENT)

    def by_layer(self, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """The layers' tensors, which methods see in one row, a tuple for each layer."""
        rest = iter(tensors)
        return [tuple(islice(rest, size)) for size in self.sizes]

    def _flat(
        self, layers: list[tuple[Tensor, ...]], examples: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        self.sizes = [len(layer) for layer in layers]
        tensors = tuple(
            self._transformed(tensor.detach()) for layer in layers for tensor in layer
        )
        self.shapes = [tensor.shape for tensor in tensors]
        if examples is not None:
            for tensor in tensors:
                if tensor.shape[0] != len(examples):
                    raise ValueError(
                        "layer must give one row for each of its "
                        f"{len(examples)} examples, got shape {tuple(tensor.shape)}"
                    )
                check_finite("the layer's activations", tensor, examples)
        return tensors

    def _transformed(self, tensor: Tensor) -> Tensor:
        if self.reshape_transform is None:
            return tensor
        return check_transformed(self.reshape_transform(tensor), tensor)

    @property
    def _gathers_elsewhere(self) -> bool:
        """`DataParallel` gathers outputs outside the thread whose mode the hook set."""
        return isinstance(self.output.forward_func, DataParallel) or bool(
            self.device_ids and len(self.device_ids) > 1
        )

    @property
    def _device_ids(self) -> list[int] | None:
        return getattr(self.output.forward_func, "device_ids", None)


_UNREACHED = (
    "layer must be used by forward_func, but the forward pass did not reach it; pass a "
    "module of this very model, which must be neither traced nor exported"
)
_INDEPENDENT = (
    "forward_func's target output must depend on every tensor of the layer by "
    "operations that autograd records, but it does not; choose a layer on the way to "
    "the output, or pass grad_kwargs={'materialize_grads': True} for zero gradients"
)
_SILENT = (
    "the output's gradients at the layer are all 0 (the output is saturated, units are "
    "dead, or it does not depend on this part of the layer)"
)
_BLIND = (
    "forward_func's output must depend on the inputs by operations that autograd "
    "records, but it does not; call the model without torch.no_grad() or .detach()"
)


class _Hooks:
    """Hooks that run before Captum's: they check, and start recording at the layer."""

    def __init__(self, evaluator: LayerEvaluator, record: bool) -> None:
        self.evaluator = evaluator
        self.record = record

    def __enter__(self) -> set[Module]:
        reached: set[Module] = set()

        # `DataParallel` calls hooks with a replica: the layer itself is bound.
        def hook(layer: Module, _: Module, inputs: Any, outputs: Any = None) -> None:
            tensors = inputs if self.evaluator.attribute_to_layer_input else outputs
            check_layer_tensors(
                tensors if isinstance(tensors, (tuple, list)) else (tensors,)
            )
            reached.add(layer)
            if self.record:
                torch.set_grad_enabled(True)

        self.handles = [
            layer.register_forward_pre_hook(partial(hook, layer))
            if self.evaluator.attribute_to_layer_input
            else layer.register_forward_hook(partial(hook, layer))
            for layer in self.evaluator.layers
        ]
        return reached

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def chunk_rows(inputs: tuple[Tensor, ...], internal_batch_size: int | None) -> int:
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


def outputs_in_chunks(
    output: TargetOutput,
    rows: Callable[[int, int], tuple[tuple[Tensor, ...], Tensor]],
    num_rows: int,
    chunk: int,
) -> Tensor:
    """
    The output y at many rows that are made when their turn comes, without a graph.

    Args:
        output (TargetOutput): y.
        rows (Callable): Gives points and examples of the rows from start to stop.
        num_rows (int): Number of rows.
        chunk (int): Rows that go through the network together.

    Returns:
        *Tensor*, (num_rows,).
    """
    with alone(output), torch.no_grad():
        return torch.cat(
            [
                output(*rows(start, min(start + chunk, num_rows)))
                for start in range(0, num_rows, chunk)
            ]
        )


def output_and_gradient(
    output: TargetOutput, points: Tensor, examples: Tensor
) -> tuple[Tensor, Tensor]:
    """The output y (B,), and dy/dx in the shape of `points` x; both are detached."""
    check_recording()
    with alone(output), torch.enable_grad():
        points = points.detach().requires_grad_()
        y = output((points,), examples)
        gradient = None
        if y.requires_grad:
            (gradient,) = torch.autograd.grad(y.sum(), points, allow_unused=True)
    if gradient is None:
        raise ValueError(_BLIND)
    check_finite("forward_func's output", y, examples)
    check_finite("the output's gradients", gradient, examples)
    return y.detach(), gradient


class Walk(NamedTuple):
    """A path of n examples: its places, and an evaluation of all n at each."""

    examples: Sequence[int]
    alphas: Sequence[float]
    points: Iterator[Evaluation]


def along(
    evaluator: LayerEvaluator,
    path: Path,
    inputs: tuple[Tensor, ...],
    baselines: tuple[Tensor, ...],
) -> Callable[[Tensor, Tensor], Evaluation]:
    """The layer at places alpha (B,) of the paths of examples (B,)."""

    def evaluate(alphas: Tensor, examples: Tensor) -> Evaluation:
        points = tuple(
            path(_of(end, examples), _of(start, examples), alphas.to(end))
            for end, start in zip(inputs, baselines, strict=True)
        )
        return evaluator(points, examples)

    return evaluate


def _of(tensor: Tensor, examples: Tensor) -> Tensor:
    """The rows of some examples; those of one alone take no memory."""
    first = int(examples[0])
    if (examples == first).all():
        return tensor[first].expand(len(examples), *tensor.shape[1:])
    return tensor[examples]


def walks(
    evaluate: Callable[[Tensor, Tensor], Evaluation],
    num_examples: int,
    alphas: Sequence[float],
    chunk: int,
    show_progress: bool = False,
) -> Iterator[Walk]:
    """
    Walks from the baselines to the inputs, a few examples at a time.

    Points are evaluated once each, as many together as the batch allows; only the
    chunk that is under way is held, so that memory grows neither with the number of
    points nor with the number of examples.

    Args:
        evaluate (Callable): As :func:`along` gives it.
        num_examples (int): N.
        alphas (sequence of float): Places on the path, ascending.
        chunk (int): Rows that go through the network together.
        show_progress (bool): Whether a bar counts the points.

    Yields:
        *Walk* of some examples. It must be used up before the next is asked for.
    """
    together = _examples_together(num_examples, len(alphas), chunk)

    def walk(examples: Tensor, bar: Any) -> Iterator[Evaluation]:
        n, steps = len(examples), max(1, chunk // len(examples))
        for start in range(0, len(alphas), steps):
            here = torch.tensor(alphas[start : start + steps], dtype=torch.float64)
            rows = examples.repeat(len(here))  # (p * n,), the rows of a point together
            evaluation = evaluate(here.repeat_interleave(n), rows)
            for point in range(len(here)):
                part = slice(point * n, (point + 1) * n)
                bar.update(n)
                # These points outlive their chunk: copies set the chunk free.
                ends = start + point == 0 or point == len(here) - 1
                yield evaluation.rows(part, copy=ends)
            del evaluation

    with tqdm(
        total=num_examples * len(alphas), disable=not show_progress, unit="point"
    ) as bar:
        for examples in torch.split(torch.arange(num_examples), together):
            yield Walk(examples.tolist(), alphas, walk(examples, bar))


def _examples_together(num_examples: int, points: int, chunk: int) -> int:
    """The number of examples that walk together in the fewest chunks."""

    def chunks(together: int) -> int:
        return -(-num_examples // together) * -(-points // (chunk // together))

    return min(range(1, min(num_examples, chunk) + 1), key=chunks)
