"""
Which axioms hold for which methods, on random small networks; where one fails, a case.

Networks have signed feature maps and a nonlinear head, if a test does not say otherwise.
"""

from typing import NamedTuple

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, LayerGradientXActivation
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from captum_cams import GroupCam, LayerRSIGradCam, Rise
from captum_cams.attr.registry import METHODS
from captum_cams.masks import upsample
from captum_cams.path import RULES, quadrature
from tests.methods import (
    METHOD_NAMES,
    OURS,
    WITH_BASELINES,
    WITH_LAYER,
    explain,
    with_axiom,
)
from tests.models import Function, TwoPart, network, random, saturating

seeds = st.integers(0, 2**32 - 1)
few = st.integers(1, 3)
factors = st.floats(1e-3, 1e3)
coefficients = st.floats(-3, 3)

# Of Captum, what shares an axiom with ours is tested beside them.
GRADIENT_CAMS = [
    "grad-cam",
    "positive-grad-cam",
    "grad-cam-plus-plus",
    "x-grad-cam",
    "layer-cam",
    "hi-res-cam",
]
PATHS = ["rsi-grad-cam", "integrated-grad-cam"]
SIGNED = {"relu_attributions": False}
CHANNELS = {"relu_attributions": False, "attr_dim_summation": False}

# Some random networks are dead.
pytestmark = pytest.mark.filterwarnings("ignore:the map is 0 for example")


class Case(NamedTuple):
    model: TwoPart
    x: torch.Tensor  # (N, 2, h, w)
    baseline: torch.Tensor  # of the same shape
    target: torch.Tensor  # (N,)


@st.composite
def cases(draw, softmax=None, examples=few, smallest=1):
    model = network(
        channels=draw(st.integers(2, 6)),
        softmax=draw(st.booleans()) if softmax is None else softmax,
        gain=draw(st.floats(0.5, 4)),
        seed=draw(seeds),
    )
    n, size = draw(examples), [draw(st.integers(smallest, 6)) for _ in range(2)]
    seed = draw(seeds)
    x = draw(st.floats(0.2, 3)) * random(n, 2, *size, seed=seed)
    baseline = draw(st.sampled_from([0, 1])) * random(n, 2, *size, seed=seed + 1)
    target = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return Case(model, x, baseline, torch.tensor(target))


def close(values, expected, rtol=1e-7, atol=1e-9):
    torch.testing.assert_close(values, expected, rtol=rtol, atol=atol)


def differ(values, expected):
    """By far more than rounding errors."""
    return (values - expected).abs().max() > 0.01 * expected.abs().max()


def scores(model, case):
    with torch.no_grad():
        return [
            model(x).gather(1, case.target[:, None])[:, 0]
            for x in (case.baseline, case.x)
        ]


def weighted(model, *coefficients):
    """A sum of the model's first outputs, in one pass."""
    return lambda x: model(x)[:, : len(coefficients)] @ x.new_tensor(coefficients)


def based(name, baseline):
    """The baseline, for a method that takes one."""
    return {"baselines": baseline} if name in WITH_BASELINES else {}


def conductance(model, x, baseline=None, target=None, n_steps=5, layer=None, **options):
    rsi = LayerRSIGradCam(model, layer or model.layer)
    return rsi.conductance(x, baseline, target, n_steps=n_steps, **options)


