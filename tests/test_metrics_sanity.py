"""The randomization check: what it leaves alone, and its similarities."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import nn

from captum_cams import metrics
from captum_cams.metrics import randomization_check
from captum_cams.metrics.sanity import _spearman, _ssim
from tests.models import random

X, TARGET = random(3, 2, 8, 9), torch.tensor([0, 1, 2])


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.Tanh()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()


def explain(model, inputs, target):
    """Gradient times input: depends on every weight."""
    x = inputs.clone().requires_grad_()
    scores = model(x)[range(len(x)), target]
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    return (x * gradient).sum(1)


def scaled(m):
    return (m - m.min()) / (m.max() - m.min())


@pytest.mark.parametrize("shape", [(12,), (8, 9), (7, 8, 9)])
@pytest.mark.parametrize("ties", [False, True])
def test_similarities_are_those_of_scipy_and_scikit_image(shape, ties):
    a, b = random(3, 1, *shape), random(3, 1, *shape, seed=1)
    b += a
    if ties:
        a, b = (2 * a).round(), b.round()
    expected = [
        spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)
    ]
    torch.testing.assert_close(
        _spearman(a, b), torch.tensor(expected), rtol=1e-9, atol=1e-12
    )
    expected = [
        structural_similarity(scaled(x[0]).numpy(), scaled(y[0]).numpy(), data_range=1)
        for x, y in zip(a, b, strict=True)
    ]
    torch.testing.assert_close(
        _ssim(a, b), torch.tensor(expected), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(("side", "window"), [(6, 5), (4, 3), (3, 3)])
def test_small_maps_have_a_smaller_window(side, window):
    a, b = random(1, 1, side, 9), random(1, 1, side, 9, seed=1)
    expected = structural_similarity(
        scaled(a[0, 0]).numpy(), scaled(b[0, 0]).numpy(), data_range=1, win_size=window
    )
    torch.testing.assert_close(_ssim(a, b), torch.tensor([expected]), rtol=1e-9, atol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**16), st.floats(1e-3, 1e3))
def test_similarities_do_not_see_a_scale(seed, factor):
    a, b = random(2, 1, 8, 8, seed=seed), random(2, 1, 8, 8, seed=seed + 1)
    for similarity in (_spearman, _ssim):
        value = similarity(a, b)
        torch.testing.assert_close(similarity(factor * a, b), value)
        torch.testing.assert_close(similarity(b, a), value)
        torch.testing.assert_close(similarity(a, a), torch.ones(2).double())
        singles = [similarity(a[n : n + 1], b[n : n + 1]) for n in range(2)]
        torch.testing.assert_close(torch.cat(singles), value)
        assert (value.abs() <= 1 + 1e-9).all()


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_the_model_and_the_generators_are_untouched(mode):
    model = network().train()
    state = copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    seen = []

    def explain_and_draw(copied, inputs, target):
        assert copied is not model and copied.training
        seen.append(copied)
        torch.rand(3)
        return explain(copied, inputs, target)

    randomization_check(explain_and_draw, model, X, TARGET, mode)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training and len(seen) == 5


def differing(model, reset):
    """Names of modules with parameters that are no longer the model's."""
    return {
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, reset.get_parameter(name))
    }


WEIGHTS = [
    {"6.weight", "6.bias"},
    {"3.0.weight", "3.0.bias"},
    set(),
    {"0.weight", "0.bias"},
]


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_layers_lose_their_weights_from_the_output_down(mode):
    model = network()
    lost = []

    def look(copied, inputs, target):
        lost.append(differing(model, copied))
        return explain(copied, inputs, target)

    result = randomization_check(look, model, X, TARGET, mode)
    assert list(result) == ["6", "3.0", "1", "0"]  # a fresh batch norm is as it was
    cascade = [set().union(*WEIGHTS[: k + 1]) for k in range(4)]
    assert lost == [set(), *(cascade if mode == "cascading" else WEIGHTS)]


