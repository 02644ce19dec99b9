"""
Faithfulness: how the model's output follows what a map calls important.

Every function runs the model without a graph, on pictures that show only a part of
the input, and returns values on the inputs' device.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_cams._captum import BaselineType, TargetType
from captum_cams._validation import (
    check_baselines,
    check_callable,
    check_count,
    check_inputs,
    check_maps,
    check_number,
)
from captum_cams.baselines import blurred
from captum_cams.masks import blend, descending_places, min_max
from captum_cams.metrics._metric import metric, only_finite, resized
from captum_cams.target_output import TargetOutput, chunk_rows, outputs_in_chunks

_Rows = Callable[[int, int], tuple[tuple[Tensor, ...], Tensor]]


@metric(higher_is_better=False)
def average_drop(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    top_fraction: float | None = None,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Drop of confidence on the explanation map, relative to the input's; lower is better.

    .. math::
        \frac{\max(0, Y - O)}{Y}, \qquad
        O = f(x \odot m + \mathrm{baseline} \odot (1 - m)), \quad Y = f(x)

    with m the map, upsampled to the input and scaled to [0, 1] (RSI-Grad-CAM, eq. 27
    and section 3.4.2), or 1 in its largest pixels alone (Integrated Grad-CAM, eq. 7
    and section 4.2.2, with ``top_fraction=0.15``). Values are one for each example;
    the papers' number is their mean.

    Values lie in [0, 1] where the outputs are not negative. A zero or constant map has
    m = 0, or the first pixels as they are read with `top_fraction`. NaN comes back for
    a map with NaN or infinity, and where Y is 0 or below: there is no share of it.

    Sources: M. Lucas et al., "RSI-Grad-CAM", https://arxiv.org/abs/2205.10900;
    S. Sattarzadeh et al., "Integrated Grad-CAM", https://arxiv.org/abs/2102.07805

    Args:
        forward_func (Callable): The model or any function of it. Its target output
            should be a confidence, e.g. behind a softmax.
        inputs (Tensor or tuple of Tensor): Examples, (N, C, \*spatial), with 1 to 3
            spatial axes. All tensors of a tuple are masked.
        attributions (Tensor or tuple of Tensor): Maps, (N, 1, \*any spatial) or
            (N, \*any spatial), one for each tensor of `inputs`.
        baselines (Tensor, number or tuple, optional): What shows where m is 0.
            Default: None, for 0 in the model's input space. Where inputs are
            normalised pictures that is the mean colour; the papers' product with a
            picture in [0, 1] is had with ``baselines.black(inputs, mean, std)``.
        additional_forward_args (Any, optional): Passed to `forward_func` behind the
            inputs. Tensors with N rows follow their examples.
        target (int, tuple, Tensor or list, optional): Index of the output, one for all
            examples or one for each. Default: None, for one output an example
        top_fraction (float, optional): Share of the pixels in (0, 1], rounded up to
            whole pixels; ties go to pixels that are read first. Default: None
        max_examples_per_batch (int, optional): Most inputs that go through the
            network together, at least 1. Default: None, chosen by device and input
            size

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum.attr import LayerGradCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, (images, labels, _) = shapes_model(), shape_pictures(2)
        >>> maps = LayerGradCam(model, model.block5).attribute(images, labels)
        >>> maps.shape
        torch.Size([2, 1, 4, 4])
        >>> average_drop(model, images, maps, target=labels).shape
        torch.Size([2])
    """
    whole, explained = _confidences(
        _examples(
            forward_func,
            inputs,
            attributions,
            baselines,
            additional_forward_args,
            target,
            max_examples_per_batch,
            torch.zeros_like,
        ),
        top_fraction,
    )
    return torch.where(whole > 0, (whole - explained).clamp(min=0) / whole, torch.nan)


