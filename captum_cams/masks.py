r"""
Masks over pictures: grouping, de-noising, normalizing, upsampling and blending.

Pure tensors, no model. "Spatial" axes are all axes from 2 on, so that signals (1-D),
pictures (2-D) and volumes (3-D) are treated alike.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_cams._numerics import difference, precise


def spatial_axes(tensor: Tensor) -> tuple[int, ...]:
    """All axes from 2 on."""
    return tuple(range(2, tensor.dim()))


def group(channels: Tensor, groups: int) -> Tensor:
    r"""
    Sum of each group of neighboring channels.

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
    return tensor.to(precise(tensor))


def min_max(masks: Tensor) -> Tensor:
    r"""
    Each mask scaled to [0, 1] over its own pixels (Group-CAM, eq. 4).

    A mask that is constant up to rounding becomes 0, as it highlights nothing.

    Args:
        masks (Tensor): (N, G, \*spatial).

    Returns:
        *Tensor* of `masks`' shape.
    """
    axes = spatial_axes(masks)
    low, high = masks.amin(axes, keepdim=True), masks.amax(axes, keepdim=True)
    extent = difference(high, low)  # (N, G, 1, ...)
    return (masks - low) / torch.where(extent > 0, extent, torch.inf)


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
    return torch.lerp(baselines, inputs, masks)


def descending_ranks(masks: Tensor) -> Tensor:
    r"""
    Rank of each pixel in the descending order of its mask, from 0.

    Equal pixels are ranked in reading order, row by row.

    Args:
        masks (Tensor): (N, G, \*spatial).

    Returns:
        *Tensor* of `masks`' shape, int64.
    """
    pixels = masks.flatten(2)  # (N, G, pixels)
    order = pixels.sort(dim=2, descending=True, stable=True).indices
    ranks = torch.arange(order.shape[2], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(2, order, ranks).view_as(masks)


def random_cells(
    number: int, grid: Sequence[int], probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""
    Random grids of ones and zeros, and random shifts (RISE, section 3.2).

    Args:
        number (int): Number of grids B.
        grid (sequence of int): Cells along each spatial axis.
        probability (float): p, that a cell is 1.
        generator (torch.Generator): Gives the random numbers.

    Returns:
        A pair of *Tensor*: **cells** (B, 1, \*grid), and **shifts** in [0, 1) of a
        cell, (B, len(grid)).
    """
    drawn = torch.rand(
        number,
        math.prod(grid) + len(grid),
        generator=generator,
        device=generator.device,
        dtype=torch.float64,
    )  # (B, cells + axes)
    cells = (drawn[:, : -len(grid)] < probability).to(torch.float32)
    return cells.view(number, 1, *grid), drawn[:, -len(grid) :]


def shifted(cells: Tensor, shifts: Tensor, size: Sequence[int]) -> Tensor:
    r"""
    Grids upsampled to one cell more than needed, and cropped at their shifts (RISE).

    Args:
        cells (Tensor): (B, 1, \*grid).
        shifts (Tensor): In [0, 1) of a cell, (B, spatial axes).
        size (sequence of int): Wanted spatial size.

    Returns:
        *Tensor*, (B, 1, \*size).
    """
    grid = cells.shape[2:]
    # Rounded up, so that a grid with one cell more always covers the size.
    cell = [-(-side // count) for side, count in zip(size, grid, strict=True)]
    large = [(count + 1) * pixels for count, pixels in zip(grid, cell, strict=True)]
    upsampled = upsample(cells, large)  # (B, 1, *large)
    starts = (shifts * (shifts.new_tensor(cell) + 1)).long().tolist()  # 0 .. cell

    def crop(mask: Tensor, start: Sequence[int]) -> Tensor:
        windows = (slice(i, i + side) for i, side in zip(start, size, strict=True))
        return mask[(slice(None), *windows)]  # (1, *size)

    crops = [crop(*pair) for pair in zip(upsampled, starts, strict=True)]
    return torch.stack(crops)  # (B, 1, *size)
