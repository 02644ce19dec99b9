"""Refined paths: tolerance, points, warnings."""

import re
import warnings
from itertools import product

import pytest
import torch
from torch import nn

from captum_cams import LayerIntegratedGradCam, LayerRSIGradCam
from captum_cams.path import interval_weights
from captum_cams.quadrature import fitted_weights
from tests.models import Function, TwoPart, network, random, saturating
from tests.test_layer_eval import Counting, held_rows

METHODS = [LayerRSIGradCam, LayerIntegratedGradCam]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_the_estimated_error_is_the_errors_size(method, seed):
    model, x = network(gain=20.0, seed=seed), random(4, 2, 6, 8, seed=seed)
    cam = method(model, model.layer)
    exact = cam.attribute(x, target=0, n_steps=800)
    for tolerance in (0.1, 0.01):
        maps, alphas = cam.attribute(
            x, target=0, tolerance=tolerance, n_steps=200, return_alphas=True
        )
        error = (maps - exact).abs().sum((1, 2, 3)) / exact.sum((1, 2, 3))
        assert (error <= 2 * tolerance).all()
        assert max(map(len, alphas)) <= 201


def steep():
    """Saturated at 0, 1/2 and 1: the output steps from 0 to 1 near 0.3."""
    return TwoPart(
        nn.Identity(), Function(lambda A: (400 * (A.mean((1, 2, 3)) - 0.3)).sigmoid())
    )


def test_fewer_points_than_equal_steps_for_the_same_error():
    model, x = steep(), torch.ones(1, 1, 2, 2, dtype=torch.float64)
    rsi = LayerRSIGradCam(model, model.layer)
    maps, alphas = rsi.attribute(x, tolerance=0.01, return_alphas=True)
    equal = rsi.attribute(x, n_steps=len(alphas[0]) - 1)
    exact = 0.25 * x
    assert (maps - exact).abs().sum() < 0.3 * (equal - exact).abs().sum()