class TestCompleteness:
    """The unit integrals add up to y(1) - y(0), in the limit."""

    @given(cases())
    def test_holds_for_unit_integrals(self, case):
        model, x, baseline, target = case
        units = conductance(model, x, baseline, target, n_steps=100)
        y0, y1 = scores(model, case)
        close(units.sum((1, 2, 3)), y1 - y0, rtol=0, atol=0.01 * (1 + y1.abs().max()))

    @given(cases(), st.sampled_from([8, 16]))
    def test_error_falls_with_the_square_of_the_steps(self, case, n):
        """The error at n steps is C / n^2, but for what falls faster."""
        model, x, baseline, target = case

        def rest(n_steps):
            units = conductance(model, x, baseline, target, n_steps=n_steps)
            y0, y1 = scores(model, case)
            return units.sum((1, 2, 3)) - (y1 - y0)

        # Of three errors the C / n^2 is taken out twice: next comes n^-4.
        coarse, middle, fine = rest(4 * n), rest(8 * n), rest(16 * n)
        remainder = (middle - fine * 4).abs()
        assert (remainder <= 0.3 * (coarse - middle * 4).abs() + 1e-6).all()

    @given(cases())
    def test_holds_for_layers_on_the_way_alike(self, case):
        """Each of several layers that everything passes accounts for the same."""
        model, x, baseline, target = case
        layers = [model.layer[0], model.layer, model.head[0], model.head[1]]
        y0, y1 = scores(model, case)
        units = conductance(model, x, baseline, target, 100, layer=layers)
        for integrals in units:
            close(integrals.flatten(1).sum(1), y1 - y0, 0, 0.01 * (1 + y1.abs().max()))

    def test_stops_where_something_bypasses_the_layer(self):
        layer = nn.Identity()
        model = Function(lambda x: (layer(2 * x) + 3 * x).sum((1, 2, 3)))
        units = conductance(model, random(1, 1, 2, 2), layer=layer)
        close(units, 2 * random(1, 1, 2, 2))  # of a rise of 5 x

    def test_stops_for_maps(self):
        """Maps multiply by A once more, or sum gradients: neither adds up."""
        model, x = network(), random(2, 2, 6, 6)
        with torch.no_grad():
            rise = (model(x) - model(0 * x))[:, 0]
        for name in [*PATHS, "group-cam", "hi-res-cam"]:
            maps = explain(name, model, model.layer, x, target=0, **SIGNED)
            assert differ(maps.sum((1, 2, 3)), rise)

    def test_stops_for_positive_gradients(self):
        """The signed means of units add up; those of rectified gradients do not."""
        model = TwoPart(
            Function(lambda x: x),
            Function(lambda A: A[:, 0].sum((1, 2)) - A[:, 1].sum((1, 2))),
        )
        x = torch.ones(1, 2, 1, 1)
        rsi = LayerRSIGradCam(model, model.layer)
        for weighting, expected in (("signed", 0), ("positive_gradients", 1)):
            maps, delta = rsi.attribute(
                x, weighting=weighting, return_convergence_delta=True, **SIGNED
            )
            assert (maps.item(), delta.item()) == (expected, expected)


class TestSensitivity:
    """Where one unit alone changes, and the output does, the unit gets weight."""

    @given(cases(smallest=2), st.data())
    def test_holds_for_unit_integrals_and_rsi(self, case, data):
        K, side = case.model.head[0].in_channels, data.draw(st.integers(1, 4))
        model = TwoPart(nn.Identity(), case.model.head)
        A0 = random(1, K, side, side, seed=data.draw(seeds))
        k, i = data.draw(st.integers(0, K - 1)), data.draw(st.integers(0, side - 1))
        A1 = A0.clone()
        A1[0, k, i, i] += data.draw(st.sampled_from([-2.0, 1.5]))
        rise = (model(A1) - model(A0))[0, 0].item()
        assume(abs(rise) > 1e-3)
        units = conductance(model, A1, A0, 0, n_steps=200)
        alone = torch.zeros_like(units)
        alone[0, k, i, i] = units[0, k, i, i]
        assert torch.equal(units, alone)
        assert units.sum().item() == pytest.approx(rise, rel=0.02)
        maps = explain(
            "rsi-grad-cam",
            model,
            model.layer,
            A1,
            baselines=A0,
            target=0,
            n_steps=200,
            **SIGNED,
        )
        close(
            maps,
            units.sum((2, 3), keepdim=True)[:, k : k + 1] / side**2 * A1[:, k : k + 1],
        )

    @given(st.floats(1.2, 9))
    def test_stops_for_gradients_of_the_input_alone(self, x):
        """f(x) = 1 - ReLU(1 - x) is flat where the input lies."""
        model, x = saturating(), torch.full((1, 1, 1, 1), x).double()
        for name in GRADIENT_CAMS:
            assert explain(name, model, model.layer, x).item() == 0
        assert explain("rsi-grad-cam", model, model.layer, x, n_steps=50).item() > 0.5
        group_cam = explain("group-cam", model, model.layer, x, groups=1)
        assert group_cam.item() == 0

    @given(st.floats(0.1, 9), st.floats(-2, 2), st.integers(1, 20))
    def test_holds_for_integrated_grad_cam_of_a_channel_that_only_helps(self, x, b, n):
        """Above 0 where the output grows with every unit of the one channel."""
        model = TwoPart(
            nn.Identity(), Function(lambda A: (A + b).sigmoid().sum((1, 2, 3)))
        )
        x = torch.tensor([x, 0.0]).double().view(1, 1, 1, 2)
        maps = explain("integrated-grad-cam", model, model.layer, x, n_steps=n)
        assert maps.flatten()[0] > 0 and maps.flatten()[1] == 0

    def test_stops_for_integrated_grad_cam_where_gradients_cancel(self):
        """A channel's gradients are summed over its units, whichever of them moved."""
        model = TwoPart(
            nn.Identity(), Function(lambda A: A[:, 0, 0, 0] - A[:, 0, 0, 1])
        )
        x = torch.tensor([[[[1.0, 0.0]]]])
        assert (explain("integrated-grad-cam", model, model.layer, x) == 0).all()
        assert explain("rsi-grad-cam", model, model.layer, x).flatten().tolist() == [
            0.5,
            0,
        ]


