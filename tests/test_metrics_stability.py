"""Stability and complexity of maps: the formulas, in every dtype."""

import math

import pytest
import torch

from captum_cams.metrics import (
    complexity,
    dark_heatmaps,
    heatmap_mean,
    normalize,
    sparseness,
)
from captum_cams.metrics._metric import resized
from tests import reference_metrics as reference
from tests.models import random

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("shape", [(1, 9), (5, 6), (1, 5, 6), (1, 3, 4, 5)])
@pytest.mark.parametrize("eps", [1e-8, 0.5, 4.0])
def test_values_are_the_papers(shape, eps):
    maps = random(4, *shape) * torch.tensor([1.0, 0.01, 100, 0.2]).double().view(
        4, *[1] * len(shape)
    )
    expected = torch.stack([reference.normalized(m, eps) for m in maps])
    close(normalize(maps, eps), expected)
    dark = [float(m.max()) < 0.5 for m in expected]
    close(dark_heatmaps(maps, eps), torch.tensor(dark).double())
    close(heatmap_mean(maps), torch.stack([m.mean() for m in maps]))
    close(heatmap_mean(normalize(maps, eps)), torch.stack([m.mean() for m in expected]))


def close(values, expected):
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-8, 1e-60])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_flat_map_is_zero_and_dark(dtype, eps, value):
    maps = torch.full((2, 1, 4, 4), value, dtype=dtype)
    normalized = normalize(maps, eps)
    assert normalized.dtype == dtype and torch.equal(normalized, torch.zeros_like(maps))
    assert dark_heatmaps(maps, eps).tolist() == [1, 1]
    assert heatmap_mean(maps).tolist() == [value, value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1e-8, 1e-60])
def test_a_map_that_is_flat_but_for_rounding_is_flat(dtype, eps):
    maps = 3 * (1 + torch.finfo(dtype).eps * torch.arange(8, dtype=dtype).view(2, 1, 4))
    assert (normalize(maps, eps) == 0).all()
    assert dark_heatmaps(maps, eps).tolist() == [1, 1]


def test_the_smallest_half_is_not_dark():
    maps = torch.tensor([[0.0, 6e-8]], dtype=torch.float16)
    assert dark_heatmaps(maps).tolist() == [0]
    assert normalize(maps).tolist()[0][1] > 0.8


def test_dark_is_a_range_below_eps():
    maps = torch.tensor([[5.0, 5.09], [5.0, 5.11], [0.0, 0.0]], dtype=torch.float64)
    assert dark_heatmaps(maps, 0.1).tolist() == [1, 0, 1]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_map_gives_nan_for_its_example_alone(broken):
    maps = random(3, 4, 5)
    maps[1, 2, 2] = broken
    for metric in (normalize, dark_heatmaps, heatmap_mean, complexity, sparseness):
        values = metric(maps)
        assert values[1].isnan().all() and values[[0, 2]].isfinite().all()


@pytest.mark.parametrize("metric", [normalize, dark_heatmaps])
@pytest.mark.parametrize("eps", [0, -1, math.nan])
def test_eps_is_positive(metric, eps):
    with pytest.raises(ValueError, match=f"eps must be above 0, got {eps}"):
        metric(torch.ones(1, 2), eps)


@pytest.mark.parametrize(
    "metric", [normalize, dark_heatmaps, heatmap_mean, complexity, sparseness]
)
def test_errors_teach(metric):
    with pytest.raises(
        TypeError, match=r"floating dtype, got torch.int64.*\.float\(\)"
    ):
        metric(torch.ones(1, 2, 2).long())
    with pytest.raises(ValueError, match=r"one pixel, got shape \(3,\)"):
        metric(torch.ones(3))
    with pytest.raises(ValueError, match=r"got shape \(0, 1, 2\)"):
        metric(torch.ones(0, 1, 2))


@pytest.mark.parametrize("broken", [torch.inf, -torch.inf, torch.nan])
def test_a_broken_map_stays_broken_when_it_is_resized(broken):
    maps = torch.rand(2, 1, 3, 4)
    maps[1, 0, 1, 2] = broken
    found = resized(maps, (6, 8))
    assert found[0].isfinite().all() and not found[1].isfinite().all()


@pytest.mark.parametrize("shape", [(1, 9), (5, 6), (1, 5, 6), (1, 3, 4, 5)])
def test_complexity_and_sparseness_are_the_papers(shape):
    maps = random(4, *shape)
    maps[1] = maps[1].clamp(min=0)
    for metric in (complexity, sparseness):
        formula = getattr(reference, metric.__name__)
        close(metric(maps), torch.tensor([*map(formula, maps)], dtype=torch.float64))
    # Neither depends on signs, scale and places.
    other = -3 * maps.flatten(1).flip(1).view_as(maps)
    for metric in (complexity, sparseness):
        close(metric(other), metric(maps))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_complexity_and_sparseness(dtype):
    """A single pixel, an even map, half of the pixels, and a zero map."""
    maps = torch.zeros(4, 1, 4, 4, dtype=dtype)
    maps[0, 0, 1, 2], maps[1], maps[2, 0, :2] = -3, torch.finfo(dtype).max, 0.5
    tolerance = {"rtol": 1e-6, "atol": 1e-6, "equal_nan": True, "check_dtype": False}
    expected = torch.tensor([0, math.log(16), math.log(8), math.nan])
    torch.testing.assert_close(complexity(maps), expected, **tolerance)
    expected = torch.tensor([15 / 16, 0, 1 / 2, math.nan])
    torch.testing.assert_close(sparseness(maps), expected, **tolerance)
    assert sparseness.higher_is_better and not complexity.higher_is_better