@metric(higher_is_better=True)
def increase_in_confidence(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    top_fraction: float | None = None,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    1 where confidence rises on the explanation map, O > Y, else 0; higher is better.

    Y and O are those of :func:`average_drop` (RSI-Grad-CAM, eq. 28; Integrated
    Grad-CAM, eq. 8, whose sign is read as an indicator). A zero or constant map is
    treated as there; Y = 0 is nothing special. NaN comes back for a map with NaN or
    infinity, and where an output is NaN.

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (Tensor or tuple of Tensor): Examples, (N, C, \*spatial).
        attributions (Tensor or tuple of Tensor): Maps, one for each tensor of `inputs`.
        baselines (Tensor, number or tuple, optional): What shows instead of the
            input. Default: None, for 0
        additional_forward_args (Any, optional): Passed to `forward_func` behind the
            inputs.
        target (int, tuple, Tensor or list, optional): Index of the output.
            Default: None
        top_fraction (float, optional): Share of the pixels in (0, 1]. Default: None
        max_examples_per_batch (int, optional): Most inputs that go through the
            network together. Default: None, chosen by device and input size

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.zeros(2, 1, 8, 8)
        >>> increase_in_confidence(model, pictures.images, maps, target=pictures.labels)
        tensor([0., 0.])
    """
    whole, explained = _confidences(
        _examples(
            forward_func,
            inputs,
            attributions,
            baselines,
            additional_forward_args,
            target,
            max_examples_per_batch,
            torch.zeros_like,
        ),
        top_fraction,
    )
    # Both come from the same places of batches of the same size: where the map hides
    # nothing, rounding cannot tell them apart.
    broken = whole.isnan() | explained.isnan()
    return torch.where(broken, torch.nan, (explained > whole).to(whole))


@metric(higher_is_better=False)
def deletion_curve(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Output while the map's largest pixels are removed, step by step; lower is better.

    After step t = 0 .. n_steps, the floor(t * pixels / n_steps) largest pixels of the
    map, upsampled to the input, show the baseline (Group-CAM, section 4.3, after RISE).
    Equal pixels go as they are read, row by row, so that a zero or constant map is
    read from its first pixel to its last. A map with NaN or infinity gives NaN.
    Values are outputs as they are: in [0, 1] for confidences, zero confidence included.

    Sources: Q. Zhang et al., "Group-CAM", https://arxiv.org/abs/2103.13859;
    V. Petsiuk et al., "RISE", https://arxiv.org/abs/1806.07421

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (Tensor or tuple of Tensor): Examples, (N, C, \*spatial), with 1 to 3
            spatial axes. Each tensor of a tuple loses its own pixels in each step.
        attributions (Tensor or tuple of Tensor): Maps, (N, 1, \*any spatial) or
            (N, \*any spatial), one for each tensor of `inputs`.
        baselines (Tensor, number or tuple, optional): What shows instead of the
            input. Default: None, the input under a Gaussian blur of 51 taps and sigma
            50, which needs sides of 26 pixels (``baselines.blurred(inputs, ...)``
            makes smaller ones; 0 is RISE's choice)
        additional_forward_args (Any, optional): Passed to `forward_func` behind the
            inputs. Tensors with N rows follow their examples.
        target (int, tuple, Tensor or list, optional): Index of the output, one for all
            examples or one for each. Default: None, for one output an example
        n_steps (int): Number of steps, at least 1, with one forward pass each.
            Default: 100
        max_examples_per_batch (int, optional): Most inputs that go through the
            network together, at least 1; steps of all examples are batched together.
            Default: None, chosen by device and input size

    Returns:
        *Tensor*, (N, n_steps + 1), from the input to the baseline.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> curve = deletion_curve(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... )
        >>> curve.shape
        torch.Size([2, 5])
    """
    examples = _examples(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        max_examples_per_batch,
        blurred,
    )
    return _curves(examples, n_steps, [False])[0]


@metric(higher_is_better=True)
def insertion_curve(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Output while the map's largest pixels are shown, step by step; higher is better.

    After step t, the pixels that :func:`deletion_curve` removes show the input, all
    others the baseline (Group-CAM, section 4.3). Zero, constant and broken maps are
    treated as there.

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (Tensor or tuple of Tensor): Examples, (N, C, \*spatial).
        attributions (Tensor or tuple of Tensor): Maps, one for each tensor of `inputs`.
        baselines (Tensor, number or tuple, optional): What shows instead of the
            input. Default: None, for the blurred input
        additional_forward_args (Any, optional): Passed to `forward_func` behind the
            inputs.
        target (int, tuple, Tensor or list, optional): Index of the output.
            Default: None
        n_steps (int): Number of steps, at least 1. Default: 100
        max_examples_per_batch (int, optional): Most inputs that go through the
            network together. Default: None, chosen by device and input size

    Returns:
        *Tensor*, (N, n_steps + 1), from the baseline to the input.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> curve = insertion_curve(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... )
        >>> curve[:, -1].round()  # the whole picture
        tensor([1., 1.])
    """
    examples = _examples(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        max_examples_per_batch,
        blurred,
    )
    return _curves(examples, n_steps, [True])[0]


@metric(higher_is_better=False)
def deletion_auc(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Area under the deletion curve; lower is better.

    By the trapezoid rule over equal spacing, on an axis from 0 to 1: a mean of the
    outputs, and in their range (Group-CAM, section 4.3). Zero, constant and broken
    maps are treated as in :func:`deletion_curve`.

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (Tensor or tuple of Tensor): Examples, (N, C, \*spatial).
        attributions (Tensor or tuple of Tensor): Maps, one for each tensor of `inputs`.
        baselines (Tensor, number or tuple, optional): What shows instead of the
            input. Default: None, for the blurred input
        additional_forward_args (Any, optional): Passed to `forward_func` behind the
            inputs.
        target (int, tuple, Tensor or list, optional): Index of the output.
            Default: None
        n_steps (int): Number of steps, at least 1. Default: 100
        max_examples_per_batch (int, optional): Most inputs that go through the
            network together. Default: None, chosen by device and input size

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> deletion_auc(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... ).shape
        torch.Size([2])
    """
    curve = deletion_curve(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        n_steps=n_steps,
        max_examples_per_batch=max_examples_per_batch,
    )
    return _area(curve)


@metric(higher_is_better=True)
def insertion_auc(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Area under the insertion curve; higher is better.

    By the trapezoid rule over equal spacing, on an axis from 0 to 1: a mean of the
    outputs, and in their range (Group-CAM, section 4.3). Zero, constant and broken
    maps are treated as in :func:`deletion_curve`.

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (Tensor or tuple of Tensor): Examples, (N, C, \*spatial).
        attributions (Tensor or tuple of Tensor): Maps, one for each tensor of `inputs`.
        baselines (Tensor, number or tuple, optional): What shows instead of the
            input. Default: None, for the blurred input
        additional_forward_args (Any, optional): Passed to `forward_func` behind the
            inputs.
        target (int, tuple, Tensor or list, optional): Index of the output.
            Default: None
        n_steps (int): Number of steps, at least 1. Default: 100
        max_examples_per_batch (int, optional): Most inputs that go through the
            network together. Default: None, chosen by device and input size

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> insertion_auc(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... ).shape
        torch.Size([2])
    """
    curve = insertion_curve(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        n_steps=n_steps,
        max_examples_per_batch=max_examples_per_batch,
    )
    return _area(curve)


@metric(higher_is_better=True)
def overall(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Insertion less deletion, as areas; higher is better.

    In [-1, 1] for confidences (Group-CAM, section 4.3). Both curves share one order of
    the pixels and one baseline. Zero, constant and broken maps are treated as in
    :func:`deletion_curve`.

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (Tensor or tuple of Tensor): Examples, (N, C, \*spatial).
        attributions (Tensor or tuple of Tensor): Maps, one for each tensor of `inputs`.
        baselines (Tensor, number or tuple, optional): What shows instead of the
            input. Default: None, for the blurred input
        additional_forward_args (Any, optional): Passed to `forward_func` behind the
            inputs.
        target (int, tuple, Tensor or list, optional): Index of the output.
            Default: None
        n_steps (int): Number of steps, at least 1. Default: 100
        max_examples_per_batch (int, optional): Most inputs that go through the
            network together. Default: None, chosen by device and input size

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> overall(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... ).shape
        torch.Size([2])
    """
    examples = _examples(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        max_examples_per_batch,
        blurred,
    )
    deletion, insertion = _curves(examples, n_steps, [False, True])
    return _area(insertion) - _area(deletion)


class _Examples(NamedTuple):
    """Checked arguments: tensors of the tuples have N rows each."""

    inputs: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    output: TargetOutput
    chunk: int

    def outputs(self, rows: _Rows, num_rows: int, chunk: int) -> Tensor:
        """Outputs at `rows`, (num_rows,), on the inputs' device."""
        outputs = outputs_in_chunks(self.output, rows, num_rows, chunk)
        return outputs.to(self.inputs[0].device)

    def only_finite(self, values: Tensor) -> Tensor:
        """NaN for an example with a broken map."""
        for maps in self.maps:
            values = only_finite(values, maps)
        return values


def _examples(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType,
    additional_forward_args: object,
    target: TargetType,
    max_examples_per_batch: int | None,
    default_baseline: Callable[[Tensor], Tensor],
) -> _Examples:
    check_callable("forward_func", forward_func)
    if max_examples_per_batch is not None:
        check_count("max_examples_per_batch", max_examples_per_batch)
    ends = check_inputs(inputs)
    maps = check_maps(attributions, ends)
    if baselines is None:
        starts = tuple(default_baseline(x) for x in ends)
    else:
        starts = check_baselines(baselines, ends)
    output = TargetOutput(forward_func, ends, target, additional_forward_args)
    return _Examples(
        ends, starts, maps, output, chunk_rows(ends, max_examples_per_batch)
    )


def _confidences(
    examples: _Examples, top_fraction: float | None
) -> tuple[Tensor, Tensor]:
    """Y at the inputs and O at the explanation maps, (N,) each."""
    if top_fraction is not None:
        top_fraction = check_number("top_fraction", top_fraction, "(0, 1]", none="")
    N = len(examples.inputs[0])

    def explanation(x: Tensor, baseline: Tensor, maps: Tensor) -> Tensor:
        m = resized(maps, x.shape[2:])  # (B, 1, *input spatial)
        m = min_max(m) if top_fraction is None else _largest(m, top_fraction)
        return blend(x, baseline, m.to(x.dtype))

    def whole(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        return tuple(x[start:stop] for x in examples.inputs), torch.arange(start, stop)

    def explained(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        tensors = zip(examples.inputs, examples.baselines, examples.maps, strict=True)
        return tuple(
            explanation(*(tensor[start:stop] for tensor in of_input))
            for of_input in tensors
        ), torch.arange(start, stop)

    confidence = examples.outputs(whole, N, examples.chunk)
    on_explanation = examples.outputs(explained, N, examples.chunk)
    return confidence, examples.only_finite(on_explanation)


def _largest(maps: Tensor, fraction: float) -> Tensor:
    """True in the largest pixels: ceil(fraction * pixels) of them."""
    # The decimal as it is written: 0.07 * 100 is 7, not 7.000000000000001.
    count = math.ceil(Fraction(str(fraction)) * maps[0].numel())
    return descending_places(maps) < count


def _curves(examples: _Examples, n_steps: int, insertions: list[bool]) -> list[Tensor]:
    """Insertion curves (True) and deletion curves (False), (N, n_steps + 1) each."""
    n_steps = check_count("n_steps", n_steps)
    places = tuple(
        descending_places(resized(maps, x.shape[2:]))  # (N, 1, *input spatial)
        for x, maps in zip(examples.inputs, examples.maps, strict=True)
    )
    N, chunk = len(examples.inputs[0]), examples.chunk
    # A batch holds some steps of some examples: their product fills it.
    together = max(n for n in range(1, min(N, chunk) + 1) if chunk % n == 0)

    def curves(first: int, insertion: bool) -> Tensor:
        here = slice(first, min(first + together, N))
        numbers = torch.arange(N)[here]
        n = len(numbers)

        def rows(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
            step = torch.arange(start // n, stop // n)

            def pictures(x: Tensor, baseline: Tensor, place: Tensor) -> Tensor:
                count = step * place[0].numel() // n_steps
                count = count.view(-1, *[1] * x.dim())  # (p, 1, 1, ...)
                largest = place[here] < count.to(place.device)  # (p, n, 1, *spatial)
                # `blend` by masks of 0 and 1, without the arithmetic.
                shown = torch.where(largest == insertion, x[here], baseline[here])
                return shown.flatten(0, 1)  # (p * n, C, *spatial)

            tensors = zip(examples.inputs, examples.baselines, places, strict=True)
            shown = tuple(pictures(*of_input) for of_input in tensors)
            return shown, numbers.repeat(len(step))

        outputs = examples.outputs(rows, (n_steps + 1) * n, chunk // n * n)
        return outputs.view(n_steps + 1, n).T  # (n, n_steps + 1)

    return [
        examples.only_finite(
            torch.cat([curves(first, insertion) for first in range(0, N, together)])
        )
        for insertion in insertions
    ]


def _area(curves: Tensor) -> Tensor:
    """By the trapezoid rule on an axis from 0 to 1, (N,)."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1), dim=1)  # (N,)
