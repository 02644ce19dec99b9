"""
Localization: how a map agrees with the region of the object it explains.

Maps are upsampled to the regions. A pixel belongs to a box where its center lies in
it: x0 <= column + 0.5 < x1 and y0 <= row + 0.5 < y1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_cams._numerics import precise
from captum_cams._validation import (
    check_count,
    check_number,
    check_numbers,
    kind_of,
    list_of,
)
from captum_cams.masks import descending_ranks
from captum_cams.metrics._metric import check_map, metric, nan_where_broken, resized
from captum_cams.metrics.stability import scaled

Regions = Tensor | Sequence[Tensor]


@metric(higher_is_better=True)
def pixel_energy(
    attributions: Tensor, regions: Regions, *, size: Sequence[int] | None = None
) -> Tensor:
    r"""
    Share of the map's L1 norm inside the region; higher is better.

    Also known as the energy-based pointing game (RSI-Grad-CAM, section 3.4.3;
    Integrated Grad-CAM, section 4.2.1). In [0, 1]. A constant map gives the region's
    share of the pixels, an empty region 0. A zero map has no energy to share and gives
    NaN, as does a map with NaN or infinity.

    Sources: M. Lucas et al., "RSI-Grad-CAM", https://arxiv.org/abs/2205.10900;
    S. Sattarzadeh et al., "Integrated Grad-CAM", https://arxiv.org/abs/2102.07805

    Args:
        attributions (Tensor): Maps, (N, 1, \*any spatial) or (N, \*any spatial), of a
            floating dtype.
        regions (Tensor or list of Tensor): Boolean masks, (N, \*spatial) with 1 to 3
            spatial axes, to which the maps are upsampled; or a list of N tensors
            (n, 4) of boxes x0, y0, x1, y1 in pixels, whose union is the region.
        size (sequence of int, optional): Height and width of the picture of the boxes.
            Default: None, for masks

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures
        >>> boxes = shape_pictures(2).boxes
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> pixel_energy(maps, boxes.split(1), size=(128, 128)).shape
        torch.Size([2])
        >>> box = torch.tensor([[1.0, 0.0, 4.0, 2.0]])
        >>> pixel_energy(torch.ones(1, 4, 4), [box], size=(4, 4))
        tensor([0.3750])
    """
    maps, inside = _maps_and_regions(attributions, regions, size)
    energy = maps.abs().flatten(1)  # (N, pixels)
    return (energy * inside.flatten(1)).sum(1) / energy.sum(1)  # (N,)


@metric(higher_is_better=True)
def bbox_score(
    attributions: Tensor, regions: Regions, *, size: Sequence[int] | None = None
) -> Tensor:
    r"""
    Share of the \|G\| largest pixels inside the region G; higher is better.

    \|G\| is the region's own number of pixels (Integrated Grad-CAM, section 4.2.1). In
    [0, 1]. Equal pixels count as they are read, row by row, so that of a zero or
    constant map the first \|G\| do. An empty region has no pixels to share and gives
    NaN, as does a map with NaN or infinity.

    Source: S. Sattarzadeh et al., "Integrated Grad-CAM",
    https://arxiv.org/abs/2102.07805

    Args:
        attributions (Tensor): Maps, as in :func:`pixel_energy`.
        regions (Tensor or list of Tensor): Masks or boxes, as there.
        size (sequence of int, optional): Height and width for boxes. Default: None

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> region = torch.tensor([[[True, True], [False, False]]])
        >>> bbox_score(torch.tensor([[[0.9, 0.1], [0.5, 0.2]]]), region)
        tensor([0.5000])
    """
    maps, inside = _maps_and_regions(attributions, regions, size)
    pixels = inside.flatten(1).sum(1)  # (N,)
    largest = descending_ranks(maps).flatten(1) < pixels[:, None]  # (N, pixels)
    hits = (largest & inside.flatten(1)).sum(1)  # (N,)
    return nan_where_broken(hits.to(maps) / pixels, maps)


class BoxOverlap(NamedTuple):
    """Overlap of region and salient pixels: (N,), or (N, T) for T thresholds."""

    iou: Tensor
    """Intersection over union."""
    iob: Tensor
    """Intersection over the region (the "bounding box")."""
    ior: Tensor
    """Intersection over the salient pixels (the "response region")."""


@metric(higher_is_better=True)
def box_overlap(
    attributions: Tensor,
    regions: Regions,
    thresholds: float | Sequence[float] | Tensor,
    *,
    size: Sequence[int] | None = None,
    eps: float | None = None,
) -> BoxOverlap:
    r"""
    Overlap of the region with the map above a threshold; higher is better.

    Salient are the pixels of the upsampled map, scaled to [0, 1], that lie strictly
    above the threshold (RSI-Grad-CAM, section 3.4.3). All three ratios are in [0, 1];
    one of nothing, 0 / 0, is NaN. Hence without salient pixels, as of a zero or
    constant map, IoU and IoB are 0 and IoR is NaN; with an empty region, IoU and IoR
    are 0 and IoB is NaN; with neither, all are NaN. They are for a map with NaN or
    infinity, too.

    Source: M. Lucas et al., "RSI-Grad-CAM", https://arxiv.org/abs/2205.10900

    Args:
        attributions (Tensor): Maps, as in :func:`pixel_energy`.
        regions (Tensor or list of Tensor): Masks or boxes, as there.
        thresholds (float, sequence of float or Tensor): One in [0, 1], or T of them.
        size (sequence of int, optional): Height and width for boxes. Default: None
        eps (float, optional): Scales the map as :func:`normalize` does (eq. 26), so
            that one whose range is close to `eps` stays below thresholds. Default:
            None, to all of [0, 1]

    Returns:
        **BoxOverlap** of *Tensors* iou, iob, ior, (N,), or (N, T) for a sequence.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> region = torch.tensor([[[True, True], [False, False]]])
        >>> maps = torch.tensor([[[1.0, 0.0], [0.5, 0.2]]])
        >>> box_overlap(maps, region, 0.4)
        BoxOverlap(iou=tensor([0.3333]), iob=tensor([0.5000]), ior=tensor([0.5000]))
        >>> box_overlap(maps, region, [0.15, 0.4, 0.9]).ior
        tensor([[0.3333, 0.5000, 1.0000]])
    """
    maps, inside = _maps_and_regions(attributions, regions, size)
    at = _check_thresholds(thresholds).to(maps)  # () or (T,)
    box = inside.flatten(2)  # (N, 1, pixels)
    salient = scaled(maps, eps).flatten(2) > at.view(-1, 1)  # (N, T, pixels)

    def ratio(part: Tensor, whole: Tensor) -> Tensor:
        share = part.sum(2).to(maps) / whole.sum(2)  # (N, T)
        return nan_where_broken(share, maps).view(-1, *at.shape)  # (N,) or (N, T)

    both = box & salient
    return BoxOverlap(
        ratio(both, box | salient), ratio(both, box), ratio(both, salient)
    )


@metric(higher_is_better=True)
def pointing_game(
    attributions: Tensor,
    regions: Regions,
    *,
    tolerance: float = 0,
    size: Sequence[int] | None = None,
) -> Tensor:
    r"""
    1 where the map's largest pixel hits the region, else 0; higher is better.

    A hit lies inside, or within `tolerance` pixels of a pixel inside (Group-CAM,
    section 4.4). Of equal pixels the first as they are read, row by row, counts, so
    that a zero or constant map points at the first of all. An empty region cannot be
    hit and gives 0; a map with NaN or infinity gives NaN.

    Source: Q. Zhang et al., "Group-CAM", https://arxiv.org/abs/2103.13859

    Args:
        attributions (Tensor): Maps, as in :func:`pixel_energy`.
        regions (Tensor or list of Tensor): Masks or boxes, as there.
        tolerance (float): Euclidean distance between pixels' centers, 0 or more.
            Default: 0
        size (sequence of int, optional): Height and width for boxes. Default: None

    Returns:
        *Tensor*, (N,). :func:`pointing_accuracy` sums it up.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> region = torch.tensor([[[True, True, False, False]]])
        >>> maps = torch.tensor([[[0.1, 0.1, 0.1, 0.7]]])
        >>> pointing_game(maps, region), pointing_game(maps, region, tolerance=2)
        (tensor([0.]), tensor([1.]))
    """
    tolerance = check_number(
        "tolerance", tolerance, "[0, inf)", expected="be 0 or more pixels"
    )
    maps, inside = _maps_and_regions(attributions, regions, size)
    spatial = maps.shape[2:]
    largest = torch.unravel_index(maps.flatten(1).argmax(1), spatial)  # (N,) each
    squares = torch.zeros_like(inside, dtype=torch.int64)  # (N, 1, *spatial)
    for axis, (side, peak) in enumerate(zip(spatial, largest, strict=True)):
        away = torch.arange(side, device=maps.device) - peak[:, None]  # (N, side)
        others = [1] * (len(spatial) - axis - 1)
        squares += away.square().view(-1, 1, *[1] * axis, side, *others)
    hits = (inside & (squares <= tolerance**2)).flatten(1).any(1)  # (N,)
    return nan_where_broken(hits.to(maps), maps)


class PointingAccuracy(NamedTuple):
    """Share of hits of each category, and the mean of the shares."""

    categories: Tensor
    """(C,), those that occur, ascending."""
    accuracies: Tensor
    """(C,)."""
    mean: Tensor
    """Without axes: each category counts alike."""


@metric(higher_is_better=True)
def pointing_accuracy(hits: Tensor, categories: Tensor) -> PointingAccuracy:
    r"""
    Hits of the pointing game by category, and their mean; higher is better.

    Accuracy is hits / (hits + misses) of a category (Group-CAM, section 4.4), in
    [0, 1]. A hit that is NaN makes its category's accuracy and the mean NaN.

    Source: Q. Zhang et al., "Group-CAM", https://arxiv.org/abs/2103.13859

    Args:
        hits (Tensor): (N,), what :func:`pointing_game` gave.
        categories (Tensor): (N,), integers.

    Returns:
        **PointingAccuracy** of *Tensors* categories (C,), accuracies (C,), mean ().

    Raises:
        ValueError, TypeError: If the two do not match.

    Examples::

        >>> hits, categories = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([7, 7, 3])
        >>> pointing_accuracy(hits, categories)
        PointingAccuracy(categories=tensor([3, 7]), accuracies=tensor([1.0000, 0.5000]),
                         mean=tensor(0.7500))
    """
    _check_hits(hits, categories)
    names, indices, counts = torch.unique(
        categories.to(hits.device), return_inverse=True, return_counts=True
    )  # (C,), (N,), (C,)
    hits = hits.to(precise(hits))
    sums = hits.new_zeros(len(names)).index_add_(0, indices, hits)  # (C,)
    accuracies = sums / counts
    return PointingAccuracy(names, accuracies, accuracies.mean())


def _maps_and_regions(
    attributions: Tensor, regions: Regions, size: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Maps resized to the regions, all NaN where a value is broken; and the regions."""
    if isinstance(regions, Tensor):
        _check_region_masks(regions, size)
        maps = check_map(attributions, regions.shape[0], regions.dim() - 1)
        inside = regions.to(maps.device)  # (N, *spatial)
    else:
        boxes, (height, width) = _check_boxes(regions, size)
        maps = check_map(attributions, len(boxes), 2)
        inside = _box_masks(boxes, height, width, maps)  # (N, H, W)
    # A broken value makes its whole map NaN, as resizing may skip that value.
    maps = nan_where_broken(maps, maps)
    return resized(maps, inside.shape[1:]), inside.unsqueeze(1)  # (N, 1, *spatial)


