"""Confidence: how the output changes where the most important part alone is shown."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_cams._captum import BaselineType, TargetType
from captum_cams._validation import check_number
from captum_cams.masks import blend, descending_ranks
from captum_cams.metrics._faithfulness import Examples, check_examples
from captum_cams.metrics._metric import metric, resized
from captum_cams.metrics.stability import scaled


@metric(higher_is_better=False)
def average_drop(  # noqa: PLR0913
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    top_fraction: float | None = None,
    eps: float | None = None,
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
            normalized pictures that is the mean color; the papers' product with a
            picture in [0, 1] is had with ``baselines.black(inputs, mean, std)``.
        additional_forward_args (Any, optional): Passed to `forward_func` behind the
            inputs. Tensors with N rows follow their examples.
        target (int, tuple, Tensor or list, optional): Index of the output, one for all
            examples or one for each. Default: None, for one output an example
        top_fraction (float, optional): Share of the pixels in (0, 1], rounded up to
            whole pixels; ties go to pixels that are read first. Default: None
        eps (float, optional): Scales the map as :func:`normalize` does, which leaves
            one dark whose range is close to `eps`: RSI-Grad-CAM's experiments have 1e-8
            (eq. 26, section 4.3.2). Not with `top_fraction`. Default: None, to all of
            [0, 1]
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
    return confidences(
        check_examples(
            forward_func,
            inputs,
            attributions,
            baselines,
            additional_forward_args,
            target,
            max_examples_per_batch=max_examples_per_batch,
            default_baseline=torch.zeros_like,
        ),
        top_fraction,
        eps,
    ).drop


@metric(higher_is_better=True)
def increase_in_confidence(  # noqa: PLR0913
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    top_fraction: float | None = None,
    eps: float | None = None,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    1 where confidence rises on the explanation map, O > Y, else 0; higher is better.

    Y and O are those of :func:`average_drop` (RSI-Grad-CAM, eq. 28; Integrated
    Grad-CAM, eq. 8, whose sign is read as an indicator). A zero or constant map is
    treated as there; Y = 0 is nothing special. NaN comes back for a map with NaN or
    infinity, and where an output is NaN.

    All arguments are those of :func:`average_drop`.

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
    return confidences(
        check_examples(
            forward_func,
            inputs,
            attributions,
            baselines,
            additional_forward_args,
            target,
            max_examples_per_batch=max_examples_per_batch,
            default_baseline=torch.zeros_like,
        ),
        top_fraction,
        eps,
    ).increase


class Confidences(NamedTuple):
    """
    Outputs at inputs and at explanation maps, of which drop and increase are made.

    Both come from the same rows of batches of one size, so that they are equal to the
    bit where the map hides nothing.
    """

    at_inputs: Tensor  # Y, (N,)
    at_explanations: Tensor  # O, (N,)

    @property
    def drop(self) -> Tensor:
        """Relative to Y, (N,)."""
        y, o = self
        return torch.where(y > 0, (y - o).clamp(min=0) / y, torch.nan)

    @property
    def increase(self) -> Tensor:
        """1 where there is any, (N,)."""
        y, o = self
        return torch.where(y.isnan() | o.isnan(), torch.nan, (o > y).to(y))


def confidences(
    examples: Examples, top_fraction: float | None, eps: float | None
) -> Confidences:
    """At the inputs, and at the explanation maps of :func:`average_drop`."""
    if top_fraction is not None:
        top_fraction = check_number("top_fraction", top_fraction, "(0, 1]", none="")
        if eps is not None:
            raise ValueError(
                "eps must be None with top_fraction, whose pixels are shown as they "
                f"are, got {eps}"
            )
    N = len(examples.inputs[0])

    def explanation(x: Tensor, baseline: Tensor, maps: Tensor) -> Tensor:
        m = resized(maps, x.shape[2:])  # (B, 1, *input spatial)
        m = scaled(m, eps) if top_fraction is None else _largest(m, top_fraction)
        return blend(x, baseline, m.to(x.dtype))

    def inputs(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        return tuple(x[start:stop] for x in examples.inputs), torch.arange(start, stop)

    def explanations(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        tensors = zip(examples.inputs, examples.baselines, examples.maps, strict=True)
        return tuple(
            explanation(*(tensor[start:stop] for tensor in of_input))
            for of_input in tensors
        ), torch.arange(start, stop)

    at_inputs = examples.outputs(inputs, N, examples.batch_size)
    at_explanations = examples.outputs(explanations, N, examples.batch_size)
    return Confidences(at_inputs, examples.nan_where_broken(at_explanations))


def _largest(maps: Tensor, fraction: float) -> Tensor:
    """True in the largest pixels: ceil(fraction * pixels) of them."""
    # The decimal as it is written: 0.07 * 100 is 7, not 7.000000000000001.
    count = math.ceil(Fraction(str(fraction)) * maps[0].numel())
    return descending_ranks(maps) < count