class TestDummy:
    """What the output does not depend on gets nothing."""

    @staticmethod
    def with_dummy(case, seed):
        """Channel 0 is one that the head never sees."""
        extra = random(1, 1, 1, 1, seed=seed)
        return TwoPart(
            Function(
                lambda x: torch.cat(
                    [extra * x[:, :1, ::2, ::2], case.model.layer(x)], 1
                )
            ),
            Function(lambda A: case.model.head(A[:, 1:])),
        )

    @pytest.mark.parametrize("name", with_axiom("dummy"))
    @given(cases(), seeds)
    def test_holds_for_channels(self, name, case, seed):
        model, (_, x, baseline, target) = self.with_dummy(case, seed), case
        options = {**based(name, baseline), "target": target}
        maps = explain(name, model, model.layer, x, **options, **CHANNELS)
        assert (maps[:, 0] == 0).all()
        plain = explain(name, case.model, case.model.layer, x, **options, **CHANNELS)
        close(maps[:, 1:], plain)

    @given(cases(), seeds)
    def test_holds_for_unit_integrals(self, case, seed):
        """Also for the units of a channel of which others count."""
        head = Function(
            lambda A: case.model.head(torch.cat([A[..., :1], 0 * A[..., 1:]], 3))
        )
        model = TwoPart(case.model.layer, head)
        units = conductance(model, *case[1:])
        assert (units[..., 1:] == 0).all()

    @given(cases(), seeds)
    def test_holds_for_groups_by_gradients(self, case, seed):
        """A dummy channel in a group leaves the group's mask alone."""
        model = self.with_dummy(case, seed)
        options = {"target": case.target, "groups": 1, "baselines": case.baseline}
        maps = explain("group-cam", model, model.layer, case.x, **options)
        plain = explain("group-cam", case.model, case.model.layer, case.x, **options)
        close(maps, plain)

    def test_stops_for_maps_of_units(self):
        """A weight is its channel's: a dummy unit is shown where others are not."""
        model = TwoPart(nn.Identity(), Function(lambda A: A[:, 0, 0, 0]))
        x = torch.ones(1, 1, 1, 2)
        for name in PATHS:
            maps = explain(name, model, model.layer, x)
            assert maps.flatten()[1] > 0

    def test_stops_for_masks_without_gradients(self):
        """Score-CAM gives every channel weight, RISE every pixel a share."""
        x = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
        model = TwoPart(nn.Identity(), Function(lambda A: A[:, 0].sum((1, 2))))
        assert explain("score-cam", model, model.layer, x).flatten()[1] > 0.1
        masks = GroupCam(model, model.layer)
        maps = masks.attribute(
            torch.ones(1, 2, 1, 2) + x, 0, groups=2, use_gradients=False
        )
        assert maps.flatten()[1] > 0.1
        maps = Rise(lambda x: x[:, 0, :4, :4].mean((1, 2))).attribute(
            torch.ones(1, 1, 8, 8), n_masks=500, grid_size=4
        )
        assert maps[..., 6:, 6:].min() > 0.1