def _box_masks(boxes: list[Tensor], height: int, width: int, maps: Tensor) -> Tensor:
    """Boolean masks (N, height, width) of the pixels in any of an example's boxes."""
    # The padding is NaN, between whose sides no pixel lies.
    edges = pad_sequence(
        [box.to(maps) for box in boxes], batch_first=True, padding_value=torch.nan
    )  # (N, n, 4)
    x0, y0, x1, y1 = edges.unsqueeze(3).unbind(2)  # (N, n, 1) each

    def between(low: Tensor, high: Tensor, side: int) -> Tensor:
        centers = torch.arange(side, device=maps.device) + 0.5
        return ((low <= centers) & (centers < high)).to(maps)  # (N, n, side)

    # The product counts the boxes around each pixel.
    return between(y0, y1, height).mT @ between(x0, x1, width) > 0  # (N, H, W)


def _check_thresholds(thresholds: object) -> Tensor:
    """A number in [0, 1], or several in one row: () or (T,), in double precision."""
    values = check_numbers("thresholds", thresholds)
    if values.dim() > 1 or values.numel() == 0:
        raise ValueError(
            "thresholds must be a number or a sequence of numbers, got shape "
            f"{tuple(values.shape)}"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            "thresholds must lie in [0, 1], as maps are normalized to it, got "
            f"{values.tolist()}"
        )
    return values


