"""RSI-Grad-CAM and Integrated Grad-CAM against their papers' formulas."""

import pytest
import torch
from captum.attr import LayerConductance, LayerGradCam
from torch import nn

from captum_cams import LayerIntegratedGradCam, LayerPathIntegrals, LayerRSIGradCam
from captum_cams.attr.integrated_grad_cam import IntegratedGradCamIntegrand
from captum_cams.attr.rsi_grad_cam import ConductanceIntegrand, RSIGradCamIntegrand
from tests import reference
from tests.models import Function, TwoPart, network, random, saturating
from tests.test_layer_eval import Counting

CASES = {
    "square": ((2, 6, 6), 1.0, 0.0),
    "wide": ((2, 5, 9), 1.0, 0.3),
    "saturated": ((2, 7, 4), 60.0, -0.2),
    "one unit": ((2, 1, 1), 3.0, 0.0),
}
METHODS = ["riemann_trapezoid", "riemann_left", "riemann_right"]
WEIGHTINGS = ["signed", "positive", "selected", "positive_gradients"]


@pytest.fixture(params=CASES)
def case(request):
    shape, gain, baseline = CASES[request.param]
    model = network(gain=gain)
    x = random(3, *shape, seed=1)
    return model, x, torch.full_like(x, baseline), torch.tensor([0, 2, 1])


def one(model, target):
    return lambda A: model.head(A)[0, target]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_rsi_grad_cam_is_the_papers(case, method, weighting):
    model, x, baseline, target = case
    maps = LayerRSIGradCam(model, model.layer).attribute(
        x, baseline, target, n_steps=5, method=method, weighting=weighting
    )
    for n in range(3):
        expected = reference.rsi_grad_cam(
            model.layer, one(model, target[n]), x[n], baseline[n], 5, method, weighting
        )
        torch.testing.assert_close(maps[n, 0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_conductance_is_the_papers(case, method):
    model, x, baseline, target = case
    rsi = LayerRSIGradCam(model, model.layer)
    units, delta = rsi.conductance(
        x, baseline, target, n_steps=4, method=method, return_convergence_delta=True
    )
    for n in range(3):
        expected, _, _ = reference.unit_integrals(
            model.layer, one(model, target[n]), x[n], baseline[n], 4, method
        )
        torch.testing.assert_close(units[n], expected, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        rise = (model(x) - model(baseline)).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(delta, units.sum((1, 2, 3)) - rise)


@pytest.mark.parametrize(
    "method",
    [*METHODS, "riemann_middle", "gausslegendre"],
)
def test_integrated_grad_cam_is_the_papers(case, method):
    model, x, baseline, target = case
    m = 4
    nodes, weights = {
        "riemann_trapezoid": ([0, 0.25, 0.5, 0.75, 1], [1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8]),
        "riemann_left": ([0, 0.25, 0.5, 0.75], [1 / 4] * 4),
        "riemann_right": ([0.25, 0.5, 0.75, 1], [1 / 4] * 4),
        "riemann_middle": ([0.125, 0.375, 0.625, 0.875], [1 / 4] * 4),
        "gausslegendre": (
            [0.06943184420297371, 0.33000947820757187, 0.6699905217924281, 0.9305681557970263],
            [0.17392742256872693, 0.32607257743127307, 0.32607257743127307, 0.17392742256872693],
        ),
    }[method]  # fmt: skip
    maps = LayerIntegratedGradCam(model, model.layer).attribute(
        x, baseline, target, n_steps=m, method=method
    )
    for n in range(3):
        expected = reference.integrated_grad_cam(
            model.layer, one(model, target[n]), x[n], baseline[n], nodes, weights
        )
        torch.testing.assert_close(maps[n, 0], expected, rtol=1e-9, atol=1e-12)


def test_saturation_example_of_the_paper():
    """f(x) = 1 - ReLU(1 - x) at x = 2: Grad-CAM sees nothing, RSI-Grad-CAM 1."""
    model, x = saturating(), torch.full((1, 1, 1, 1), 2.0)
    assert LayerGradCam(model, model.layer).attribute(x).item() == 0
    units = LayerRSIGradCam(model, model.layer).conductance(x, n_steps=1000)
    assert units.item() == pytest.approx(1, abs=1e-3)
    # w = 1 and A(1) = 2
    maps = LayerRSIGradCam(model, model.layer).attribute(x, n_steps=1000)
    assert maps.item() == pytest.approx(2, abs=2e-3)


def test_linear_model_solved_by_hand():
    """y = sum_k c_k mean(A_k): I_kij = c_k A_kij / Z, exactly for any n_steps."""
    c = torch.tensor([2.0, -1.0])
    model = TwoPart(nn.Identity(), Function(lambda A: (A.mean((2, 3)) * c).sum(1)))
    A = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]])
    rsi = LayerRSIGradCam(model, model.layer)
    for method in METHODS:
        units = rsi.conductance(A, n_steps=1, method=method)
        torch.testing.assert_close(units, c.view(1, 2, 1, 1) * A / 2)
    # w = (1/2)(1 + 3, -1 - 1) = (2, -1); map = 2 (1, 3) - (2, 2) = (0, 4)
    torch.testing.assert_close(rsi.attribute(A), torch.tensor([[[[0.0, 4.0]]]]))
    channels = rsi.attribute(A, attr_dim_summation=False, relu_attributions=False)
    expected = torch.tensor([[[[2.0, 6.0]], [[-2.0, -2.0]]]])
    torch.testing.assert_close(channels, expected)
    # Integrated Grad-CAM: integral of alpha ReLU(2 (1, 3) - (2, 2)) = (0, 4) / 2
    igc = LayerIntegratedGradCam(model, model.layer)
    torch.testing.assert_close(igc.attribute(A), torch.tensor([[[[0.0, 2.0]]]]))
    signed = igc.attribute(A, attr_dim_summation=False, relu_attributions=False)
    torch.testing.assert_close(signed, torch.tensor([[[[1.0, 3.0]], [[-1.0, -1.0]]]]))