@pytest.mark.parametrize("method", METHODS)
def test_the_points_are_those_evaluated(method):
    model, x = network(gain=10.0), random(3, 2, 6, 6)
    model.layer = Counting(model.layer)
    _, alphas = method(model, model.layer).attribute(
        x, target=0, tolerance=0.05, return_alphas=True, internal_batch_size=4
    )
    assert sum(model.layer.rows) == sum(map(len, alphas))
    assert max(model.layer.rows) <= 4
    for places in alphas:
        assert places[0] == 0
        assert places[-1] == 1
        assert (places.diff() > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_examples_points_do_not_depend_on_the_others_or_the_batch(method):
    model, x = network(gain=10.0), random(5, 2, 6, 6)
    cam = method(model, model.layer)
    options = {"target": 0, "tolerance": 0.03, "return_alphas": True}
    maps, alphas = cam.attribute(x, **options)
    for batch in (1, 2, 7, 100):
        again, places = cam.attribute(x, **options, internal_batch_size=batch)
        torch.testing.assert_close(again, maps)
        assert all(map(torch.equal, places, alphas))
    alone, places = cam.attribute(x[3:4], **options)
    torch.testing.assert_close(alone, maps[3:4])
    assert torch.equal(places[0], alphas[3])


@pytest.mark.parametrize("method", METHODS)
def test_one_warning_says_how_far_it_got(method):
    model, x = network(gain=10.0), random(3, 2, 6, 6)
    cam = method(model, model.layer)
    words = (
        "tolerance 1e-09 was not met within n_steps = 4 intervals for 3 of 3 examples"
    )
    with pytest.warns(UserWarning, match=re.escape(words)) as caught:
        _, alphas = cam.attribute(
            x, target=0, tolerance=1e-9, n_steps=4, return_alphas=True
        )
    assert len(caught) == 1
    assert [len(places) for places in alphas] == [5, 5, 5]
    assert caught[0].filename == __file__


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_few_steps(n_steps):
    """Where they miss no map, they may yet miss a step of the output."""
    model, x = network(), random(1, 2, 6, 6)
    cam = LayerRSIGradCam(model, model.layer)
    with pytest.warns(UserWarning, match="was not met within n_steps"):
        _, alphas = cam.attribute(
            x, target=0, tolerance=1e-9, n_steps=n_steps, return_alphas=True
        )
    assert len(alphas[0]) == n_steps + 1
    words = (
        f"not sure to be met within n_steps = {n_steps} intervals.*allow more n_steps"
    )
    with pytest.warns(UserWarning, match=words):
        cam.attribute(x, target=0, tolerance=1e9, n_steps=n_steps)


def linear_head():
    return TwoPart(nn.ReLU(), Function(lambda A: A.mean((2, 3)) + 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_equal_steps_get_right_at_once_takes_few_points(dtype):
    """The indicators are rounding errors; what the output does decides alone."""
    model = linear_head()
    x = random(8, 2, 6, 6).to(dtype)
    starts = random(8, 2, 6, 6, seed=1).to(dtype)
    _, alphas = LayerRSIGradCam(model, model.layer).attribute(
        x, starts, target=0, tolerance=0.01, return_alphas=True
    )
    assert max(map(len, alphas)) <= 12


def test_rounding_of_the_output_is_no_growth():
    model = TwoPart(nn.Identity(), Function(lambda A: 100 + 1e-5 * A.mean((2, 3))))
    x = torch.full((1, 1, 6, 6), 1.5)  # two of the smallest steps at 100
    _, alphas = LayerRSIGradCam(model, model.layer).attribute(
        x, target=0, tolerance=0.01, return_alphas=True
    )
    assert len(alphas[0]) <= 5


def test_a_slow_example_leaves_batches_full():
    """Its neighbors are done long before it: others take their places."""
    gains = torch.full((64, 1), 0.1, dtype=torch.float64)
    gains[::32] = 400
    layer = Counting(nn.Identity())

    def forward(x, gain):
        return (gain * (layer(x).mean((2, 3)) - 0.3)).sigmoid()

    x = torch.ones(64, 1, 2, 2, dtype=torch.float64)
    cam = LayerRSIGradCam(forward, layer)
    maps, alphas = cam.attribute(
        x, None, 0, gains, tolerance=0.01, internal_batch_size=8, return_alphas=True
    )
    assert len(layer.rows) <= 1.3 * sum(map(len, alphas)) / 8
    slow = cam.attribute(x[:1], None, 0, gains[:1], tolerance=0.01)
    quick = cam.attribute(x[:1], None, 0, gains[1:2], tolerance=0.01)
    expected = torch.where(gains.view(64, 1, 1, 1) > 1, slow, quick)
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_no_point_comes_twice_in_a_coarse_dtype(dtype):
    model = steep()
    x = torch.ones(1, 1, 2, 2, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, alphas = LayerRSIGradCam(model, model.layer).attribute(
            x, tolerance=1e-6, return_alphas=True
        )
    assert len(alphas[0].to(dtype).unique()) == len(alphas[0])


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_no_more_is_held_than_the_points_of_the_examples_under_way(batch, monkeypatch):
    """Kept points are no views of a batch whose other rows could go."""
    held = held_rows(monkeypatch)
    model, x = network(gain=10.0), random(16, 2, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LayerRSIGradCam(model, model.layer).attribute(
            x, target=0, tolerance=1e-9, n_steps=20, internal_batch_size=batch
        )
    assert max(held) <= 2 * batch * (21 + 1)  # A and dy/dA


def test_equal_steps_have_equal_places():
    model, x = network(), random(2, 2, 6, 6)
    for method in METHODS:
        _, alphas = method(model, model.layer).attribute(
            x, target=0, n_steps=4, return_alphas=True
        )
        assert [places.tolist() for places in alphas] == [[0, 0.25, 0.5, 0.75, 1]] * 2
        assert alphas[0] is not alphas[1]


def test_two_flat_ends_do_not_hide_a_step():
    model = steep()
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    units, delta, alphas = LayerRSIGradCam(model, model.layer).conductance(
        x, tolerance=0.01, return_convergence_delta=True, return_alphas=True
    )
    torch.testing.assert_close(units, torch.full_like(x, 0.25), rtol=0.02, atol=0)
    assert delta.abs() < 0.02
    assert len(alphas[0]) <= 25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("start", [0.0, 0.5, 0.9])
def test_nor_in_a_coarse_dtype(start, dtype):
    """Half of the outputs' steps are rounding there, and growth all the same."""
    height = 0.99 - start
    model = TwoPart(
        nn.Identity(),
        Function(
            lambda A: start + height * (100 * (A.mean((1, 2, 3)) - 0.3)).sigmoid()
        ),
    )
    rsi = LayerRSIGradCam(model, model.layer)
    x = torch.ones(1, 1, 2, 2, dtype=dtype)
    units, alphas = rsi.conductance(x, tolerance=0.1, return_alphas=True)
    assert abs(units.sum().item() - height) <= 0.2 * height
    assert len(alphas[0]) <= 25


def test_a_tolerance_out_of_reach_ends_early():
    """What intervals miss that cannot be halved, others cannot make up for."""
    model = steep()
    with pytest.warns(UserWarning, match=r"go up to .*: allow a larger tolerance"):
        _, alphas = LayerRSIGradCam(model, model.layer).attribute(
            torch.ones(1, 1, 2, 2, dtype=torch.bfloat16),
            tolerance=1e-6,
            n_steps=1000,
            return_alphas=True,
        )
    assert len(alphas[0]) < 50


def test_a_layer_without_effect_is_a_zero_map():
    model = TwoPart(nn.Identity(), Function(lambda A: 0 * A.sum((2, 3))))
    for method in METHODS:
        with pytest.warns(UserWarning, match="the map is 0 for examples 0, 1"):
            maps, alphas = method(model, model.layer).attribute(
                random(2, 3, 4, 4), target=0, tolerance=0.01, return_alphas=True
            )
        assert (maps == 0).all()
        assert [len(places) for places in alphas] == [3, 3]


def test_list_of_layers_shares_its_points():
    model, x = network(gain=5.0), random(2, 2, 6, 6)
    layers = [model.layer[0], model.head[1]]
    for method in METHODS:
        cam = method(model, layers)
        maps = cam.attribute(x, target=0, tolerance=0.02, n_steps=100)
        assert len(maps) == 2
        exact = cam.attribute(x, target=0, n_steps=500)
        for ours, true in zip(maps, exact, strict=True):
            assert (ours - true).abs().sum() < 0.05 * true.sum()


def test_a_tolerance_needs_a_rule_with_two_ends():
    model, x = network(), random(1, 2, 6, 6)
    for method in METHODS:
        cam = method(model, model.layer)
        with pytest.raises(ValueError, match="method with a tolerance must be one of"):
            cam.attribute(x, target=0, tolerance=0.1, method="riemann_right")
        with pytest.raises(ValueError, match="tolerance must be finite and above 0"):
            cam.attribute(x, target=0, tolerance=0.0)
        with pytest.raises(ValueError, match="equal steps, got inf"):
            cam.attribute(x, target=0, tolerance=float("inf"))
        for word in (True, "0.1", [0.1]):
            with pytest.raises(TypeError, match="tolerance must be a number, or None"):
                cam.attribute(x, target=0, tolerance=word)
        cam.attribute(
            x, target=0, tolerance=0.1, method="riemann_trapezoid", n_steps=100
        )


def test_logistic_weights_integrate_a_sigmoid_exactly():
    """y = sigmoid(s t): its derivative's integral over one interval is y(1) - y(0)."""
    for low, high in ((-3.0, 2.0), (-12.0, 4.0), (0.1, 0.2), (-9.0, 9.0), (3.0, -5.0)):
        ends = torch.tensor([low, high], dtype=torch.float64)
        y = ends.sigmoid()
        slope = (high - low) * y * (1 - y)
        start, end = interval_weights("logistic_trapezoid", y[:1], y[1:])
        integral = start * slope[0] + end * slope[1]
        torch.testing.assert_close(integral[0], y[1] - y[0], rtol=1e-4, atol=0)


def test_logistic_weights_are_the_trapezoids_where_nothing_is_steep():
    y = torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=torch.float64)
    after = torch.tensor([0.3 + 1e-9, 0.5, 1.5, 2.0], dtype=torch.float64)
    for weight in interval_weights("logistic_trapezoid", y, after):
        torch.testing.assert_close(weight, torch.full_like(y, 0.5))


@pytest.mark.parametrize("method", METHODS)
def test_the_logistic_rule_converges_to_the_same_integral(method):
    model, x = network(gain=10.0), random(2, 2, 6, 6)
    cam = method(model, model.layer)
    exact = cam.attribute(x, target=0, n_steps=400)
    logistic = cam.attribute(x, target=0, n_steps=200, method="logistic_trapezoid")
    torch.testing.assert_close(logistic, exact, rtol=1e-2, atol=1e-5)


def test_progress_counts_the_points(capsys):
    model, x = network(gain=10.0), random(2, 2, 6, 6)
    _, alphas = LayerRSIGradCam(model, model.layer).attribute(
        x, target=0, tolerance=0.05, return_alphas=True, show_progress=True
    )
    assert f"{sum(map(len, alphas))}point" in capsys.readouterr().err


def test_a_jump_ends_in_a_warning_however_many_steps_are_allowed():
    """Halving stops before neighbors become one number."""
    model = TwoPart(
        nn.Identity(),
        Function(
            lambda A: 0.01 * A.mean((1, 2, 3)) + (A.mean((1, 2, 3)) > 0.3).float()
        ),
    )
    for method in METHODS:
        with pytest.warns(UserWarning, match="explain an output that does not jump"):
            _, alphas = method(model, model.layer).attribute(
                torch.ones(1, 1, 6, 6), tolerance=0.01, n_steps=1000, return_alphas=True
            )
        assert len(alphas[0]) < 50


def capped(a):
    """The paper's f(x) = 1 - ReLU(1 - x)."""
    return 1 - torch.relu(1 - a)


def told(method, model, x, tolerance, **options):
    """Maps under a tolerance, and the warnings of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = method(model, model.layer).attribute(x, tolerance=tolerance, **options)
    return maps, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        *product([torch.float32, torch.float64], [0.1, 0.05, 0.01]),
        # At 0.01 the kinks lie between neighboring numbers of half precision.
        *product([torch.float16], [0.1, 0.05]),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_the_papers_toy_keeps_every_tolerance(method, tolerance, dtype):
    """A probability by its values, but no logistic: w0 would be 1e11 from 0 to 1."""
    model = saturating()
    x = torch.linspace(1.3, 37, 103).to(dtype).view(-1, 1, 1, 1)
    maps, alphas = method(model, model.layer).attribute(
        x, tolerance=tolerance, return_alphas=True
    )
    # I = 1 and A(1) = x; the integral of x alpha up to 1 / x is 1 / (2 x).
    exact = x.double() if method is LayerRSIGradCam else 0.5 / x.double()
    error = (maps.double() / exact - 1).abs()
    assert error.max() <= 2.5 * tolerance
    assert error.mean() <= tolerance
    assert sum(map(len, alphas)) <= 18 * len(x)


def heads(kind, seed):
    """Relatives of the toy: kinks of several channels and units, of either sign."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    scale, weight = 15 * draw(3, 2, 2), draw(3, 2, 2)
    if kind == "differences":
        weight[1:] *= -0.4
    model = TwoPart(
        nn.Identity(),
        Function(lambda A: (weight * capped(scale * A)).mean((1, 2, 3))),
    )
    return model, 2 * draw(1, 3, 2, 2)


def bias_free(seed, target=0.9):
    """ReLUs without biases whose logits lie in (0, 1)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TwoPart(
            nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.ReLU()),
            nn.Sequential(
                nn.Conv2d(4, 8, 3, padding=1, bias=False),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(200, 1, bias=False),
            ),
        ).double()
    x = random(1, 2, 5, 5, seed=seed)
    with torch.no_grad():
        model.head[-1].weight *= target / model(x)
    return model, x


@pytest.mark.parametrize("tolerance", [0.1, 0.03])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["sums", "differences", "bias-free"])
@pytest.mark.parametrize("method", METHODS)
def test_an_error_is_small_or_told(method, kind, seed, tolerance):
    if kind == "bias-free":
        model, x = bias_free(seed)
        start = random(1, 2, 5, 5, seed=100 + seed)
    else:
        (model, x), start = heads(kind, seed), None
    exact = method(model, model.layer).attribute(
        x, start, n_steps=2000, internal_batch_size=500
    )
    maps, messages = told(method, model, x, tolerance, baselines=start)
    error = (maps - exact).abs().sum() / exact.abs().sum()
    assert error <= 3 * tolerance or messages


@pytest.mark.parametrize(
    "places", [[0.3], [0.31, 0.67], [0.13, 0.29, 0.41, 0.57, 0.83]]
)
@pytest.mark.parametrize("steepness", [50, 3000])
@pytest.mark.parametrize("method", METHODS)
def test_steps_are_resolved_or_told(method, steepness, places):
    """Flat ends hide each of them, and none need be a third of the output's growth."""
    at = torch.tensor(places, dtype=torch.float64)
    model = TwoPart(
        nn.Identity(),
        Function(lambda A: (steepness * (A.mean((2, 3)) - at)).sigmoid().mean(1)),
    )
    maps, messages = told(method, model, torch.ones(1, 1, 2, 2).double(), 0.05)
    # RSI: I = 1 / 4 a unit; IGC: sum of y' = 1 a step, times the place where it is.
    exact = 0.25 if method is LayerRSIGradCam else at.mean()
    assert ((maps - exact).abs() <= 0.15 * exact).all() or messages


@pytest.mark.parametrize("method", METHODS)
def test_an_output_that_stays_where_it_is(method):
    """Two channels rise and fall alike: neither growth nor gap shows their kinks."""
    layer = Function(lambda x: torch.cat([x, 2 * x], 1))
    model = TwoPart(
        layer,
        Function(lambda A: (capped(A[:, 0]) - capped(A[:, 1] / 2)).sum((1, 2)) + 3),
    )
    for end in (2.9, 7.3, 21.7):
        x = torch.full((1, 1, 1, 1), end, dtype=torch.float64)
        exact = method(model, layer).attribute(x, n_steps=4000, relu_attributions=False)
        options = {"relu_attributions": False, "n_steps": 100}
        maps, messages = told(method, model, x, 0.05, **options)
        assert (maps - exact).abs() <= 0.15 * exact.abs() or messages


class Around(nn.Module):
    """Part of the output does not pass through the layer."""

    def __init__(self, output=torch.sigmoid) -> None:
        super().__init__()
        self.layer = Function(torch.tanh)
        self.output = output

    def forward(self, x):
        a, b = self.layer(x).mean((1, 2, 3)), x.square().mean((1, 2, 3))
        return self.output(a + b)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("output", [torch.sigmoid, lambda z: 3 - z])
def test_a_gap_that_no_step_closes_is_told_and_costs_little(method, output):
    model, x = Around(output), random(2, 1, 4, 4)
    exact = method(model, model.layer).attribute(x, n_steps=2000)
    words = "for 2 of 2 examples, where the unit integrals add up to something else"
    with pytest.warns(UserWarning, match=words) as caught:
        maps, alphas = method(model, model.layer).attribute(
            x, tolerance=0.02, return_alphas=True
        )
    assert len(caught) == 1
    assert max(map(len, alphas)) <= 20
    assert (maps - exact).abs().sum() <= 0.05 * exact.sum()


def test_rectified_gradients_are_not_to_add_up():
    model, x = network(gain=5.0), random(2, 2, 6, 6)
    rsi = LayerRSIGradCam(model, model.layer)
    options = {"target": 0, "weighting": "positive_gradients"}
    maps = rsi.attribute(x, tolerance=0.05, **options)  # no warning of a gap
    exact = rsi.attribute(x, n_steps=500, **options)
    assert (maps - exact).abs().sum() <= 0.1 * exact.sum()


def test_integrated_grad_cam_sees_gradients_where_its_map_starts():
    """At 0, 1/2 and 1 the map is 0: A(0) - A(0), and a dead unit."""
    model = TwoPart(
        nn.Identity(), Function(lambda A: capped(A[:, 0]).sum((1, 2)) + 0 * A.sum())
    )
    x = torch.full((1, 2, 1, 1), 9.0)
    maps = LayerIntegratedGradCam(model, model.layer).attribute(x, tolerance=0.05)
    assert maps.item() == pytest.approx(0.5 / 9, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("tensors", [1, 2])
def test_logistic_weights_leave_other_outputs_to_the_trapezoid(tensors, dtype):
    """A linear output in (0, 1) is exact, however few the steps."""

    def split(x):
        return x if tensors == 1 else (x[:, :1], x[:, 1:])

    def mean(A):
        return (A if tensors == 1 else torch.cat(A, 1)).mean((1, 2, 3))

    model = TwoPart(Function(split), Function(mean))
    x = torch.full((2, 3, 4, 4), 0.4, dtype=dtype)
    for n_steps in (1, 2, 7):
        for method in METHODS:
            logistic, plain = (
                method(model, model.layer).attribute(x, n_steps=n_steps, method=rule)
                for rule in ("logistic_trapezoid", "riemann_trapezoid")
            )
            torch.testing.assert_close(logistic, plain)
        _, delta = LayerRSIGradCam(model, model.layer).conductance(
            x, n_steps=n_steps, method="logistic_trapezoid",
            return_convergence_delta=True,
        )  # fmt: skip
        assert delta.abs().max() <= 4 * torch.finfo(dtype).eps


def test_logistic_weights_do_not_trust_a_sum_in_which_units_cancel():
    """The output steps past all gradients, so no rule fits its growth."""
    model = TwoPart(
        nn.Identity(),
        Function(lambda A: A[:, 0].mean((1, 2)) - A[:, 1].mean((1, 2)) + (A[:, 0, 0, 0] > 0.6) / 2),
    )  # fmt: skip
    x = torch.ones(1, 2, 2, 2)
    rsi = LayerRSIGradCam(model, model.layer)
    units = rsi.conductance(x, n_steps=1, method="logistic_trapezoid")
    assert units.abs().max() <= 1
    igc = LayerIntegratedGradCam(model, model.layer)
    channels = igc.attribute(
        x, n_steps=1, method="logistic_trapezoid", attr_dim_summation=False
    )
    assert channels.abs().max() <= 1


def test_weights_are_fitted_interval_by_interval():
    """A logistic, a straight line, and ends where nothing is known."""
    ends = torch.tensor([[-3.0, 1.0], [-9.0, 4.0]]).double()
    y = torch.cat([ends.sigmoid(), torch.tensor([[0.1, 0.4], [0.0, 1.0]]).double()])
    steep = (ends[:, 1] - ends[:, 0])[:, None] * y[:2] * (1 - y[:2])
    sums = torch.cat([steep, torch.tensor([[0.3, 0.3], [1.0, 0.0]]).double()])
    start, end = ((3 * sums[:, i], sums[:, i]) for i in (0, 1))  # units of either sign
    weights = fitted_weights(y[:, 0], y[:, 1], start, end)
    logistic = interval_weights("logistic_trapezoid", y[:, 0], y[:, 1])
    for ours, theirs in zip(weights, logistic, strict=True):
        torch.testing.assert_close(ours[:2], theirs[:2])
        assert ours[2:].tolist() == [0.5, 0.5]
