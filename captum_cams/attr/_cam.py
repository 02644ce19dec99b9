"""What all class activation maps here share: the constructor, pooling, combining."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import Any, TypeVar

import torch
from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor
from torch.nn import Module

from captum_cams._captum import BaselineType, TargetType
from captum_cams._validation import (
    check_baselines,
    check_callable,
    check_choice,
    check_device_ids,
    check_finite,
    check_flags,
    check_grad_kwargs,
    check_inputs,
    check_layer,
    check_number,
    check_one_layer,
    check_one_tensor,
    check_range,
    check_transform,
)
from captum_cams.layer_eval import (
    Evaluation,
    LayerEvaluator,
    Walk,
    along,
    walks,
)
from captum_cams.masks import blend, difference, rounding, spatial_axes, upsample
from captum_cams.path import (
    IntervalRule,
    Path,
    checked,
    fitted_weights,
    interval_weights,
    straight_line,
)
from captum_cams.refine import Interval, refine
from captum_cams.reshape import Transform
from captum_cams.target_output import TargetOutput, chunk_rows, outputs_in_chunks

Result = TypeVar("Result")


def precise(tensor: Tensor) -> torch.dtype:
    """The dtype to sum in: at least single precision."""
    return torch.promote_types(tensor.dtype, torch.float32)


def total(maps: Tensor) -> Tensor:
    r"""Sum over the spatial axes, (N, K, \*spatial) to (N, K, 1, ...)."""
    axes = spatial_axes(maps)
    return maps.sum(axes, keepdim=True, dtype=precise(maps)) if axes else maps


def pool(maps: Tensor) -> Tensor:
    r"""Mean over the spatial axes, (N, K, \*spatial) to (N, K, 1, ...)."""
    axes = spatial_axes(maps)
    return maps.mean(axes, keepdim=True, dtype=precise(maps)) if axes else maps


def divide(numerator: Tensor | float, denominator: Tensor, noise: Tensor) -> Tensor:
    """Their quotient, 0 where the denominator is no more than rounding leaves of 0."""
    return torch.where(denominator.abs() <= noise, 0, numerator / denominator)


def combine(weights: Tensor, maps: Tensor, *, relu: bool, summation: bool) -> Tensor:
    r"""
    Weighted feature maps, summed over the channels and rectified.

    Args:
        weights (Tensor): w, (N, K, 1, ...) or of `maps`' shape.
        maps (Tensor): A, (N, K, \*spatial).
        relu (bool): Whether negative values become 0.
        summation (bool): Whether the channels are summed.

    Returns:
        *Tensor* in `maps`' dtype, (N, 1, \*spatial), or `maps`' shape without
        summation.
    """
    weighted = weights * maps
    if summation:
        weighted = weighted.sum(1, keepdim=True)  # (N, 1, *spatial)
    return (weighted.relu() if relu else weighted).to(maps.dtype)


class CamAttribution(LayerAttribution, GradientAttribution):
    r"""
    Base of the class activation maps: a model, and a layer inside it.

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it.
        layer (torch.nn.Module or list of torch.nn.Module): The layer whose
            activations are mapped, or several. Of one that a pass uses more than once
            the last use counts, which brings a warning.
        device_ids (list of int, optional): Needed only where `forward_func` applies a
            `DataParallel` model without being one itself.
        reshape_transform (Callable, optional): Turns what the layer gives, a tensor or
            what holds some, into feature maps (N, K, \*spatial). Gradients come in the
            same form and go the same way, so it must select and rearrange alone.
            :mod:`captum_cams.reshape` holds some. Where it has a
            parameter `input_size`, it is given the input's spatial sides. What comes
            out is compared with the input: a warning tells where the shapes of the two
            do not fit. Default: None, as the layer gives them
    """

    forward_func: Callable[..., Any]
    layer: Any

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Module | list[Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Transform | None = None,
    ) -> None:
        check_callable("forward_func", forward_func)
        check_layer(layer)
        check_device_ids(device_ids)
        check_transform(reshape_transform)
        module: Any = layer  # Captum's type variable knows no union
        LayerAttribution.__init__(self, forward_func, module, device_ids)
        GradientAttribution.__init__(self, forward_func)
        self.reshape_transform = reshape_transform

    def _evaluator(
        self,
        output: TargetOutput,
        attribute_to_layer_input: bool,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> LayerEvaluator:
        """The layer where `output` is asked for."""
        check_flags(attribute_to_layer_input=attribute_to_layer_input)
        check_grad_kwargs(grad_kwargs)
        return LayerEvaluator(
            output,
            self.layer,
            self.device_ids,
            attribute_to_layer_input,
            grad_kwargs,
            self.reshape_transform,
        )

    def _format(self, values: Sequence[Any]) -> Any:
        """One value a layer, in a list where a list of layers was given."""
        return list(values) if isinstance(self.layer, list) else values[0]

    def _format_maps(self, evaluator: LayerEvaluator, maps: Sequence[Tensor]) -> Any:
        """As Captum: a tensor, or a tuple where the layer gives several."""
        layers = evaluator.by_layer([check_range(map_) for map_ in maps])
        evaluator.tell()
        return self._format([maps if len(maps) > 1 else maps[0] for maps in layers])


class OneLayerCamAttribution(CamAttribution):
    """Base of the methods that take no list of layers."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Module,
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Transform | None = None,
    ) -> None:
        check_one_layer(layer)
        super().__init__(
            forward_func, layer, device_ids, reshape_transform=reshape_transform
        )