def test_sums_run_over_both_signs_before_the_final_relu():
    model, x = network(), random(1, 2, 6, 6)
    for method in (LayerRSIGradCam, LayerIntegratedGradCam):
        cam = method(model, model.layer)
        rectified = cam.attribute(x, target=0, n_steps=3)
        signed = cam.attribute(x, target=0, n_steps=3, relu_attributions=False)
        assert (rectified >= 0).all()
        assert (signed < 0).any()
    rsi = LayerRSIGradCam(model, model.layer)
    channels = rsi.attribute(
        x, target=0, n_steps=3, relu_attributions=False, attr_dim_summation=False
    )
    signed = rsi.attribute(x, target=0, n_steps=3, relu_attributions=False)
    torch.testing.assert_close(channels.sum(1, keepdim=True), signed)


@pytest.mark.parametrize(("method", "order"), [("riemann_trapezoid", 2), ("riemann_right", 1)])  # fmt: skip
def test_convergence_delta_falls_as_promised(method, order):
    model, x = network(gain=3.0), random(2, 2, 6, 6)
    rsi = LayerRSIGradCam(model, model.layer)
    deltas = [
        rsi.attribute(
            x, target=1, n_steps=n, method=method, return_convergence_delta=True
        )[1].abs()
        for n in (40, 80)
    ]
    assert rsi.has_convergence_delta()
    ratio = deltas[0] / deltas[1]
    torch.testing.assert_close(
        ratio, torch.full_like(ratio, 2.0**order), rtol=0.1, atol=0
    )


def test_conductance_by_the_left_rule_is_captums():
    model, x = network(), random(2, 2, 6, 6)
    captums = LayerConductance(model, model.layer).attribute(
        x, target=0, n_steps=7, method="riemann_trapezoid"
    )
    ours = LayerRSIGradCam(model, model.layer).conductance(
        x, target=0, n_steps=7, method="riemann_left"
    )
    torch.testing.assert_close(ours, captums.detach())


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims):
    model, x = network(dims), random(2, 2, *[5, 4, 6][:dims])
    layer = model.layer(x)
    for method in (LayerRSIGradCam, LayerIntegratedGradCam):
        cam = method(model, model.layer)
        maps = cam.attribute(x, target=2, n_steps=3)
        assert maps.shape == (2, 1, *layer.shape[2:])
        single = cam.attribute(x[1:], target=2, n_steps=3)
        torch.testing.assert_close(maps[1:], single)


def test_layers_without_spatial_axes_have_one_unit_a_channel():
    """As LayerGradCam takes them: Z = 1."""
    model = TwoPart(
        nn.Linear(3, 4).double(), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)).double()
    )
    x = random(5, 3)
    rsi = LayerRSIGradCam(model, model.layer)
    units = rsi.conductance(x, target=1, n_steps=4)
    maps = rsi.attribute(x, target=1, n_steps=4)
    expected = (units * model.layer(x)).sum(1, keepdim=True).relu()
    torch.testing.assert_close(maps, expected.detach())
    igc = LayerIntegratedGradCam(model, model.layer)
    assert igc.attribute(x, target=1, n_steps=4).shape == (5, 1)


