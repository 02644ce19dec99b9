"""Faithfulness against its formulas, and the laws that it obeys."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_cams.baselines import black, blurred
from captum_cams.metrics import (
    average_drop,
    deletion_auc,
    deletion_curve,
    increase_in_confidence,
    insertion_auc,
    insertion_curve,
    overall,
)
from tests import reference_metrics as reference
from tests.models import network, random

SHAPES = [(9,), (4, 5), (2, 3, 4)]
CONFIDENCES = [average_drop, increase_in_confidence]
CURVES = [deletion_curve, insertion_curve]
AREAS = [deletion_auc, insertion_auc, overall]
MODEL = network(gain=5.0)
X, MAPS, TARGET = random(3, 2, 5, 7), random(3, 5, 7, seed=1), torch.tensor([0, 2, 1])


def call(metric, model=MODEL, x=X, maps=MAPS, baselines=0.3, target=TARGET, **options):
    if metric not in CONFIDENCES:
        options.setdefault("n_steps", 3)
    return metric(model, x, maps, baselines, target=target, **options)


def score(model, target):
    return lambda picture: float(model(picture.unsqueeze(0)).detach()[0, target])


def close(values, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-9, "atol": 1e-12}
    expected = torch.as_tensor(expected, dtype=values.dtype)
    torch.testing.assert_close(values, expected, equal_nan=True, **tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("top_fraction", [None, 0.15, 1.0])
def test_confidences_are_the_papers(shape, top_fraction):
    model, x = network(len(shape), gain=5.0), random(3, 2, *shape)
    # Ties after upsampling have an order of rounding errors: whole maps for the top.
    size = [side // 2 for side in shape] if top_fraction is None else shape
    maps, baseline = random(3, *size, seed=1), random(3, 2, *shape, seed=2)
    for metric, formula in (
        (average_drop, reference.average_drop),
        (increase_in_confidence, reference.increase),
    ):
        values = call(metric, model, x, maps, baseline, top_fraction=top_fraction)
        close(
            values,
            [
                formula(
                    score(model, TARGET[n]), x[n], maps[n], baseline[n], top_fraction
                )
                for n in range(3)
            ],
        )
    assert values.shape == (3,)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_steps", [1, 7, 30])
def test_curves_are_the_papers(shape, n_steps):
    model, x = network(len(shape), gain=5.0), random(2, 2, *shape)
    maps, baseline = random(2, 1, *shape, seed=1), random(2, 2, *shape, seed=2)
    maps = (4 * maps).round()  # many ties
    options = {"baselines": baseline, "target": 1, "n_steps": n_steps}
    expected = {
        insertion: [
            reference.curve(
                score(model, 1), x[n], maps[n, 0], baseline[n], n_steps, insertion
            )
            for n in range(2)
        ]
        for insertion in (False, True)
    }
    areas = {key: [*map(reference.area, value)] for key, value in expected.items()}
    close(deletion_curve(model, x, maps, **options), expected[False])
    close(insertion_curve(model, x, maps, **options), expected[True])
    close(deletion_auc(model, x, maps, **options), areas[False])
    close(insertion_auc(model, x, maps, **options), areas[True])
    difference = [b - a for a, b in zip(areas[False], areas[True], strict=True)]
    close(overall(model, x, maps, **options), difference)


@pytest.mark.parametrize("shape", [(9,), (5, 7), (3, 4, 5)])
@pytest.mark.parametrize("metric", [*CONFIDENCES, *CURVES])
def test_maps_are_upsampled(metric, shape):
    model, x = network(len(shape), gain=5.0), random(2, 2, *shape)
    maps = random(2, 1, *[3] * len(shape), seed=1)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    full = torch.nn.functional.interpolate(maps, shape, mode=mode)
    expected = call(metric, model, x, full, target=1)
    close(call(metric, model, x, maps, target=1), expected)
    close(call(metric, model, x, maps[:, 0], target=1), expected)


def test_a_sum_of_pixels_falls_by_the_largest_first():
    x = torch.tensor([[[1.0, 4.0, 2.0, 3.0]]])
    total = lambda x: x.sum((1, 2))  # noqa: E731
    options = {"baselines": 0, "n_steps": 4}
    close(deletion_curve(total, x, x[0], **options), [[10.0, 6, 3, 1, 0]])
    close(insertion_curve(total, x, x[0], **options), [[0.0, 4, 7, 9, 10]])
    close(deletion_auc(total, x, x[0], **options), [15 / 4])
    close(insertion_auc(total, x, x[0], **options), [25 / 4])
    close(overall(total, x, x[0], **options), [10 / 4])
    close(average_drop(total, x, x[0], top_fraction=0.5), [0.3])
    close(average_drop(total, x, x[0], 10), [0.0])
    close(increase_in_confidence(total, x, x[0], 10), [1.0])
    # Decimals count as they are written: three pixels are 0.3 of ten.
    ten = torch.arange(10.0).view(1, 1, 10)
    close(average_drop(total, ten, ten[0], top_fraction=0.3), [1 - (9 + 8 + 7) / 45])
    close(
        average_drop(total, ten, ten[0], top_fraction=0.31), [1 - (9 + 8 + 7 + 6) / 45]
    )


def test_seven_percent_of_a_hundred_are_seven():
    x = torch.ones(1, 1, 100, dtype=torch.float64)
    drop = average_drop(lambda x: x.sum((1, 2)), x, x[0], top_fraction=0.07)
    close(drop, [0.93])


@pytest.mark.parametrize("metric", CURVES)
def test_the_default_baseline_is_the_blurred_input(metric):
    model, x, maps = network(), random(2, 2, 26, 30), random(2, 3, 3)
    values = call(metric, model, x, maps, None, 1)
    assert torch.equal(values, call(metric, model, x, maps, blurred(x), 1))
    ends = torch.stack([model(x)[:, 1], model(blurred(x))[:, 1]], 1).detach()
    close(values[:, [0, -1]], ends if metric is deletion_curve else ends.flip(1))


@pytest.mark.parametrize("metric", CONFIDENCES)
def test_the_default_baseline_is_zero(metric):
    assert torch.equal(call(metric, baselines=None), call(metric, baselines=0))


def test_black_is_black_in_the_picture():
    pictures = torch.rand(2, 3, 4, 5)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.1, 0.3]
    m, s = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    x = (pictures - m) / s
    baseline = black(x, mean, std)
    close(baseline * s + m, torch.zeros_like(x), rtol=0, atol=1e-6)
    close(black(x.half(), 0.5, 0.25), torch.full_like(x, -2).half())
    # With it, the product is that of the pictures.
    seen = []
    average_drop(
        lambda x: seen.append(x) or x.sum((1, 2, 3)), x, torch.ones(2, 1, 1), baseline
    )
    maps = torch.rand(2, 4, 5)
    average_drop(lambda x: seen.append(x) or x.sum((1, 2, 3)), x, maps, baseline)
    scaled = torch.stack([reference.scaled(one) for one in maps])
    close(seen[-1] * s + m, pictures * scaled[:, None], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (
            [0.5, 0.5],
            1,
            "mean must hold 1 number or one for each of the 3 channels, got 2",
        ),
        (0, [1, 1], "std must hold 1 number"),
        (0, [1, 0, 1], r"std must be above 0, got \[1.0, 0.0, 1.0\]"),
    ],
)
def test_black_checks_its_statistics(mean, std, message):
    with pytest.raises(ValueError, match=message):
        black(torch.zeros(1, 3, 4, 4), mean, std)


def test_black_needs_pictures():
    with pytest.raises(
        ValueError, match=r"inputs must be pictures .* got shape \(1, 3\)"
    ):
        black(torch.zeros(1, 3), 0, 1)


@pytest.mark.parametrize("metric", [*CONFIDENCES, *CURVES, *AREAS])
@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_the_batch_changes_nothing(metric, batch):
    close(call(metric, max_examples_per_batch=batch), call(metric))


def test_steps_and_examples_share_batches():
    sizes = []

    def model(x):
        sizes.append(len(x))
        assert not torch.is_grad_enabled()
        return MODEL(x)

    call(overall, model, n_steps=4, max_examples_per_batch=4)
    # Two examples, two points each, then the third. The second curve lacks its ends.
    assert sizes == [4, 4, 4, 4, 4, 4]


@settings(deadline=None, max_examples=10)
@given(
    st.sampled_from([*CONFIDENCES, *CURVES, *AREAS]),
    st.integers(0, 2**16),
    st.floats(1e-6, 1e6),
    st.permutations(range(3)),
    st.sampled_from([(1, 1), (3, 4), (5, 7)]),
)
def test_laws(metric, seed, factor, order, size):
    maps = random(3, *size, seed=seed)
    values = call(metric, maps=maps)
    if metric is not increase_in_confidence:  # a rounding error may decide that one
        close(call(metric, maps=maps * factor), values, rtol=1e-6, atol=1e-9)
    close(
        call(metric, x=X[order], maps=maps[order], target=TARGET[order]), values[order]
    )
    singles = [
        call(metric, x=X[n : n + 1], maps=maps[n : n + 1], target=TARGET[n : n + 1])
        for n in range(3)
    ]
    close(torch.cat(singles), values)


@pytest.mark.parametrize("metric", [*CONFIDENCES, *CURVES, *AREAS])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_map_gives_nan_for_its_example_alone(metric, broken):
    maps = MAPS.clone()
    maps[1, 2, 3] = broken
    values, sound = call(metric, maps=maps), call(metric)
    assert values[1].isnan().all()
    close(values[[0, 2]], sound[[0, 2]])


@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 7)])
def test_a_constant_map(value, size):
    # Interpolating 0.1 leaves rounding errors, which no metric may take for a map.
    maps = torch.full((3, *size), value).double()
    whole = MODEL(X)[range(3), TARGET].detach()
    nothing = MODEL(torch.full_like(X, 0.3))[range(3), TARGET].detach()
    close(call(average_drop, maps=maps), (whole - nothing).clamp(min=0) / whole)
    close(call(increase_in_confidence, maps=maps), (nothing > whole).double())
    reading = -torch.arange(35.0).view(1, 5, 7).expand(3, 5, 7)
    for metric in (*CURVES, *AREAS):
        close(call(metric, maps=maps), call(metric, maps=reading))
    close(
        call(average_drop, maps=maps, top_fraction=0.15),
        call(average_drop, maps=reading, top_fraction=0.15),
    )


def test_no_confidence_cannot_drop():
    x = torch.tensor([0.0, -1.0, 1.0]).view(3, 1, 1).expand(3, 1, 4)
    maps = torch.ones(3, 4)
    mean = lambda x: x.mean((1, 2))  # noqa: E731
    close(average_drop(mean, x, maps), [torch.nan, torch.nan, 1.0])
    close(increase_in_confidence(mean, x, maps), [0.0, 1.0, 0.0])
    close(average_drop(lambda x: mean(x) * torch.nan, x, maps), [torch.nan] * 3)
    nan = increase_in_confidence(lambda x: mean(x) * torch.nan, x, maps)
    close(nan, [torch.nan] * 3)


TARGETS = [
    (1, 1),
    (torch.tensor(1), 1),
    (torch.tensor([0, 2, 1]), None),
    ([0, 2, 1], None),
    ((1,), 1),
    ([(0,), (2,), (1,)], None),
]


@pytest.mark.parametrize(("target", "column"), TARGETS)
@pytest.mark.parametrize("metric", [average_drop, overall])
def test_targets_of_all_kinds(metric, target, column):
    if column is None:
        expected = call(metric)
    else:
        expected = call(metric, lambda x: MODEL(x)[:, column], target=None)
    close(call(metric, target=target), expected)


@pytest.mark.parametrize("metric", [average_drop, *AREAS])
def test_additional_arguments_follow_their_examples(metric):
    factors = torch.tensor([1.0, 2.0, 3.0]).double()

    def model(x, factor, words):
        assert words == "as they are"
        return MODEL(x) * factor[:, None]

    values = call(metric, model, additional_forward_args=(factors, "as they are"))
    close(values, call(metric) * (1 if metric is average_drop else factors))


@pytest.mark.parametrize("metric", [*CONFIDENCES, *CURVES, *AREAS])
def test_tuples_are_masked_tensor_by_tensor(metric):
    other = random(3, 2, 9, seed=5)
    signal = network(dims=1, gain=5.0)

    def model(x, other):
        return MODEL(x) + signal(other)

    zero = random(3, 9, seed=6)
    values = call(metric, model, (X, other), (MAPS, zero), (0.3, other))
    # The second tensor is its own baseline: only the first one changes.
    alone = call(
        metric,
        lambda x, other: model(x, other),
        X,
        MAPS,
        0.3,
        additional_forward_args=other,
    )
    close(values, alone)


@pytest.mark.parametrize("metric", [*CONFIDENCES, *CURVES, *AREAS])
def test_models_may_write_to_their_inputs(metric):
    x = X.clone()
    expected = call(metric, lambda x: MODEL(3 * x), x)
    assert torch.equal(call(metric, lambda x: MODEL(x.mul_(3)), x), expected)
    assert torch.equal(x, X)


@pytest.mark.parametrize("metric", [*CONFIDENCES, *CURVES, *AREAS])
def test_no_trace_is_left(metric):
    x, maps = X.clone().requires_grad_(), MAPS.clone().requires_grad_()
    state = torch.get_rng_state()
    values = call(metric, x=x, maps=maps)
    assert not values.requires_grad and values.dtype == torch.float64
    assert x.grad is None and maps.grad is None and torch.equal(x, X)
    assert torch.equal(maps, MAPS) and torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_maps_keep_their_own_precision(dtype):
    maps = MAPS.to(dtype)
    for metric in (deletion_auc, average_drop):
        close(
            call(metric, maps=maps), call(metric, maps=maps.double()), rtol=1e-5, atol=0
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"maps": MAPS[:2]},
            ValueError,
            r"maps \(N, 1.* 3 examples .* got shape \(2, 5, 7\)",
        ),
        ({"maps": MAPS[:, None].expand(3, 2, 5, 7)}, ValueError, "sum over channels"),
        ({"maps": MAPS.long()}, TypeError, r"floating dtype, got torch.int64"),
        (
            {"maps": MAPS.numpy()},
            TypeError,
            "attributions must be a tensor of maps, got ndarray",
        ),
        ({"maps": MAPS[:, :0]}, ValueError, r"one pixel, got shape \(3, 0, 7\)"),
        ({"maps": (MAPS, MAPS)}, ValueError, "as many as the inputs, 1, got 2"),
        (
            {"maps": MAPS.to("meta")},
            ValueError,
            "inputs' device cpu, got meta; move them",
        ),
        (
            {"x": X[:, :, 0, 0]},
            ValueError,
            r"inputs must have spatial axes .* \(3, 2\)",
        ),
        ({"x": X.long()}, TypeError, "inputs must be of a floating dtype"),
        ({"baselines": X[:, :1]}, ValueError, "baselines must have the inputs' shape"),
        ({"target": 3}, ValueError, "target must lie in"),
        (
            {"max_examples_per_batch": 0},
            ValueError,
            "max_examples_per_batch must be an integer",
        ),
    ],
)
@pytest.mark.parametrize("metric", [average_drop, deletion_curve, overall])
def test_errors_teach(metric, change, error, message):
    with pytest.raises(error, match=message):
        call(metric, **change)


def test_errors_of_single_metrics():
    with pytest.raises(ValueError, match=r"top_fraction must lie in \(0, 1\].* got 15"):
        call(average_drop, top_fraction=15)
    with pytest.raises(
        ValueError, match="n_steps must be an integer of at least 1, got 0"
    ):
        call(deletion_curve, n_steps=0)
    with pytest.raises(ValueError, match="needs sides of at least 26 pixels"):
        call(deletion_curve, baselines=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_a_map_that_hides_nothing_changes_nothing(dtype, batch):
    """Both outputs come from the same places of batches of the same size."""
    model, x = network(gain=3.0).to(dtype), random(5, 2, 6, 6).to(dtype)
    options = {"top_fraction": 1.0, "max_examples_per_batch": batch, "target": 0}
    for metric in (increase_in_confidence, average_drop):
        assert (metric(model, x, random(5, 1, 3, 3), **options) == 0).all()
