"""Localization against its formulas, obvious cases, and the laws that it obeys."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_cams.metrics import (
    bbox_score,
    box_overlap,
    pixel_energy,
    pointing_accuracy,
    pointing_game,
)
from tests import reference_metrics as reference
from tests.models import random

SHAPES = [(11,), (6, 7), (3, 4, 5)]
REGIONS = random(3, 6, 7, seed=9) > 0.3
MAPS = random(3, 1, 6, 7, seed=4)
NAN = math.nan


def overlap(part):
    return lambda maps, regions, **options: getattr(
        box_overlap(maps, regions, 0.4, **options), part
    )


METRICS = {
    "pixel_energy": pixel_energy,
    "bbox_score": bbox_score,
    "iou": overlap("iou"),
    "iob": overlap("iob"),
    "ior": overlap("ior"),
    "pointing_game": pointing_game,
}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())


def close(values, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-9, "atol": 1e-12}
    expected = torch.as_tensor(expected, dtype=values.dtype)
    torch.testing.assert_close(values, expected, equal_nan=True, **tolerance)


def pixels_of(mask):
    return {p for p in reference.pixels(mask.shape) if mask[p]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ties", [False, True])
def test_metrics_are_the_papers(shape, ties):
    maps, regions = random(4, *shape), random(4, *shape, seed=1) > 0.5
    maps = (2 * maps).round() if ties else maps
    pairs = [(m, pixels_of(region)) for m, region in zip(maps, regions, strict=True)]
    for form in (maps, maps[:, None]):
        energy = [reference.pixel_energy(*pair) for pair in pairs]
        close(pixel_energy(form, regions), energy)
        close(
            bbox_score(form, regions), [reference.bbox_score(*pair) for pair in pairs]
        )
        for tolerance in (0, 1, 2.5):
            expected = [reference.pointing_game(*pair, tolerance) for pair in pairs]
            close(pointing_game(form, regions, tolerance=tolerance), expected)
        thresholds = [0.0, 0.15, 0.5, 1.0]
        expected = torch.tensor(
            [[reference.box_overlap(*pair, t) for t in thresholds] for pair in pairs],
            dtype=torch.float64,
        )  # (N, T, 3)
        several = box_overlap(form, regions, thresholds)
        for place, values in enumerate(several):
            close(values, expected[:, :, place])
            one = box_overlap(form, regions, thresholds[1])[place]
            close(one, expected[:, 1, place])


@pytest.mark.parametrize("shape", SHAPES)
def test_maps_are_upsampled_to_the_regions(shape):
    maps, regions = random(2, *[3] * len(shape)), random(2, *shape, seed=1) > 0
    full = torch.stack([reference.resize(m, shape) for m in maps])
    for metric in (METRICS["pixel_energy"], METRICS["iou"], METRICS["ior"]):
        close(metric(maps, regions), metric(full, regions))


def test_boxes_are_pixels_whose_centers_they_hold():
    boxes = [
        [(1.0, 2.0, 4.0, 5.0)],
        [(0.4, 0.0, 1.6, 9.0), (3.5, 1.5, 5.0, 2.6)],  # reaches out; starts at centers
        [(1.0, 1.0, 4.0, 4.0), (2.0, 2.0, 6.0, 5.0), (0.0, 0.0, 0.3, 0.3)],
        [],
        [(2.0, 2.0, 2.0, 5.0)],
    ]
    maps = random(5, 5, 6).abs()
    tensors = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes]
    sets = [reference.box_pixels(b, 5, 6) for b in boxes]
    assert len(sets[1]) == 10 + 4 and not sets[3] and not sets[4]
    energy = [
        reference.pixel_energy(m, inside) for m, inside in zip(maps, sets, strict=True)
    ]
    close(pixel_energy(maps, tensors, size=(5, 6)), energy)
    close(pixel_energy(maps, tuple(tensors), size=[5, 6]), energy)
    whole = torch.tensor([[0, 0, 6, 5]])
    close(pixel_energy(maps[:1], [whole], size=(5, 6)), [1.0])


def test_a_map_equal_to_the_region():
    maps = REGIONS.double()
    for metric in METRICS.values():
        close(metric(maps, REGIONS), [1.0, 1.0, 1.0])
    opposite = 1 - maps
    for metric in METRICS.values():
        close(metric(opposite, REGIONS), [0.0, 0.0, 0.0])


def test_a_random_map_points_into_the_box_by_its_share_of_the_area():
    n, share = 4000, 5 * 6 / (10 * 12)
    maps = torch.rand(n, 10, 12, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[3.0, 2.0, 9.0, 7.0]]).expand(n, 4).split(1)
    hits = pointing_game(maps, boxes, size=(10, 12))
    assert abs(hits.mean() - share) < 4 * math.sqrt(share * (1 - share) / n)
    assert abs(pixel_energy(maps, boxes, size=(10, 12)).mean() - share) < 0.01
    assert abs(bbox_score(maps, boxes, size=(10, 12)).mean() - share) < 0.01


def test_tolerance_is_a_distance():
    maps = torch.zeros(1, 6, 6)
    maps[0, 0, 0] = 1
    region = torch.zeros(1, 6, 6, dtype=torch.bool)
    region[0, 3, 4] = True
    for tolerance, hit in ((0, 0.0), (4.99, 0.0), (5, 1.0), (15, 1.0)):
        close(pointing_game(maps, region, tolerance=tolerance), [hit])


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(sorted(METRICS)),
    st.integers(0, 2**16),
    st.floats(1e-6, 1e6),
    st.permutations(range(3)),
    st.sampled_from([(1, 1), (3, 4), (6, 7)]),
)
def test_laws(name, seed, factor, order, size):
    metric, maps = METRICS[name], random(3, *size, seed=seed)
    values = metric(maps, REGIONS)
    close(metric(maps * 2.0 ** round(math.log2(factor)), REGIONS), values)
    close(metric(maps[order], REGIONS[order]), values[order])
    singles = [metric(maps[n : n + 1], REGIONS[n : n + 1]) for n in range(3)]
    close(torch.cat(singles), values)
    if name != "bbox_score":  # a factor that rounds may make or break ties
        close(metric(maps * factor, REGIONS), values, rtol=1e-6, atol=1e-6)


DEGENERATE = {  # zero map, constant map, empty region, both
    "pixel_energy": (NAN, 0.5, 0.0, NAN),
    "bbox_score": (1.0, 1.0, NAN, NAN),
    "iou": (0.0, 0.0, 0.0, NAN),
    "iob": (0.0, 0.0, NAN, NAN),
    "ior": (NAN, NAN, 0.0, NAN),
    "pointing_game": (1.0, 1.0, 0.0, 0.0),
}


@pytest.mark.parametrize("name", METRICS)
def test_degenerate_cases(name):
    # The region is the upper half: the first pixels as they are read.
    half, none = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    half[:, :2] = True
    zero, constant, some = (
        torch.zeros(1, 4, 4),
        torch.full((1, 4, 4), 3.0),
        torch.rand(1, 4, 4),
    )
    maps = torch.cat([zero, constant, some, zero])
    values = METRICS[name](maps, torch.cat([half, half, none, none]))
    close(values, DEGENERATE[name])


@every_metric
@pytest.mark.parametrize("broken", [NAN, math.inf, -math.inf])
def test_a_broken_map_gives_nan_for_its_example_alone(metric, broken):
    maps = MAPS.clone()
    maps[1, 0, 2, 3] = broken
    values, sound = metric(maps, REGIONS), metric(MAPS, REGIONS)
    assert values[1].isnan()
    close(values[[0, 2]], sound[[0, 2]])
    # Also where making the map smaller steps over the pixel.
    large = torch.zeros(1, 40, 40)
    large[0, 0, 0] = broken
    assert metric(large, torch.ones(1, 2, 2, dtype=torch.bool)).isnan()


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_calculated_in_single(metric, dtype):
    values = metric(MAPS.to(dtype), REGIONS)
    assert values.dtype == torch.float32
    close(values, metric(MAPS.to(dtype).float(), REGIONS))


@every_metric
def test_no_trace_is_left(metric):
    maps = MAPS.clone().requires_grad_()
    assert not metric(maps, REGIONS).requires_grad
    assert torch.equal(maps, MAPS)


def test_accuracy_is_that_of_each_category_and_their_mean():
    hits = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    categories = torch.tensor([7, 7, 3, 3, 7, 12])
    result = pointing_accuracy(hits, categories)
    close(result.categories, [3, 7, 12])
    close(result.accuracies, [1.0, 1 / 3, 1.0], rtol=1e-6, atol=0)
    close(result.mean, 7 / 9, rtol=1e-6, atol=0)
    hits[0] = NAN
    result = pointing_accuracy(hits, categories)
    close(result.accuracies, [1.0, NAN, 1.0])
    close(result.mean, NAN)


BOX = torch.tensor([[0.0, 0.0, 2.0, 2.0]])


@pytest.mark.parametrize(
    ("regions", "options", "error", "message"),
    [
        (
            REGIONS[:2],
            {},
            ValueError,
            r"maps \(N, 1, .* of 2 examples .* \(3, 1, 6, 7\)",
        ),
        (REGIONS[:, 0], {}, ValueError, "with 1 spatial axes"),
        (
            REGIONS.double(),
            {},
            TypeError,
            "boolean masks .* got a tensor of torch.float64",
        ),
        (REGIONS[:, 0, 0], {}, ValueError, r"boolean masks .* got shape \(3,\)"),
        (
            REGIONS,
            {"size": (6, 8)},
            ValueError,
            r"size must be .* \(6, 7\), .* got \(6, 8\)",
        ),
        (BOX.expand(3, 4), {"size": (6, 7)}, TypeError, r"a list with .split\(1\)"),
        (None, {}, TypeError, "regions must be .* got NoneType"),
        ([BOX] * 3, {}, ValueError, r"size must be \(height, width\) .* got None"),
        ([BOX] * 3, {"size": (6, 0)}, ValueError, "a side of size must be"),
        ([BOX] * 2, {"size": (6, 7)}, ValueError, "of 2 examples"),
        ([BOX[0]] * 3, {"size": (6, 7)}, ValueError, r"shape \(4,\) for example 0"),
        ([BOX, BOX, BOX.flip(1)], {"size": (6, 7)}, ValueError, "for example 2"),
        ([BOX, BOX * NAN, BOX], {"size": (6, 7)}, ValueError, "for example 1"),
    ],
)
def test_errors_teach(regions, options, error, message):
    for metric in METRICS.values():
        with pytest.raises(error, match=message):
            metric(MAPS, regions, **options)


@pytest.mark.parametrize("thresholds", [15, [0.1, 1.5], -0.1, NAN])
def test_thresholds_are_shares(thresholds):
    with pytest.raises(ValueError, match=r"thresholds must lie in \[0, 1\]"):
        box_overlap(MAPS, REGIONS, thresholds)


@pytest.mark.parametrize("thresholds", [[], [[0.1, 0.2]]])
def test_thresholds_come_in_one_row(thresholds):
    with pytest.raises(ValueError, match="thresholds must be a number or a sequence"):
        box_overlap(MAPS, REGIONS, thresholds)


def test_other_errors():
    with pytest.raises(ValueError, match="tolerance must be 0 or more pixels, got -1"):
        pointing_game(MAPS, REGIONS, tolerance=-1)
    with pytest.raises(ValueError, match=r"one shape .* got shapes \(3,\) and \(2,\)"):
        pointing_accuracy(torch.ones(3), torch.ones(2))
    with pytest.raises(TypeError, match="must be tensors, got list and Tensor"):
        pointing_accuracy([1.0], torch.ones(1))