class TestLinearity:
    """The map of a f + b g is a times that of f and b times that of g."""

    @pytest.mark.parametrize(
        "name", [name for name in with_axiom("linearity") if METHODS[name].has_layer]
    )
    @given(cases(), coefficients, coefficients)
    def test_holds_for_signed_maps(self, name, case, a, b):
        model, x, baseline, _ = case

        def maps(forward):
            return explain(
                name, forward, model.layer, x, **based(name, baseline), **SIGNED
            )

        together = maps(weighted(model, a, b))
        close(
            together,
            a * maps(weighted(model, 1.0)) + b * maps(weighted(model, 0.0, 1.0)),
        )

    @pytest.mark.parametrize("name", ["conductance", "rise"])
    @given(cases(smallest=2), coefficients, coefficients)
    def test_holds_for_unit_integrals_and_rise(self, name, case, a, b):
        model, x, baseline, _ = case

        def values(forward):
            if name == "rise":
                return explain(name, forward, None, x, baselines=baseline)
            return conductance(forward, x, baseline, layer=model.layer)

        together = values(weighted(model, a, b))
        close(
            together,
            a * values(weighted(model, 1.0)) + b * values(weighted(model, 0.0, 1.0)),
        )

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("rsi-grad-cam", {}),  # the last ReLU
            ("integrated-grad-cam", {}),
            ("rsi-grad-cam", {"weighting": "positive", **SIGNED}),
            ("rsi-grad-cam", {"weighting": "selected", **SIGNED}),
            ("rsi-grad-cam", {"weighting": "positive_gradients", **SIGNED}),
            ("rsi-grad-cam", {"method": "logistic_trapezoid", **SIGNED}),
            ("integrated-grad-cam", {"method": "logistic_trapezoid", **SIGNED}),
            ("group-cam", SIGNED),
            ("positive-grad-cam", SIGNED),
            ("grad-cam-plus-plus", SIGNED),
            ("layer-cam", SIGNED),
            ("ablation-cam", SIGNED),
            ("score-cam", SIGNED),
        ],
    )
    def test_stops_elsewhere(self, name, options):
        model, x = network(gain=20.0), random(2, 2, 6, 6)

        def maps(forward):
            return explain(name, forward, model.layer, x, **options)

        together = maps(weighted(model, 1.0, -2.0))
        parts = maps(weighted(model, 1.0)) - 2 * maps(weighted(model, 0.0, 1.0))
        assert differ(together, parts)


class TestSymmetry:
    """Channels that are alike to the head and alike in value are treated alike."""

    @pytest.mark.parametrize("name", ["conductance", *with_axiom("symmetry")])
    @given(cases())
    def test_holds_for_twins(self, name, case):
        """The last channel is the first one's twin."""
        layer, head = case.model.layer, case.model.head
        model = TwoPart(
            Function(lambda x: (lambda A: torch.cat([A, A[:, :1]], 1))(layer(x))),
            Function(lambda A: head(torch.cat([A[:, :1] * A[:, -1:], A[:, 1:-1]], 1))),
        )
        _, x, baseline, target = case
        if name == "conductance":
            maps = conductance(model, x, baseline, target)
        else:
            options = {**based(name, baseline), "target": target}
            maps = explain(name, model, model.layer, x, **options, **CHANNELS)
        close(maps[:, 0], maps[:, -1])

    @pytest.mark.parametrize("name", WITH_LAYER)
    @given(cases(), st.data())
    def test_holds_for_any_order_of_channels(self, name, case, data):
        """Of Group-CAM where every channel or all channels are a group."""
        model, x, baseline, target = case
        K = model.head[0].in_channels
        order = torch.tensor(data.draw(st.permutations(range(K))))
        other = TwoPart(
            Function(lambda x: model.layer(x)[:, order]),
            Function(lambda A: model.head(A[:, order.argsort()])),
        )
        options = {**based(name, baseline), "target": target}
        if name == "group-cam":
            options["groups"] = data.draw(st.sampled_from([1, K]))
        maps = explain(name, other, other.layer, x, **options)
        close(maps, explain(name, model, model.layer, x, **options))

    def test_stops_for_groups_of_neighbors(self):
        model, x = network(), random(1, 2, 6, 6)
        order = torch.tensor([0, 2, 4, 1, 3, 5])
        other = TwoPart(
            Function(lambda x: model.layer(x)[:, order]),
            Function(lambda A: model.head(A[:, order.argsort()])),
        )
        maps = [explain("group-cam", m, m.layer, x, target=0) for m in (model, other)]
        assert differ(*maps)


