"""How activations and weights become maps: sums over space and over channels."""

from torch import Tensor

from captum_cams._numerics import precise
from captum_cams.masks import spatial_axes


def spatial_sum(maps: Tensor) -> Tensor:
    r"""Sum over the spatial axes, (N, K, \*spatial) to (N, K, 1, ...)."""
    axes = spatial_axes(maps)
    return maps.sum(axes, keepdim=True, dtype=precise(maps)) if axes else maps


def spatial_mean(maps: Tensor) -> Tensor:
    r"""Mean over the spatial axes, (N, K, \*spatial) to (N, K, 1, ...)."""
    axes = spatial_axes(maps)
    return maps.mean(axes, keepdim=True, dtype=precise(maps)) if axes else maps


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