class PathCamAttribution(CamAttribution):
    """Base of the methods that walk from a baseline to the input."""

    def _walks(
        self,
        sketch: Callable[..., Interval],
        alphas: Sequence[float],
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType,
        target: TargetType,
        additional_forward_args: object,
        n_steps: int,
        internal_batch_size: int | None,
        attribute_to_layer_input: bool,
        grad_kwargs: dict[str, Any] | None,
        tolerance: float | None,
        path: Path,
        show_progress: bool,
    ) -> tuple[LayerEvaluator, Iterator[Walk]]:
        """The layer along the path: at `alphas`, or where a tolerance asks for it."""
        check_callable("path", path, remedy="; captum_cams.path holds some")
        check_flags(show_progress=show_progress)
        if tolerance is not None:
            tolerance = check_number(
                "tolerance",
                tolerance,
                "(0, inf)",
                expected="be finite and above 0",
                none="for equal steps",
            )
        ends = check_inputs(inputs)
        starts = check_baselines(baselines, ends)
        evaluator = self._evaluator(
            TargetOutput(self.forward_func, ends, target, additional_forward_args),
            attribute_to_layer_input,
            grad_kwargs,
        )
        chunk, num_examples = chunk_rows(ends, internal_batch_size), len(ends[0])
        if path is not straight_line:
            path = checked(path, ends, starts, chunk)
        evaluate = along(evaluator, path, ends, starts)
        if tolerance is None:
            return evaluator, walks(
                evaluate, num_examples, alphas, chunk, show_progress
            )

        def points(alphas: Tensor, examples: Tensor) -> list[Evaluation]:
            evaluation = evaluate(alphas, examples)
            # Rows of several examples are not let go together: copies set them free.
            several = bool((examples != examples[0]).any())
            return [
                evaluation.rows(slice(i, i + 1), copy=several)
                for i in range(len(examples))
            ]

        refined = refine(
            points,
            partial(sketch, evaluator),
            num_examples,
            tolerance,
            n_steps,
            chunk,
            # No shorter than what the inputs' dtype can tell apart.
            max(2**-20, *(torch.finfo(end.dtype).eps for end in ends)),
            show_progress,
        )
        return evaluator, (
            Walk([walk.example], walk.alphas, map(walk.points.pop, walk.alphas))
            for walk in refined
        )


def unsqueezed(values: Tensor, like: Tensor) -> Tensor:
    """One value an example, (n,), with as many axes as `like`, (n, 1, 1, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def contributions(
    before: Evaluation, after: Evaluation, positive_gradients: bool = False
) -> list[tuple[Tensor, Tensor]]:
    r"""
    The gradients at the start and the end of an interval, times its growth of A.

    Weighted and summed, they are the interval's part of a Stieltjes integral. One
    pair for each tensor of the layer, (n, K, \*spatial) each.
    """
    pairs = []
    for a0, a1, *gradients in zip(
        before.activations,
        after.activations,
        before.gradients,
        after.gradients,
        strict=True,
    ):
        grown = (a1 - a0).to(precise(a1))
        if positive_gradients:
            gradients = [gradient.relu() for gradient in gradients]
        start, end = (gradient * grown for gradient in gradients)
        pairs.append((start, end))
    return pairs


def end_weights(
    evaluator: LayerEvaluator,
    before: Evaluation,
    after: Evaluation,
    ends: Sequence[tuple[Tensor, Tensor]],
    method: IntervalRule,
) -> list[tuple[Tensor, Tensor]]:
    r"""
    Weights of an interval's start and end, for each tensor of the layer.

    Both have as many axes as the tensor, (n, 1, 1, ...). ``logistic_trapezoid`` looks
    at each layer's :func:`contributions`, the `ends`.
    """
    outputs = before.outputs, after.outputs
    starts, stops = zip(*ends, strict=True)
    pairs = []
    for start, stop in zip(
        evaluator.by_layer(starts), evaluator.by_layer(stops), strict=True
    ):
        if method == "logistic_trapezoid":
            weights = fitted_weights(
                *outputs, _size_and_sum(start), _size_and_sum(stop)
            )
        else:
            weights = interval_weights(method, *outputs)
        w0, w1 = weights
        pairs += [(unsqueezed(w0, unit), unsqueezed(w1, unit)) for unit in start]
    return pairs


def _size_and_sum(units: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """L1 norm and sum over all units of a layer, (n,) each."""
    flat = [unit.flatten(1) for unit in units]  # (n, units)
    sizes = [unit.abs().sum(1) for unit in flat]
    sums = [unit.sum(1) for unit in flat]
    return reduce(torch.add, sizes), reduce(torch.add, sums)


def completeness(
    evaluator: LayerEvaluator, units: Sequence[Tensor], rise: Tensor
) -> list[Tensor]:
    """For each layer, what its unit integrals exceed the output's rise by, (n,)."""
    return [
        torch.stack([integral.flatten(1).sum(1) for integral in layer]).sum(0) - rise
        for layer in evaluator.by_layer(units)
    ]