class TestImplementationInvariance:
    """Networks that compute the same get the same map, as far as the layer is the same."""

    @pytest.mark.parametrize("name", with_axiom("implementation_invariance"))
    @given(cases(smallest=2))
    def test_holds_for_what_is_behind_the_layer(self, name, case):
        model, x, baseline, target = case
        other = TwoPart(
            model.layer,
            Function(lambda A: -(-model.head((2 * A + A) / 3)).sinh().asinh()),
        )
        options = {**based(name, baseline), "target": target}
        maps = explain(name, other, other.layer, x, **options)
        close(maps, explain(name, model, model.layer, x, **options))

    @staticmethod
    def mixed(model, M):
        """The same function; the layer's channels are mixed by a matrix."""
        return TwoPart(
            Function(lambda x: torch.einsum("lk,nk...->nl...", M, model.layer(x))),
            Function(
                lambda A: model.head(torch.einsum("lk,nk...->nl...", M.inverse(), A))
            ),
        )

    @pytest.mark.parametrize("name", ["conductance", *with_axiom("channel_scaling")])
    @given(cases(), st.data())
    def test_holds_for_the_scale_of_channels(self, name, case, data):
        model, x, baseline, target = case
        K = model.head[0].in_channels
        c = torch.tensor([data.draw(st.floats(0.1, 10)) for _ in range(K)]).double()
        other = self.mixed(model, c.diag())
        if name == "conductance":
            values = [conductance(m, x, baseline, target) for m in (model, other)]
        else:
            options = {**based(name, baseline), "target": target}
            values = [explain(name, m, m.layer, x, **options) for m in (model, other)]
        close(*values)

    @pytest.mark.parametrize("name", ["conductance", *with_axiom("channel_mixing")])
    @given(cases(), seeds, st.floats(0.3, 3))
    def test_holds_for_any_mixture_of_channels(self, name, case, seed, factor):
        """Of one group of Group-CAM, and of unit integrals summed over channels."""
        model, x, baseline, target = case
        K = model.head[0].in_channels
        other = self.mixed(model, factor * torch.linalg.qr(random(K, K, seed=seed)).Q)
        if name == "conductance":
            values = [
                conductance(m, x, baseline, target).sum(1) for m in (model, other)
            ]
        else:
            options = {**based(name, baseline), "target": target}
            if name == "group-cam":
                options |= {"groups": 1, "denoise_percentile": None}
            values = [explain(name, m, m.layer, x, **options) for m in (model, other)]
        close(*values)

    @pytest.mark.parametrize("name", ["rsi-grad-cam", "ablation-cam", "score-cam"])
    def test_stops_at_the_scale_of_channels(self, name):
        """RSI's weights are the same; the feature maps that they weigh are not."""
        model, x = network(), random(1, 2, 6, 6)
        other = self.mixed(model, torch.tensor([1.0, 2, 3, 4, 5, 6]).double().diag())
        maps = [explain(name, m, m.layer, x, target=0) for m in (model, other)]
        assert differ(*maps)

    @pytest.mark.parametrize("name", WITH_LAYER)
    def test_stops_where_the_layer_is_another(self, name):
        """The same function, whose features another network keeps mirrored."""
        model, x = network(), random(1, 2, 6, 6)
        other = TwoPart(
            Function(lambda x: model.layer(x).flip(3)),
            Function(lambda A: model.head(A.flip(3))),
        )
        close(model(x), other(x))
        maps = [explain(name, m, m.layer, x, target=0) for m in (model, other)]
        assert differ(*maps)


