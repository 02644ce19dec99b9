r"""
Masks over pictures: grouping, de-noising, normalising, upsampling and blending.

Pure tensors, no model. "Spatial" axes are all axes from 2 on, so that signals (1-D),
pictures (2-D) and volumes (3-D) are treated alike.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def spatial_axes(tensor: Tensor) -> tuple[int, ...]:
    """All axes from 2 on."""
    return tuple(range(2, tensor.dim()))


def group(channels: Tensor, groups: int) -> Tensor:
    r"""
    Sum of each group of neighbouring channels.

    Where `groups` does not divide the channels, sizes of groups differ by one at most.

    Args:
        channels (Tensor): Feature maps, (N, K, \*spatial).
        groups (int): Number of groups G, from 1 to K.

    Returns:
        *Tensor*, (N, G, \*spatial).
    """
    parts = channels.tensor_split(groups, dim=1)
    return torch.cat([part.sum(1, keepdim=True) for part in parts], dim=1)  # (N, G, ..)


def denoise(masks: Tensor, percentile: float) -> Tensor:
    r"""
    Sets to 0 what does not exceed its mask's own percentile (Group-CAM, eq. 3).

    Args:
        masks (Tensor): (N, G, \*spatial).
        percentile (float): theta in [0, 100], linearly interpolated.

    Returns:
        *Tensor* of `masks`' shape.
    """
    pixels = masks.flatten(2)  # (N, G, pixels)
    # torch.quantile takes no half precision and at most 2^24 elements at once.
    thresholds = torch.stack(
        [example.quantile(percentile / 100, dim=1) for example in _single(pixels)]
    ).unsqueeze(2)  # (N, G, 1)
    return torch.where(pixels > thresholds, pixels, 0).view_as(masks)


def _single(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def min_max(masks: Tensor) -> Tensor:
    r"""
    Each mask scaled to [0, 1] over its own pixels (Group-CAM, eq. 4).

    A constant mask becomes 0: it singles out nothing.

    Args:
        masks (Tensor): (N, G, \*spatial).

    Returns:
        *Tensor* of `masks`' shape.
    """
    axes = spatial_axes(masks)
    low, high = masks.amin(axes, keepdim=True), masks.amax(axes, keepdim=True)
    extent = torch.where(high > low, high - low, torch.inf)  # (N, G, 1, ...)
    return (masks - low) / extent


def upsample(masks: Tensor, size: Sequence[int]) -> Tensor:
    r"""
    Linear interpolation over all spatial axes (``align_corners=False``).

    Args:
        masks (Tensor): (N, G, \*spatial).
        size (sequence of int): Wanted spatial size.

    Returns:
        *Tensor*, (N, G, \*size).
    """
    if masks.shape[2:] == torch.Size(size):
        return masks
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(masks, tuple(size), mode=mode, align_corners=False)


def blend(inputs: Tensor, baselines: Tensor, masks: Tensor) -> Tensor:
    r"""
    `inputs` where the mask is 1, `baselines` where it is 0 (Group-CAM, eq. 5).

    Args:
        inputs (Tensor): (B, C, \*spatial).
        baselines (Tensor): Of the same shape.
        masks (Tensor): In [0, 1], (B, 1, \*spatial).

    Returns:
        *Tensor* of `inputs`' shape.
    """
    return inputs * masks + baselines * (1 - masks)
