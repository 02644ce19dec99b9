"""ROAD against its equations, solved densely, and the laws that it obeys."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_cams.evaluation import evaluate
from captum_cams.metrics import road, road_lerf_curve, road_morf_curve
from tests import reference_metrics as reference
from tests.models import Function, network, random
from tests.test_metrics_faithfulness import close, score

MODEL = network(gain=5.0)
X, MAPS, TARGET = random(3, 2, 4, 5), random(3, 4, 5, seed=1), torch.tensor([0, 2, 1])
METRICS = [road_morf_curve, road_lerf_curve, road]


def call(metric, model=MODEL, x=X, maps=MAPS, target=TARGET, **options):
    return metric(model, x, maps, target=target, **{"n_steps": 4, **options})


def noise_of(shape, stdevs, seed):
    generator = torch.Generator().manual_seed(seed)
    return stdevs * torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(9,), (4, 5), (2, 3, 3)])
@pytest.mark.parametrize("n_steps", [2, 7, 30])
@pytest.mark.parametrize("stdevs", [0.0, 0.2])
def test_curves_are_the_papers(shape, n_steps, stdevs):
    model, x = network(len(shape), gain=5.0), random(2, 2, *shape)
    maps = (4 * random(2, 1, *shape, seed=1)).round()  # many ties
    options = {"target": 1, "n_steps": n_steps, "stdevs": stdevs, "seed": 5}
    noise = noise_of((2, *shape), stdevs, 5)
    morf, lerf = (
        [
            reference.road_curve(
                score(model, 1), x[n], maps[n, 0], noise, n_steps, least_first
            )
            for n in range(2)
        ]
        for least_first in (False, True)
    )
    close(road_morf_curve(model, x, maps, **options), morf)
    close(road_lerf_curve(model, x, maps, **options), lerf)
    means = [
        sum(b - a for a, b in zip(*pair, strict=True)) / 2 / (n_steps - 1)
        for pair in zip(morf, lerf, strict=True)
    ]
    close(road(model, x, maps, **options), means)


def test_by_hand():
    """One pixel of a row is the mean of its two neighbors, a corner a weighted one."""
    seen = []
    model = Function(lambda x: seen.append(x.clone()) or x.sum((1, 2)))
    x = torch.tensor([[[1.0, 9.0, 3.0, 4.0]]])
    options = {"n_steps": 4, "stdevs": 0.0, "max_examples_per_batch": 1}
    road_morf_curve(model, x, x[0], **options)
    # 9, then 4, which has one neighbor, then 3, which leaves nothing but 1.
    expected = [[1, 9, 3, 4], [1, 2, 3, 4], [1, 2, 3, 3], [1, 1, 1, 1]]
    close(torch.cat(seen)[:, 0], torch.tensor(expected).float(), rtol=1e-6, atol=0)
    seen.clear()
    model = Function(lambda x: seen.append(x.clone()) or x.sum((1, 2, 3)))
    x = torch.tensor([[[[7.0, 5.0], [10.0, 0.0]]]])
    road_morf_curve(model, x, torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]), **options)
    # The direct neighbors 5 and 10 count twice as much as the diagonal 0.
    assert seen[1][0, 0, 0, 0].item() == pytest.approx((2 * 5 + 2 * 10) / 5)


def test_a_ramp_is_imputed_exactly():
    """Away from the border a plane is the mean of its own neighbors."""
    ramp = torch.arange(7.0).double().view(7, 1) + 3 * torch.arange(8.0).double()
    seen = []
    model = Function(lambda x: seen.append(x.clone()) or x.sum((1, 2, 3)))
    maps = torch.zeros(1, 7, 8)
    maps[0, 2:5, 2:6] = 1
    x = ramp.view(1, 1, 7, 8)
    road_morf_curve(model, x, maps, n_steps=5, stdevs=0.0, max_examples_per_batch=1)
    close(seen[1], x)  # 11 of the 12 pixels


@settings(deadline=None, max_examples=10)
@given(
    st.sampled_from(METRICS),
    st.integers(0, 2**16),
    st.floats(1e-6, 1e6),
    st.permutations(range(3)),
)
def test_laws(metric, seed, factor, order):
    maps = random(3, 4, 5, seed=seed)
    values = call(metric, maps=maps)
    close(call(metric, maps=maps * factor), values)
    x, target = X[order], TARGET[order]
    close(call(metric, x=x, maps=maps[order], target=target), values[order])
    alone = call(metric, x=X[:1], maps=maps[:1], target=TARGET[:1])
    close(alone, values[:1])
    if metric is road:
        close(call(metric, maps=-maps), -values)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_the_batch_changes_nothing(metric, batch):
    close(call(metric, max_examples_per_batch=batch), call(metric))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_a_broken_map_gives_nan_for_its_example_alone(metric, broken):
    maps = MAPS.clone()
    maps[1, 2, 3] = broken
    values, sound = call(metric, maps=maps), call(metric)
    assert values[1].isnan().all()
    close(values[[0, 2]], sound[[0, 2]])


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_constant_map_tells_nothing(value):
    maps = torch.full((3, 2, 2), value).double()
    assert torch.equal(call(road, maps=maps), torch.zeros(3).double())
    close(call(road_morf_curve, maps=maps), call(road_lerf_curve, maps=maps))


@pytest.mark.parametrize("metric", METRICS)
def test_no_trace_is_left_and_noise_is_the_seeds(metric):
    x, state = X.clone().requires_grad_(), torch.get_rng_state()
    values = call(metric, x=x)
    assert not values.requires_grad and x.grad is None and torch.equal(x, X)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(call(metric), values)
    assert not torch.equal(call(metric, seed=1), values)


def test_tuples_lose_their_own_pixels():
    other, signal = random(3, 2, 9, seed=5), network(dims=1, gain=5.0)
    model = lambda x, other: MODEL(x) + signal(other)  # noqa: E731
    flat = torch.ones(3, 2, 9, dtype=torch.float64)
    both = call(road, model, (X, flat), (MAPS, random(3, 9)), stdevs=0.0)
    # A constant signal is imputed by itself: only the picture changes.
    alone = call(road, lambda x: MODEL(x) + signal(flat[:1]), stdevs=0.0)
    close(both, alone)
    both = call(road, model, (X, other), (0 * MAPS, random(3, 9)), stdevs=0.0)
    assert not torch.equal(both, torch.zeros(3).double())


def test_half_precision_is_imputed_in_double():
    seen = []
    model = Function(lambda x: seen.append(x.clone()) or x.float().sum((1, 2, 3)))
    call(road_morf_curve, model, X.half(), target=None, max_examples_per_batch=12)
    exact = seen[-1].double()
    call(road_morf_curve, model, X.half().double(), target=None)
    close(exact, seen[-1], rtol=1e-3, atol=1e-3)


def test_errors_teach():
    words = "n_steps must be an integer of at least 2, got 1"
    with pytest.raises(ValueError, match=words):
        call(road, n_steps=1)
    with pytest.raises(ValueError, match="stdevs must be at least 0, got -1"):
        call(road, stdevs=-1)
    with pytest.raises(ValueError, match=r"maps \(N, 1.* got shape \(2, 4, 5\)"):
        call(road, maps=MAPS[:2])


def test_the_evaluation_measures_it_on_request(tmp_path):
    """Beside the two of maps alone, by the name of the function."""
    names = ["road", "complexity", "sparseness"]
    settings = {"limit": 1, "protocol": "igc", "layers": "block4"}
    (record,) = evaluate(tmp_path, methods="grad-cam", metrics=names, **settings)
    assert sorted(record["values"]) == sorted(names)
    assert -0.5 <= record["values"]["road"] <= 0.5
    assert 0 < record["values"]["complexity"] < math.log(128 * 128)
    assert 0 < record["values"]["sparseness"] < 1


def test_directions():
    """The right order is rewarded: the output is the sum of what the map marks."""
    inside = torch.zeros(1, 1, 8, 8)
    inside[..., 2:5, 3:6] = 1
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    model = lambda x: (x * inside).sum((1, 2, 3))  # noqa: E731
    x = x + inside
    assert not road_morf_curve.higher_is_better
    assert road_lerf_curve.higher_is_better and road.higher_is_better
    right, wrong = road(model, x, inside[:, 0]), road(model, x, 1 - inside[:, 0])
    assert right > 0 > wrong
