"""Paths other than the straight line: their ends, and what the integrals make of them."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from captum_cams import LayerIntegratedGradCam, LayerRSIGradCam
from captum_cams.baselines import blurred
from captum_cams.path import blur_path, reparametrized, straight_line
from tests import reference
from tests.models import Function, TwoPart, network, random

METHODS = [LayerRSIGradCam, LayerIntegratedGradCam]
MODEL, X, START = network(gain=3.0), random(2, 2, 6, 6), random(2, 2, 6, 6, seed=1)


def column(alphas, like):
    return alphas.view(-1, *[1] * (like.dim() - 1))


def detour(direction):
    """Off the straight line and back to it."""

    def path(inputs, baselines, alphas):
        away = torch.sin(math.pi * column(alphas, inputs))
        return straight_line(inputs, baselines, alphas) + away * direction

    return path


def powers(*weights_and_exponents):
    """f(alpha) = sum_i w_i alpha^(p_i), which rises from 0 to 1."""
    whole = sum(weight for weight, _ in weights_and_exponents)

    def f(alphas):
        return sum(w / whole * alphas**p for w, p in weights_and_exponents)

    return f


rising = st.lists(
    st.tuples(st.floats(0.1, 1), st.floats(1, 3)), min_size=1, max_size=3
).map(lambda parts: powers(*parts))


@settings(max_examples=15, deadline=None)
@given(rising, st.integers(0, 100))
def test_rsi_grad_cam_does_not_see_how_fast_a_path_is_walked(f, seed):
    """A Riemann-Stieltjes integral along A is that of the curve alone."""
    x, start = random(1, 2, 6, 6, seed=seed), random(1, 2, 6, 6, seed=seed + 1)
    rsi = LayerRSIGradCam(MODEL, MODEL.layer)
    options = {"target": 0, "n_steps": 300}
    units = rsi.conductance(x, start, **options)
    again = rsi.conductance(x, start, **options, path=reparametrized(f))
    torch.testing.assert_close(again, units, rtol=0, atol=1e-3 * units.abs().max())


@pytest.mark.parametrize("path", [detour(0), detour(random(2, 6, 6, seed=2))])
def test_the_order_of_points_is_the_same_on_every_path(path):
    """With f(i / n) as places, the sums of both methods are those of n points there."""
    rsi = LayerRSIGradCam(MODEL, MODEL.layer)
    quick = reparametrized(torch.square, path)
    options = {"target": 0, "n_steps": 400}
    torch.testing.assert_close(
        rsi.attribute(X, START, path=quick, **options),
        rsi.attribute(X, START, path=path, **options),
        rtol=1e-3,
        atol=1e-5,
    )


@given(rising)
def test_integrated_grad_cam_weighs_by_the_time_spent(f):
    """On a linear network the map grows with f: the integral is that of f."""
    model = TwoPart(nn.Identity(), Function(lambda A: A.sum((2, 3))))
    x = random(1, 2, 3, 3).abs()
    igc = LayerIntegratedGradCam(model, model.layer)
    full = 9 * x[:, :1]
    nodes = torch.linspace(0, 1, 2001, dtype=torch.float64)
    maps = igc.attribute(x, target=0, n_steps=200, path=reparametrized(f))
    expected = torch.trapezoid(f(nodes), nodes) * full
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=0)


@given(st.floats(0, 1))
def test_integrated_grad_cam_of_a_linear_network_forgives_what_is_symmetric(share):
    """f(a) + f(1 - a) = 1 spends as much time near the start as near the end."""
    model = TwoPart(nn.Identity(), Function(lambda A: A.sum((2, 3))))
    x = random(1, 2, 3, 3)
    igc = LayerIntegratedGradCam(model, model.layer)

    def f(alphas):
        return (1 - share) * alphas + share * (3 * alphas**2 - 2 * alphas**3)

    torch.testing.assert_close(
        igc.attribute(x, target=0, path=reparametrized(f)),
        igc.attribute(x, target=0),
    )


@settings(max_examples=15, deadline=None)
@given(st.floats(-2, 2), st.integers(0, 100), rising)
def test_unit_integrals_are_complete_along_any_path(width, seed, f):
    path = reparametrized(f, detour(width * random(2, 6, 6, seed=seed)))
    rsi = LayerRSIGradCam(MODEL, MODEL.layer)
    _, delta = rsi.conductance(
        X, START, 0, n_steps=400, path=path, return_convergence_delta=True
    )
    torch.testing.assert_close(delta, torch.zeros_like(delta), atol=2e-3, rtol=0)


def test_units_share_the_rise_otherwise_on_another_path():
    rsi = LayerRSIGradCam(MODEL, MODEL.layer)
    straight = rsi.conductance(X, START, 0)
    curved = rsi.conductance(X, START, 0, path=detour(random(2, 6, 6, seed=2)))
    assert (straight - curved).abs().max() > 0.05 * straight.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_the_default_is_the_straight_line(method):
    cam = method(MODEL, MODEL.layer)
    maps = cam.attribute(X, START, 0, n_steps=5)
    for path in (straight_line, reparametrized(lambda alphas: alphas), detour(0)):
        again = cam.attribute(X, START, 0, n_steps=5, path=path)
        torch.testing.assert_close(again, maps)


def test_the_blur_path_is_a_scale_space():
    """At each place the input under a torchvision blur of the width there."""
    x = random(4, 2, 9, 12)
    alphas = torch.tensor([0.0, 0.25, 0.9, 1.0], dtype=torch.float64)
    points = blur_path(5, 1.5)(x, torch.zeros_like(x), alphas)
    torch.testing.assert_close(points[:1], blurred(x[:1], 5, 1.5), rtol=0, atol=0)
    assert torch.equal(points[3], x[3])
    for n in (1, 2):
        literal = reference.gaussian_blur(x[n], 5, (1 - alphas[n].item()) * 1.5)
        torch.testing.assert_close(points[n], literal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 3])
def test_the_blur_path_of_signals_and_volumes(dims):
    model, x = network(dims), random(2, 2, *[7, 6, 8][:dims])
    for method in METHODS:
        cam = method(model, model.layer)
        maps = cam.attribute(x, blurred(x, 5, 2), 0, n_steps=3, path=blur_path(5, 2))
        alone = cam.attribute(
            x[1:], blurred(x[1:], 5, 2), 0, n_steps=3, path=blur_path(5, 2)
        )
        torch.testing.assert_close(maps[1:], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    model, x = network().to(dtype), X.to(dtype)
    maps = LayerRSIGradCam(model, model.layer).attribute(
        x, blurred(x, 5, 2), 0, n_steps=3, path=blur_path(5, 2)
    )
    assert maps.dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_tolerances_and_lists_of_layers(method):
    layers = [MODEL.layer[0], MODEL.head[1]]
    path = detour(0.5 * random(2, 6, 6, seed=2))
    together, alphas = method(MODEL, layers).attribute(
        X, START, 0, tolerance=0.02, path=path, return_alphas=True
    )
    exact = method(MODEL, layers).attribute(X, START, 0, n_steps=400, path=path)
    for maps, wanted in zip(together, exact, strict=True):
        assert (maps - wanted).abs().sum() < 0.04 * wanted.sum()
    assert len(set(map(tuple, map(torch.Tensor.tolist, alphas)))) == len(X)


def test_each_tensor_of_a_tuple_has_its_path():
    model = TwoPart(
        Function(lambda x, z: x + z.view(-1, 1, 1, 1)),
        Function(lambda A: A.square().sum((1, 2, 3))),
    )

    class Two(nn.Module):
        def forward(self, x, z):
            return model.head(model.layer(x, z))

    seen = set()

    def path(inputs, baselines, alphas):
        seen.add(inputs.dim())
        return straight_line(inputs, baselines, alphas)

    inputs = (random(2, 1, 3, 3), random(2))
    rsi = LayerRSIGradCam(Two(), model.layer)
    maps = rsi.attribute(inputs, n_steps=3, path=path)
    torch.testing.assert_close(maps, rsi.attribute(inputs, n_steps=3))
    assert seen == {4, 1}


def test_only_a_batch_of_points_is_made_at_a_time():
    rows = []

    def path(inputs, baselines, alphas):
        rows.append(len(inputs))
        return straight_line(inputs, baselines, alphas)

    LayerRSIGradCam(MODEL, MODEL.layer).attribute(
        random(7, 2, 6, 6), target=0, n_steps=9, internal_batch_size=3, path=path
    )
    assert max(rows) == 3
    assert sum(rows) == 7 * (2 + 10)  # both ends checked, then the points


def test_a_path_may_write_into_its_arguments_and_has_no_graph():
    x, shift = X.clone(), torch.zeros((), dtype=torch.float64, requires_grad=True)

    def path(inputs, baselines, alphas):
        inputs -= baselines
        inputs *= column(alphas, inputs)
        inputs += baselines + shift
        return inputs

    maps = LayerRSIGradCam(MODEL, MODEL.layer).attribute(
        x, START, 0, n_steps=5, path=path
    )
    assert torch.equal(x, X)
    torch.testing.assert_close(
        maps, LayerRSIGradCam(MODEL, MODEL.layer).attribute(x, START, 0, n_steps=5)
    )


def nowhere(inputs, baselines, alphas):
    points = straight_line(inputs, baselines, alphas)
    return torch.where(column(alphas, inputs) == 0.5, torch.nan, points)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        (lambda x, b, a: x, ValueError, "path must lead from the baselines at alpha = 0 to the inputs at alpha = 1, but is up to"),
        (lambda x, b, a: x, ValueError, "off at alpha = 0; pass the baselines that belong to it"),
        (lambda x, b, a: b, ValueError, "off at alpha = 1"),
        (blur_path(5, 2), ValueError, "off at alpha = 0; pass the baselines that"),
        (lambda x, b, a: x[:1], ValueError, "path must return points like its inputs, torch.float64 of shape (2, 2, 6, 6) on cpu, got torch.float64 of shape (1, 2, 6, 6) on cpu"),
        (lambda x, b, a: x.float(), ValueError, "got torch.float32 of shape (2, 2, 6, 6)"),
        (lambda x, b, a: [x], TypeError, "path must return a tensor of points, got list"),
        (nowhere, ValueError, "path must return finite points, got NaN or infinity at alpha = 0.5; look for it in the inputs"),
    ],
)  # fmt: skip
def test_what_is_no_path_is_named(method, path, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        method(MODEL, MODEL.layer).attribute(X, START, 0, n_steps=2, path=path)


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (torch.cos, "f must rise from f(0) = 0 to f(1) = 1 and never fall, got f(0) = 1, f(1) = 0.54"),
        (lambda a: 5 * a - 4 * a.sqrt(), "and a smallest growth of -0.35"),
        (lambda a: 0.5, "f must give one place for each alpha, a tensor (B,) for one of shape (B,), got 0.5 for 101"),
    ],
)  # fmt: skip
def test_what_does_not_rise_is_refused(f, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        reparametrized(f)


def test_a_blur_that_does_not_fit_says_which_does():
    with pytest.raises(ValueError, match="a kernel size of 11 or less fits"):
        LayerRSIGradCam(MODEL, MODEL.layer).attribute(X, 0, 0, path=blur_path())
