"""What the metrics share: a declared direction, checked maps, resizing, broken maps."""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from captum_cams._captum import log_usage
from captum_cams._numerics import difference, precise
from captum_cams.masks import spatial_axes, upsample

_P = ParamSpec("_P")
_R_co = TypeVar("_R_co", covariant=True)


class Metric(Protocol[_P, _R_co]):
    """A function that declares which direction is better."""

    __name__: str
    higher_is_better: bool

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Values of the metric."""


def metric(
    *, higher_is_better: bool
) -> Callable[[Callable[_P, _R_co]], Metric[_P, _R_co]]:
    """Marks a function as a metric."""

    def decorate(function: Callable[_P, _R_co]) -> Metric[_P, _R_co]:
        logged: Any = log_usage(part_of_slo=True)(function)
        logged.higher_is_better = higher_is_better
        marked: Metric[_P, _R_co] = logged
        return marked

    return decorate


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps upsampled to `size`, (N, 1, *size); constant maps stay exactly constant."""
    axes = spatial_axes(maps)
    low, high = maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)
    # Otherwise rounding errors of the interpolation would be ranked or normalized.
    varied = difference(high, low) > 0  # (N, 1, 1, ...)
    varied |= ~(high - low).isfinite()  # infinity must stay to be seen
    return torch.where(varied, upsample(maps, size), low)  # (N, 1, *size)


def nan_where_broken(values: Tensor, maps: Tensor) -> Tensor:
    """`values`, (N, ...), with NaN for an example whose map holds NaN or infinity."""
    finite = maps.flatten(1).isfinite().all(1)  # (N,)
    finite = finite.view(-1, *[1] * (values.dim() - 1))  # (N, 1, ...)
    return torch.where(finite, values, torch.nan)


def check_any_maps(attributions: object) -> Tensor:
    """Maps of any size: (N, pixels), detached, in single precision at least."""
    if not isinstance(attributions, Tensor):
        raise TypeError(
            f"attributions must be a tensor of maps, got {type(attributions).__name__}"
        )
    if not attributions.is_floating_point():
        raise TypeError(
            f"attributions must be of a floating dtype, got {attributions.dtype}; "
            "convert them with .float()"
        )
    if attributions.dim() < 2 or attributions.numel() == 0:
        raise ValueError(
            "attributions must be maps (N, 1, *spatial) or (N, *spatial) of at least "
            f"one example and one pixel, got shape {tuple(attributions.shape)}"
        )
    maps = attributions.detach().flatten(1)  # (N, pixels)
    return maps.to(precise(maps))


def check_map(attributions: Tensor, num_examples: int, spatial: int) -> Tensor:
    """A map an example: (N, 1, *spatial), detached, in single precision at least."""
    maps = check_any_maps(attributions)
    shape = attributions.shape
    fits = shape[0] == num_examples and (
        len(shape) == spatial + 1 or (len(shape) == spatial + 2 and shape[1] == 1)
    )
    if not fits or not 1 <= spatial <= 3:
        one_example = shape[:2] == (1, 1) and len(shape) == spatial + 3
        remedy = (
            "pass inputs.unsqueeze(0) where their batch dimension is missing"
            if one_example
            else "sum over channels where there are several"
        )
        raise ValueError(
            "attributions must be maps (N, 1, *spatial) or (N, *spatial) of "
            f"{num_examples} examples with {spatial} spatial axes, 3 at most, got "
            f"shape {tuple(shape)}; {remedy}"
        )
    return maps.view(num_examples, 1, *shape[-spatial:])  # (N, 1, *spatial)
