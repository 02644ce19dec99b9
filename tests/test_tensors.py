"""Paths, masks and baselines: pure tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import gaussian_blur

from captum_cams import baselines, masks, path
from tests import reference
from tests.models import random


@pytest.mark.parametrize("method", path.RULES)
@pytest.mark.parametrize("n_steps", [1, 2, 3, 10, 51])
def test_quadrature_weights_sum_to_one(method, n_steps):
    nodes, weights = path.quadrature(method, n_steps)
    assert len(nodes) == n_steps + (method == "riemann_trapezoid")
    assert nodes == sorted(nodes)
    assert sum(weights) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("method", "degree"),
    [("riemann_trapezoid", 1), ("riemann_middle", 1), ("gausslegendre", 7)],
)
def test_quadrature_is_exact_for_polynomials(method, degree):
    nodes, weights = path.quadrature(method, 4)
    integral = sum(w * a**degree for a, w in zip(nodes, weights, strict=True))
    assert integral == pytest.approx(1 / (degree + 1), abs=1e-12)


@given(*[st.floats(-(2.0**100), 2.0**100, width=32)] * 2)
def test_a_straight_line_meets_both_ends_exactly(start, end):
    ends, starts = torch.tensor([end, end]), torch.tensor([start, start])
    points = path.straight_line(ends, starts, torch.tensor([0.0, 1.0]))
    assert points.tolist() == [starts[0].item(), ends[0].item()]


def test_groups_are_neighbors_whose_sizes_differ_by_one_at_most():
    channels = torch.arange(7.0).view(1, 7, 1, 1)
    assert masks.group(channels, 3).flatten().tolist() == [0 + 1 + 2, 3 + 4, 5 + 6]
    assert torch.equal(masks.group(channels, 7), channels)
    assert masks.group(channels, 1).item() == 21


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12),
    st.floats(0, 100),
)
def test_denoising_keeps_what_exceeds_the_percentile(values, percentile):
    mask = torch.tensor(values, dtype=torch.float64).view(1, 1, -1)
    threshold = reference.percentile(values, percentile)
    kept = [value if value > threshold + 1e-9 else 0 for value in values]
    dropped = [value if value > threshold - 1e-9 else 0 for value in values]
    for result, low, high in zip(
        masks.denoise(mask, percentile).flatten().tolist(), kept, dropped, strict=True
    ):
        assert result in (low, high)


def test_denoising_is_strict_and_works_in_half_precision():
    mask = torch.tensor([[[1.0, 2.0, 2.0, 3.0]]], dtype=torch.float16)
    assert masks.denoise(mask, 50).flatten().tolist() == [0, 0, 0, 3]
    assert masks.denoise(mask, 50).dtype == torch.float16
    assert (masks.denoise(torch.ones(1, 1, 4), 70) == 0).all()


def test_min_max_of_a_constant_mask_is_zero():
    mask = torch.stack([torch.full((2, 2), 5.0), torch.tensor([[1.0, 2], [3, 5]])])
    scaled = masks.min_max(mask.unsqueeze(0))
    assert scaled[0, 0].tolist() == [[0, 0], [0, 0]]
    assert scaled[0, 1].tolist() == [[0, 0.25], [0.5, 1]]


def test_upsampling_repeats_edges_and_keeps_centers():
    small = random(1, 1, 3, 4)
    full = masks.upsample(small, (7, 9))
    torch.testing.assert_close(full[0, 0], reference.upsample(small[0, 0], (7, 9)))
    assert masks.upsample(small, (3, 4)) is small
    assert masks.upsample(random(1, 2, 3), (6,)).shape == (1, 2, 6)
    assert masks.upsample(random(1, 2, 3, 2, 2), (6, 4, 4)).shape == (1, 2, 6, 4, 4)


def test_blend_is_the_input_under_one_and_the_baseline_under_zero():
    x, baseline = random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1)
    mask = torch.tensor([[[[0.0, 1.0], [0.5, 1.0]]]], dtype=torch.float64)
    blend = masks.blend(x, baseline, mask)
    assert torch.equal(blend[..., 0, 0], baseline[..., 0, 0])
    assert torch.equal(blend[..., 0, 1], x[..., 0, 1])
    mean = (x + baseline)[..., 1, 0] / 2
    torch.testing.assert_close(blend[..., 1, 0], mean)


@pytest.mark.parametrize(
    ("side", "kernel_size", "sigma"), [((30, 41), 51, 50.0), ((9, 12), 5, 1.3)]
)
def test_blur_is_torchvisions(side, kernel_size, sigma):
    x = random(2, 3, *side)
    ours = baselines.blurred(x, kernel_size, sigma)
    theirs = gaussian_blur(x, [kernel_size] * 2, [sigma] * 2)
    torch.testing.assert_close(ours, theirs)
    literal = reference.gaussian_blur(x[0], kernel_size, sigma)
    torch.testing.assert_close(ours[0], literal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_blur_keeps_constants_in_any_number_of_axes(dims):
    x = torch.full((1, 2, *[26] * dims), 0.7)
    torch.testing.assert_close(baselines.blurred(x), x)