def _check_region_masks(regions: Tensor, size: Sequence[int] | None) -> None:
    """A boolean mask an example, which brings its own size."""
    if regions.dtype != torch.bool:
        raise TypeError(
            "regions must be boolean masks (N, *spatial), or a list of tensors of "
            f"boxes (n, 4), got a tensor of {regions.dtype}; boxes of one an example "
            "become a list with .split(1)"
        )
    if regions.dim() < 2:
        raise ValueError(
            "regions must be boolean masks (N, *spatial), got shape "
            f"{tuple(regions.shape)}"
        )
    shape = tuple(regions.shape[1:])
    if size is not None and list_of(size) != [*shape]:
        raise ValueError(
            f"size must be that of the masks, {shape}, or be left out, got {size!r}"
        )


def _check_boxes(
    regions: object, size: Sequence[int] | None
) -> tuple[list[Tensor], list[int]]:
    """Boxes x0, y0, x1, y1 of each example, and height and width of its picture."""
    if not isinstance(regions, (list, tuple)):
        raise TypeError(
            "regions must be boolean masks (N, *spatial), or a list of tensors of "
            f"boxes (n, 4), got {type(regions).__name__}"
        )
    for example, boxes in enumerate(regions):
        if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(
                "regions must hold a tensor of boxes (n, 4) for each example, got "
                f"{kind_of(boxes)} for example {example}"
            )
        if not ((boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])).all():
            raise ValueError(
                "regions must hold boxes x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, "
                f"got others for example {example}; "
                "torchvision.ops.box_convert turns x, y, width, height into them"
            )
    sides = list_of(size)
    if len(sides) != 2:
        raise ValueError(
            "size must be (height, width) of the picture in whose pixels the boxes "
            f"are given, got {size!r}"
        )
    sides = [check_count("a side of size", side) for side in sides]
    return list(regions), sides


def _check_hits(hits: object, categories: object) -> None:
    """Two tensors (N,) of real numbers."""
    if not isinstance(hits, Tensor) or not isinstance(categories, Tensor):
        raise TypeError(
            f"hits and categories must be tensors, got {type(hits).__name__} and "
            f"{type(categories).__name__}"
        )
    if hits.is_complex() or categories.is_complex():
        raise TypeError(
            "hits and categories must hold real numbers, got "
            f"{hits.dtype} and {categories.dtype}"
        )
    if hits.dim() != 1 or hits.shape != categories.shape or len(hits) == 0:
        raise ValueError(
            "hits and categories must be of one shape (N,) with N of at least 1, got "
            f"shapes {tuple(hits.shape)} and {tuple(categories.shape)}"
        )