class TestOneByOne:
    """The map of an example depends neither on its neighbors nor on the batches."""

    @pytest.mark.parametrize("name", OURS)
    @given(cases(examples=st.integers(2, 4), smallest=2), st.data())
    def test_holds(self, name, case, data):
        model, x, baseline, target = case
        order = torch.tensor(data.draw(st.permutations(range(len(x)))))
        order = order[: data.draw(st.integers(1, len(x)))]
        batch = data.draw(st.integers(1, 9))

        def maps(rows, **options):
            options |= based(name, baseline[rows])
            return explain(
                name, model, model.layer, x[rows], target=target[rows], **options
            )

        everything = maps(torch.arange(len(x)))
        close(maps(order, internal_batch_size=batch), everything[order])

    @pytest.mark.parametrize("name", PATHS)
    @given(case=cases(softmax=True), batch=st.integers(1, 9), n=st.integers(0, 2))
    def test_holds_with_a_tolerance(self, name, case, batch, n):
        model, x, baseline, target = case
        n = min(n, len(x) - 1)

        def maps(rows, **options):
            return explain(
                name, model, model.layer, x[rows], target=target[rows], n_steps=200,
                tolerance=0.3, baselines=baseline[rows], return_alphas=True, **options,
            )  # fmt: skip

        everything, places = maps(slice(None))
        alone, (place,) = maps(slice(n, n + 1), internal_batch_size=batch)
        close(alone, everything[n : n + 1])
        assert torch.equal(place, places[n])


def rounded(steps):
    """Outputs that a batch's size moves by up to so many of the smallest steps."""

    def move(y):
        return y * (1 + steps * torch.finfo(y.dtype).eps / len(y))

    return move