def test_result_is_a_value_for_each_layer_similarity_and_example():
    result = randomization_check(explain, network(), X, TARGET, layers=["6", "3"])
    assert list(result) == ["6", "3"]
    for values in result.values():
        assert list(values) == ["spearman", "ssim"]
        assert all(v.shape == (3,) and v.isfinite().all() for v in values.values())
    again = randomization_check(explain, network(), X, TARGET, layers=["6", "3"])
    other = randomization_check(
        explain, network(), X, TARGET, layers=["6", "3"], seed=1
    )
    assert torch.equal(again["6"]["ssim"], result["6"]["ssim"])
    assert not torch.equal(other["6"]["ssim"], result["6"]["ssim"])
    one = randomization_check(explain, network(), X, TARGET, similarity=["ssim"])
    assert list(one["6"]) == ["ssim"]


def test_a_map_that_ignores_the_model_stays_alike():
    result = randomization_check(
        lambda model, x, target: x[:, :1], network(), X, TARGET
    )
    for values in result.values():
        for value in values.values():
            torch.testing.assert_close(value, torch.ones(3).double())


def test_a_submodule_of_any_depth_is_reset_whole():
    deep = nn.Sequential(nn.Sequential(network()[:4]), *network()[4:])
    lost = []

    def look(copied, inputs, target):
        lost.append(differing(deep, copied))
        return explain(copied, inputs, target)

    randomization_check(look, deep, X, TARGET, layers=["0"])
    assert lost[1] == {"0.0.0.weight", "0.0.0.bias", "0.0.3.0.weight", "0.0.3.0.bias"}


@pytest.mark.parametrize(
    ("change", "spearman", "ssim"),
    [
        (lambda m: m * 0, True, False),
        (lambda m: m * 0 + 2, True, False),
        (lambda m: m * torch.nan, True, True),
    ],
)
def test_degenerate_maps(change, spearman, ssim):
    calls = []

    def then(model, inputs, target):
        calls.append(model)
        return inputs[:, 0] if len(calls) == 1 else change(inputs[:, 0])

    values = randomization_check(then, network(), X, TARGET, layers=["6"])["6"]
    assert values["spearman"].isnan().all() == spearman
    assert values["ssim"].isnan().all() == ssim


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1).double())

    def forward(self, x):
        return self.weight * x


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "all"}, ValueError, "mode must be one of 'cascading', 'independent'"),
        (
            {"similarity": ["psnr"]},
            ValueError,
            "similarity must be one of 'spearman', 'ssim'",
        ),
        ({"layers": ["7"]}, ValueError, r"out of model.named_modules\(\), got '7'"),
        ({"layers": "6"}, TypeError, "layers must be a list of names .* got '6'"),
        ({"layers": []}, TypeError, "layers must be a list of names .* got none"),
        ({"layers": [nn.Tanh()]}, ValueError, "got Tanh, which is not one"),
        (
            {"model": nn.Sequential(Weight(), *network())},
            ValueError,
            r"with reset_parameters\(\), got '0' \(Weight\) without it; give its class",
        ),
        ({"explain": lambda *_: None}, TypeError, "tensor of maps, got NoneType"),
        (
            {"explain": lambda m, x, t: x},
            ValueError,
            "of 3 examples with 2 spatial axes",
        ),
    ],
)
def test_errors_teach(options, error, message):
    options = {"explain": explain, "model": network(), **options}
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        randomization_check(inputs=X, target=TARGET, **options)
    assert torch.equal(torch.get_rng_state(), state)


def test_maps_keep_their_shape():
    sizes = iter([5, 6])

    def explain(model, inputs, target):
        return torch.rand(3, 5, next(sizes))

    with pytest.raises(
        ValueError, match=r"one shape .* \(3, 1, 5, 6\) after \(3, 1, 5, 5\)"
    ):
        randomization_check(explain, network(), X, TARGET)


HELPERS = {"BoxOverlap", "PointingAccuracy", "explanation_func", "normalize"}


@pytest.mark.parametrize("name", sorted(set(metrics.__all__) - HELPERS))
def test_every_metric_tells_its_direction(name):
    metric = getattr(metrics, name)
    better = "higher" if metric.higher_is_better else "lower"
    assert f"{better} is better" in metric.__doc__.strip().splitlines()[0]
    assert metric.__wrapped__.__name__ == name  # by Captum's usage log