def sketched(
    evaluator: LayerEvaluator,
    before: Evaluation,
    after: Evaluation,
    maps: Sequence[Tensor],
    disagreements: Sequence[Tensor],
    units: Sequence[Tensor],
    wandering: float = 0.0,
) -> Interval:
    """
    An interval of one example's path, as a refinement takes it.

    Growth and gaps that may be mere rounding are 0.

    Args:
        evaluator (LayerEvaluator): The layers.
        before (Evaluation): The interval's start.
        after (Evaluation): Its end.
        maps (sequence of Tensor): What it adds to each map.
        disagreements (sequence of Tensor): What its end adds more than its start.
        units (sequence of Tensor): Its part of the unit integrals.
        wandering (float): As of :class:`Interval`.
    """
    y0, y1 = before.outputs, after.outputs
    layers = evaluator.by_layer(units)
    gaps = torch.cat(completeness(evaluator, units, y1 - y0))  # (L,)
    sizes = torch.stack(
        [reduce(torch.add, [unit.abs().sum() for unit in layer]) for layer in layers]
    )
    numbers = sizes + torch.maximum(y0.abs(), y1.abs())  # (L,), what makes a gap
    step = max(torch.finfo(t.dtype).eps for t in (y1, *after.activations))
    noise = torch.maximum(rounding(numbers), 2 * step * numbers)
    return Interval(
        tuple(maps),
        tuple(disagreements),
        difference(y1, y0)[0],
        torch.where(gaps.abs() > noise, gaps, 0),
        tuple(torch.cat([total(unit).flatten() for unit in layer]) for layer in layers),
        wandering,
    )


def interval_rule(method: Any, rules: Sequence[str], tolerance: float | None) -> Any:
    """The rule that `method` names, or that fits where it is None."""
    if tolerance is None:
        method = "riemann_trapezoid" if method is None else method
        check_choice("method", method, rules)
    else:
        method = "logistic_trapezoid" if method is None else method
        refinable = ("logistic_trapezoid", "riemann_trapezoid")
        check_choice("method with a tolerance", method, refinable)
    return method


def concatenate(results: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The results of all walks, each put together along the examples."""
    return tuple(map(torch.cat, zip(*results, strict=True)))


def in_order(found: dict[int, Result]) -> list[Result]:
    """What was found by examples, which refined paths finish in no order."""
    return [found[example] for example in sorted(found)]


def only(tensors: tuple[Tensor, ...]) -> Tensor:
    """The one tensor of a layer that must not give several."""
    check_one_tensor(tensors)
    return tensors[0]


def gains(
    confidence: TargetOutput,
    masks: Tensor,
    ends: tuple[Tensor, ...],
    starts: tuple[Tensor, ...],
    examples: Tensor,
    chunk: int,
    bar: Any,
    enlarge: Callable[[Tensor, Sequence[int]], Tensor] = upsample,
) -> Tensor:
    r"""
    Confidence of each masked input less that of its baseline.

    A mask is enlarged when its turn comes. One that is 0 everywhere leaves the
    baseline and gains 0 without a pass. Gains that may be rounding are 0.

    Args:
        confidence (TargetOutput): The output that is to gain.
        masks (Tensor): (n, G, \*layer spatial).
        ends (tuple of Tensor): The n inputs.
        starts (tuple of Tensor): Their baselines.
        examples (Tensor): Which examples they are, (n,).
        chunk (int): Inputs that go through the network together.
        bar (tqdm): Counts the masks and the baselines.
        enlarge (Callable): Makes a mask of an input's spatial size. Default: linear
            interpolation

    Returns:
        *Tensor*, (n, G).
    """
    # An empty mask in the first place makes the baseline one of the blends.
    masks = torch.cat([torch.zeros_like(masks[:, :1]), masks], 1)  # (n, G + 1, ...)
    shown = (masks != 0).flatten(2).any(2).cpu()  # (n, G + 1)
    bar.update(int((~shown[:, 1:]).sum()))
    shown[:, 0] = True
    n, r = shown.nonzero(as_tuple=True)

    def blends(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        rows = n[start:stop]
        here = masks[rows, r[start:stop]].unsqueeze(1)  # (B, 1, ...)
        bar.update(stop - start)
        return tuple(
            blend(x[rows], baseline[rows], enlarge(here, x.shape[2:]).to(x.dtype))
            for x, baseline in zip(ends, starts, strict=True)
        ), examples[rows]

    outputs = outputs_in_chunks(confidence, blends, len(n), chunk)
    check_finite("forward_func's output", outputs, examples[n])
    scores = outputs[r == 0].unsqueeze(1).repeat(1, masks.shape[1])  # (n, G + 1)
    scores[n, r] = outputs
    return difference(scores[:, 1:], scores[:, :1])
