"""Baselines: colors, noise, and the input that a model has no opinion on."""

import copy
import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from captum_cams.baselines import black, constant, neutral, uniform_noise
from tests.models import Function, network, random

X = random(3, 2, 6, 6)
MODEL = network(gain=5.0)


def uneven(p):
    return (p.detach() - 1 / p.shape[1]).abs().amax(1)


def test_constants_are_one_color():
    color = constant(X, [0.5, -1])
    assert color.shape == X.shape
    assert (color[:, 0] == 0.5).all()
    assert (color[:, 1] == -1).all()
    assert (constant(X, 2, mean=1, std=[0.5, 0.25])[:, 1] == 4).all()
    assert torch.equal(constant(X, 0, [0.4, 0.5], 0.2), black(X, [0.4, 0.5], 0.2))
    assert constant(X.half(), 1).dtype == torch.float16
    with pytest.raises(ValueError, match="value must hold 1 number or one for each of"):
        constant(X, [1, 2, 3])


def test_noise_is_uniform_in_the_pictures_range():
    x = torch.zeros(2, 3, 50, 50)
    before = torch.get_rng_state()
    noise = uniform_noise(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert 0 <= noise.min() < 0.01
    assert 0.99 < noise.max() <= 1
    assert noise.var() == pytest.approx(1 / 12, rel=0.05)
    assert torch.equal(uniform_noise(x), noise)  # it repeats
    generator = torch.Generator().manual_seed(1)
    first, second = uniform_noise(x, generator), uniform_noise(x, generator)
    assert not torch.equal(first, second)
    assert not torch.equal(first, noise)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    undone = uniform_noise(x, mean=mean, std=std) * torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(undone + torch.tensor(mean).view(3, 1, 1), noise)
    assert uniform_noise(x.bfloat16()).dtype == torch.bfloat16


def descent(model, start, n_steps, lr):
    """The best loss of RMSprop as it is defined, for one example."""
    b, square, best = start.clone(), torch.zeros_like(start), (torch.inf, None)
    for _ in range(n_steps + 1):
        b.requires_grad_()
        p = model(b)[0]
        loss = 0.99 * max(abs(p_c - 1 / len(p)) for p_c in p)
        loss = loss + 0.01 * ((b - start) ** 2).mean()
        if loss < best[0]:
            best = loss.detach(), b.detach().clone()
        (gradient,) = torch.autograd.grad(loss, b)
        square = 0.99 * square + 0.01 * gradient**2
        b = b.detach() - lr * gradient / (square.sqrt() + 1e-8)
    return best[1]


def test_neutral_is_the_best_input_that_rmsprop_passes():
    start = random(3, 2, 6, 6, seed=3)  # another one for each
    ours = neutral(MODEL, X, black=start, n_steps=20, lr=0.03)
    for n in range(3):
        literal = descent(MODEL, start[n : n + 1], 20, 0.03)
        torch.testing.assert_close(ours[n : n + 1], literal)


def test_classes_become_equally_likely_near_black():
    before = uneven(MODEL(torch.zeros_like(X)))
    found = neutral(MODEL, X, lr=0.003)
    assert (uneven(MODEL(found)) < 0.02 * before).all()
    assert found.square().mean() < 0.05


def test_more_steps_are_never_worse():
    """The best is kept, not the last."""
    losses = []
    for n_steps in (1, 5, 25, 50):
        found = neutral(MODEL, X[:1], n_steps=n_steps, lr=0.1)
        losses.append(0.99 * uneven(MODEL(found)) + 0.01 * found.square().mean())
    assert losses == sorted(losses, reverse=True)


def test_one_search_serves_all_where_nothing_differs():
    rows = []

    def forward(x):
        rows.append(len(x))
        return MODEL(x)

    found = neutral(forward, X, n_steps=3)
    assert rows == [1] * 4
    assert torch.equal(found[0], found[2])
    rows.clear()
    neutral(forward, X, black=X, n_steps=3, internal_batch_size=2)
    assert rows == [2] * 4 + [1] * 4


def test_additional_arguments_follow_their_examples():
    def forward(x, shift):
        return MODEL(x + shift)

    shift = random(3, 2, 6, 6, seed=4)
    together = neutral(forward, X, shift, n_steps=5, internal_batch_size=2)
    for n in range(3):
        alone = neutral(forward, X[n : n + 1], shift[n : n + 1], n_steps=5)
        torch.testing.assert_close(together[n : n + 1], alone)


def test_logits_need_a_softmax():
    logits = network(gain=5.0, softmax=False)
    found = neutral(logits, X, n_steps=5, output_func=lambda y: y.softmax(1))
    assert torch.equal(found, neutral(MODEL, X, n_steps=5))
    words = "pass output_func=lambda y: y.softmax(1) for logits"
    with pytest.raises(ValueError, match=re.escape(words)):
        neutral(logits, X)


def test_neutral_of_a_model_that_writes_to_its_input():
    expected = neutral(lambda x: MODEL(3 * x), X, n_steps=5)
    assert torch.equal(neutral(lambda x: MODEL(x.mul_(3)), X, n_steps=5), expected)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(training):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3), nn.Softmax(1)
    ).double().train(training)  # fmt: skip
    model[:1](X)
    model.eval()(X)
    model.train(training)
    state, x = copy.deepcopy(model.state_dict()), X.clone()
    warned = pytest.warns(UserWarning, match="in training mode")
    with torch.no_grad(), warned if training else nullcontext():
        found = neutral(model, x, n_steps=3)
        assert not torch.is_grad_enabled()
    assert not found.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(module.training == training for module in model.modules())
    assert all(map(torch.equal, model.state_dict().values(), state.values()))
    assert torch.equal(x, X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    found = neutral(network(gain=5.0).to(dtype), X.to(dtype), n_steps=30, lr=0.01)
    assert found.dtype == dtype
    assert uneven(MODEL(found.double())).max() < 0.5 * uneven(MODEL(0 * X)).max()


@pytest.mark.parametrize(
    ("forward", "options", "kind", "words"),
    [
        (MODEL, {"n_steps": 0}, ValueError, "n_steps must be an integer of at least 1, got 0"),
        (MODEL, {"lr": 0.0}, ValueError, "lr must be above 0, got 0.0"),
        (MODEL, {"black": X[:, :1]}, ValueError, "baselines must have the inputs' shape"),
        (lambda x: MODEL(x)[:, 0], {}, ValueError, "forward_func must give the probabilities of two or more classes, (N, C), got shape (1,)"),
        (lambda x: MODEL(x) * 2, {}, ValueError, "a largest sum of 2; pass output_func"),
        (lambda x: MODEL(x).detach(), {}, ValueError, "forward_func's output must depend on the inputs"),
        (Function(lambda x: MODEL(0 * x.detach()) * 1), {}, ValueError, "forward_func's output must depend on the inputs"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(forward, options, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        neutral(forward, X, **options)


def test_inference_mode():
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        neutral(MODEL, X)
