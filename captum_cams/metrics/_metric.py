"""What all metrics share: usage log and direction; size of maps and broken maps."""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from captum_cams._captum import log_usage
from captum_cams.masks import difference, spatial_axes, upsample

_P = ParamSpec("_P")
_R_co = TypeVar("_R_co", covariant=True)


class Metric(Protocol[_P, _R_co]):
    """A function that knows which direction is better."""

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
    """Maps upsampled to `size`, (N, 1, *size), constant ones to the bit."""
    axes = spatial_axes(maps)
    low, high = maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)
    # Rounding errors of the interpolation are not to be ranked or normalised.
    varied = difference(high, low) > 0  # (N, 1, 1, ...)
    return torch.where(varied, upsample(maps, size), low)  # (N, 1, *size)


def only_finite(values: Tensor, maps: Tensor) -> Tensor:
    """`values`, (N, ...), with NaN for an example whose map holds NaN or infinity."""
    finite = maps.flatten(1).isfinite().all(1)  # (N,)
    finite = finite.view(-1, *[1] * (values.dim() - 1))  # (N, 1, ...)
    return torch.where(finite, values, torch.nan)