def test_layer_that_gives_a_tuple():
    def split(x):
        return x[:, :1] * 2, x[:, 1:].square()

    model = TwoPart(
        Function(split), Function(lambda ab: ab[0].sum((1, 2)) * ab[1].mean((1, 2)))
    )
    x = random(2, 3, 4)
    rsi = LayerRSIGradCam(model, model.layer)
    units, delta = rsi.conductance(x, n_steps=200, return_convergence_delta=True)
    assert [u.shape for u in units] == [(2, 1, 4), (2, 2, 4)]
    assert delta.shape == (2,)
    torch.testing.assert_close(delta, torch.zeros_like(delta), atol=1e-3, rtol=0)
    maps = LayerIntegratedGradCam(model, model.layer).attribute(x, n_steps=2)
    assert [m.shape for m in maps] == [(2, 1, 4), (2, 1, 4)]


def test_half_precision_sums_are_single():
    """Ten thousand steps of 1e-4 vanish in bfloat16, unless they are summed higher."""
    model = TwoPart(nn.Identity(), Function(lambda A: A.mean((2, 3)).sum(1)))
    x = torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)
    units = LayerRSIGradCam(model, model.layer).conductance(x, n_steps=512)
    assert units.dtype == torch.bfloat16
    torch.testing.assert_close(units, torch.full_like(units, 0.25))
    maps = LayerIntegratedGradCam(model, model.layer).attribute(x, n_steps=512)
    assert maps.dtype == torch.bfloat16
    torch.testing.assert_close(maps, torch.full_like(maps, 0.5))


def test_results_are_detached():
    model, x = network(), random(1, 2, 6, 6).requires_grad_()
    for method in (LayerRSIGradCam, LayerIntegratedGradCam):
        assert not method(model, model.layer).attribute(x, target=0).requires_grad


def alone(model, layer, x, **options):
    """What three integrands give when each has a path of its own."""
    rsi, igc = (
        kind(model, layer) for kind in (LayerRSIGradCam, LayerIntegratedGradCam)
    )
    return [
        rsi.attribute(x, weighting="selected", **options),
        igc.attribute(x, relu_attributions=False, **options),
        rsi.conductance(x, **options),
    ]


THREE = [
    RSIGradCamIntegrand(weighting="selected"),
    IntegratedGradCamIntegrand(relu_attributions=False),
    ConductanceIntegrand(),
]


@pytest.mark.parametrize("method", [*METHODS, "logistic_trapezoid"])
def test_several_integrals_are_those_of_each_method(method):
    model, x = network(), random(3, 2, 6, 6)
    options = {"target": [0, 2, 1], "n_steps": 7, "method": method}
    model.layer = layer = Counting(model.layer)
    maps = LayerPathIntegrals(model, layer, integrands=THREE).attribute(
        x, 0.1, **options
    )
    assert sum(layer.rows) == 3 * 8  # a walk of one method
    expected = alone(model, layer, x, baselines=0.1, **options)
    torch.testing.assert_close(maps, expected)


def test_several_integrals_of_several_layers_and_tensors():
    def split(x):
        return x[:, :1] * 2, x[:, 1:].square()

    model = TwoPart(
        Function(split), Function(lambda ab: ab[0].sum((1, 2)) * ab[1].mean((1, 2)))
    )
    x = random(2, 3, 4)
    integrals = LayerPathIntegrals(model, [model.layer], integrands=THREE)
    maps, alphas = integrals.attribute(x, n_steps=4, return_alphas=True)
    torch.testing.assert_close(maps, alone(model, [model.layer], x, n_steps=4))
    assert [place.tolist() for place in alphas] == [[0, 0.25, 0.5, 0.75, 1]] * 2


def test_several_integrals_within_a_tolerance():
    """Each map is as near to its own limit as if it were alone."""
    model, x = network(softmax=True, gain=20.0), random(2, 2, 6, 6)
    integrands = [RSIGradCamIntegrand(), IntegratedGradCamIntegrand()]
    integrals = LayerPathIntegrals(model, model.layer, integrands=integrands)
    options = {"target": 0, "n_steps": 400, "tolerance": 0.02}
    maps, alphas = integrals.attribute(x, return_alphas=True, **options)
    limit = integrals.attribute(x, target=0, n_steps=3000)
    for found, exact in zip(maps, limit, strict=True):
        error = (found - exact).abs().sum((1, 2, 3)) / exact.abs().sum((1, 2, 3))
        assert (error < 2 * 0.02).all()
    assert all(len(places) < 400 for places in alphas)