class TestRounding:
    """What a processor makes of an example's place in a batch is no difference."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("steps", [4, 40, 1000])
    @pytest.mark.parametrize("n", [1, 3, 4])
    def test_ablation_of_what_the_output_does_not_depend_on(self, dtype, steps, n):
        """However deep the network: its rounding is seen where one example ran twice."""
        model, move, x = network().to(dtype), rounded(steps), random(n, 2, 6, 6)
        blind = Function(lambda x: move(1 + 0 * model(x)[:, 0]))
        words = "the map is 0 for example.* without any one of the layer's channels"
        with pytest.warns(UserWarning, match=words):
            maps = explain(
                "ablation-cam", blind, model.layer, x.to(dtype), internal_batch_size=7
            )
        assert (maps == 0).all()

    @pytest.mark.parametrize(("dtype", "loss"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])  # fmt: skip
    def test_ablation_keeps_small_losses(self, dtype, loss):
        """Beside a large one, and alone."""
        x = torch.ones(2, 2, 1, 1, dtype=dtype)
        for large in (0.5, 0.0):
            weights = torch.tensor([large, loss], dtype=dtype)
            model = TwoPart(
                nn.Identity(), Function(lambda A, w=weights: 1 + A[..., 0, 0] @ w)
            )
            maps = explain("ablation-cam", model, model.layer, x, **CHANNELS)
            expected = (weights / (1 + large + loss)).view(1, 2, 1, 1).expand_as(maps)
            close(maps, expected, 0.01, 0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_an_output_of_zero_but_for_rounding(self, dtype):
        """Its map is 0, as that of y = 0 is."""
        model = TwoPart(
            nn.Identity(), Function(lambda A: A[:, 0, 0, 0] * 0.3 - A[:, 1, 0, 0] * 0.1)
        )
        x = torch.tensor([0.1, 0.3], dtype=dtype).view(1, 2, 1, 1)
        for scale in (1, 7):
            maps = explain("ablation-cam", model, model.layer, scale * x)
            assert (maps == 0).all()

    @pytest.mark.parametrize("name", ["group-cam", "score-cam"])
    def test_constant_masks_and_gains(self, name):
        """A feature map that varies by rounding alone masks nothing."""
        noise, x = 1 + 1e-15 * random(1, 1, 4, 4), random(2, 2, 8, 8)
        flat, model = Function(lambda x: 0 * x[:, :1, ::2, ::2] + noise), network()
        forward = Function(lambda x: flat(x).sum((1, 2, 3)) + x.abs().sum((1, 2, 3)))
        options = {"use_gradients": False, "groups": 1} if name == "group-cam" else {}
        maps = explain(name, forward, flat, x, **options)
        close(maps, torch.full_like(maps, float(name == "score-cam")), 1e-12, 0)
        if name == "group-cam":
            blind = Function(lambda x: rounded(8)(1 + 0 * model(x)[:, 0]))
            maps = explain(name, blind, model.layer, x, use_gradients=False)
            assert (maps == 0).all()

    def test_x_grad_cam_of_channels_whose_sums_are_zero(self):
        """Behind an instance normalization they are, but for rounding."""
        model = TwoPart(nn.InstanceNorm2d(3), Function(lambda A: (A**3).sum((1, 2, 3))))
        for dtype in (torch.float32, torch.float64):
            x = random(2, 3, 7, 9).to(dtype)
            maps = explain("x-grad-cam", model, model.layer, x)
            assert (maps == 0).all()

    def test_selected_units_that_come_back(self):
        """A(1) = A(0) but for rounding is no growth, though the integral is not 0."""
        layer = Function(lambda x: torch.cat([0.01 + x * (x - 0.3), x], 1))
        model = TwoPart(layer, Function(lambda A: A.prod(1).flatten(1).sum(1)))
        x = torch.tensor([[[[0.1 + 0.2]]]], dtype=torch.float64)
        options = {"weighting": "selected", "attr_dim_summation": False}
        maps = explain("rsi-grad-cam", model, model.layer, x, **options)
        assert conductance(model, x)[0, 0] > 0.004
        assert maps[0, 0] == 0


class TestPositiveScaling:
    """The map of c y is c^d times that of y, and a degree d of 0 sees no scale."""

    @pytest.mark.parametrize(
        ("name", "degree"),
        [
            (name, METHODS[name].homogeneity)
            for name in METHOD_NAMES
            if METHODS[name].homogeneity is not None
        ],
    )
    @given(cases(smallest=2), factors)
    def test_holds(self, name, degree, case, factor):
        if name == "xrai":
            pytest.importorskip("skimage")
        model, x, baseline, target = case
        options = {**based(name, baseline), "target": target}
        scaled = explain(name, lambda x: factor * model(x), model.layer, x, **options)
        maps = explain(name, model, model.layer, x, **options)
        close(scaled / factor**degree, maps)

    @pytest.mark.parametrize(
        "weighting", ["positive", "selected", "positive_gradients"]
    )
    @given(cases(), factors)
    def test_holds_for_every_weighting(self, weighting, case, factor):
        model, x, baseline, target = case

        def maps(forward):
            rsi = LayerRSIGradCam(forward, model.layer)
            return rsi.attribute(x, baseline, target, n_steps=4, weighting=weighting)

        close(maps(lambda x: factor * model(x)) / factor, maps(model))

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("rsi-grad-cam", {"method": "logistic_trapezoid"}),  # knows probabilities
            ("integrated-grad-cam", {"method": "logistic_trapezoid"}),
            ("grad-cam-plus-plus", {}),
            ("smooth-grad-cam-plus-plus", {}),
            ("score-cam", {}),
        ],
    )
    def test_stops_elsewhere(self, name, options):
        model, x = network(gain=20.0), random(3, 2, 6, 6)
        maps = explain(name, model, model.layer, x, target=0, **options)
        scaled = explain(
            name, lambda x: 100 * model(x), model.layer, x, target=0, **options
        )
        for degree in (0, 1):
            assert differ(scaled / 100**degree, maps)


class TestShift:
    """A model that shifts its input back does not see input and baseline shifted."""

    @pytest.mark.parametrize("name", with_axiom("input_invariance"))
    @given(cases(smallest=2), seeds)
    def test_holds(self, name, case, seed):
        model, x, baseline, target = case
        shift = random(1, *x.shape[1:], seed=seed)
        maps = explain(
            name, model, model.layer, x, target=target, **based(name, baseline)
        )
        shifted = explain(
            name, lambda x: model(x - shift), model.layer, x + shift, target=target,
            **based(name, baseline + shift),
        )  # fmt: skip
        close(shifted, maps)

    @given(cases(smallest=2), coefficients, coefficients)
    def test_holds_for_a_blurred_baseline_of_shifted_colors(self, case, a, b):
        model, x, _, target = case
        shift = torch.tensor([a, b]).double().view(1, 2, 1, 1)
        options = {"target": target, "baselines": None, "blur_kernel_size": 3}
        maps = explain("group-cam", model, model.layer, x, **options)
        close(explain("group-cam", lambda x: model(x - shift), model.layer, x + shift, **options), maps)  # fmt: skip

    @pytest.mark.parametrize("name", WITH_BASELINES)
    def test_stops_where_the_baseline_stays(self, name):
        model, x = network(gain=20.0), random(2, 2, 6, 6)
        maps = explain(name, model, model.layer, x, target=0)
        shifted = explain(name, lambda x: model(x - 1), model.layer, x + 1, target=0)
        assert differ(shifted, maps)


class TestKinship:
    """What one method is of another."""

    @pytest.mark.parametrize("rule", ["riemann_left", "riemann_right"])
    @given(cases(), st.integers(2, 8))  # Captum takes two steps or more
    def test_rsi_at_the_input_is_integrated_gradients_pooled(self, rule, case, n):
        model, x, baseline, target = case
        ig = IntegratedGradients(model)
        gradients = ig.attribute(x, baseline, target, n_steps=n, method=rule).detach()
        rsi = LayerRSIGradCam(model, model.layer[0])
        options = {"n_steps": n, "method": rule, "attribute_to_layer_input": True}
        single = {"rtol": 1e-5, "atol": 1e-7}  # precision of Captum's step sizes
        units = rsi.conductance(x, baseline, target, **options)
        close(units, gradients, **single)
        pooled = gradients.mean((2, 3), keepdim=True)  # (N, 2, 1, 1)
        maps = rsi.attribute(x, baseline, target, **options)
        close(maps, (pooled * x).sum(1, keepdim=True).relu(), **single)

    @given(cases())
    def test_rsi_in_one_step_is_gradient_times_activation(self, case):
        """By the right rule, and where the baseline's activations are 0."""
        (layer, head), x, target = case.model.children(), case.x, case.target
        model = TwoPart(Function(lambda x: layer(x) - layer(0 * x)), head)
        units = conductance(
            model, x, torch.zeros_like(x), target, n_steps=1, method="riemann_right"
        )
        captums = LayerGradientXActivation(model, model.layer).attribute(x, target)
        close(units, captums.detach())

    def test_rsi_in_one_step_is_not_elsewhere(self):
        model, x = network(), random(1, 2, 6, 6)
        captums = LayerGradientXActivation(model, model.layer).attribute(x, 0).detach()
        right = conductance(model, x, target=0, n_steps=1, method="riemann_right")
        assert differ(right, captums)  # A(0) is not 0

    @pytest.mark.parametrize("rule", RULES)
    @given(cases(softmax=False), st.integers(1, 8), st.integers(1, 3), seeds)
    def test_integrated_grad_cam_below_a_linear_head_is_grad_cam(
        self, rule, case, n, power, seed
    ):
        """
        Times Z and the rule's sum of w a^p.

        The features grow with the power p of the way: A(a) = a^p A(1).
        """
        _, x, _, target = case
        weight = case.model.layer[0].weight
        channels = weight.shape[0]
        model = TwoPart(
            Function(lambda x: nn.functional.conv2d(x, weight, stride=2, padding=1) ** power),
            Function(lambda A: torch.einsum("nkij,ckij->nc", A, mixing[..., : A.shape[2], : A.shape[3]])),
        )  # fmt: skip
        mixing = random(3, channels, 3, 3, seed=seed)
        nodes, weights = quadrature(rule, n)
        factor = sum(w * a**power for a, w in zip(nodes, weights, strict=True))
        grad_cam = explain("grad-cam", model, model.layer, x, target=target)
        maps = explain(
            "integrated-grad-cam",
            model,
            model.layer,
            x,
            target=target,
            n_steps=n,
            method=rule,
        )
        Z = grad_cam[0, 0].numel()
        close(maps, Z * factor * grad_cam)

    @given(cases(smallest=2))
    def test_one_group_is_grad_cam_in_another_scale(self, case):
        """Scaled to [0, 1], upsampled, and times what it gains as a mask."""
        model, x, baseline, target = case
        grad_cam = LayerGradCam(model, model.layer).attribute(
            x, target, relu_attributions=True
        )
        low, high = (
            f(grad_cam.detach(), (1, 2, 3), keepdim=True)
            for f in (torch.amin, torch.amax)
        )
        mask = (grad_cam.detach() - low) / torch.where(
            high > low, high - low, torch.inf
        )
        full = upsample(mask, x.shape[2:])
        blend = x * full + baseline * (1 - full)
        y0, y1 = scores(model, case._replace(x=blend))
        maps = explain(
            "group-cam", model, model.layer, x, baselines=baseline, target=target, groups=1,
            denoise_percentile=None,
        )  # fmt: skip
        close(maps, ((y1 - y0).view(-1, 1, 1, 1) * full).relu())
