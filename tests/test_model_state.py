"""Models whose state moves, who draw random numbers, or mix the rows of a batch."""

import random as python_random
import re
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_cams import metrics
from captum_cams.baselines import neutral
from tests.methods import OURS, SMALL, WITH_LAYER, build, explain
from tests.models import Function, TwoPart, network, random

X = random(3, 2, 6, 6)
close = torch.testing.assert_close


def recorded(function, *arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    return result, [str(warning.message) for warning in caught]


# State that moves in evaluation mode


class Observer(nn.Module):
    """Rounds by the largest magnitude seen so far, as quantization-aware training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("high", torch.tensor(0.1, dtype=torch.float64))
        self.register_buffer("name", torch.tensor(torch.nan))

    def observe(self, largest):
        self.high.copy_(torch.maximum(self.high, largest))

    def forward(self, A):
        self.observe(A.detach().abs().max())
        return A / self.high


class Reassigning(Observer):
    def observe(self, largest):
        self.high = torch.maximum(self.high, largest)


class Through(Observer):
    """Behind the version's back, as C++ code does."""

    def observe(self, largest):
        self.high.data.copy_(torch.maximum(self.high, largest))


class PerChannel(Observer):
    """Its buffer gets its shape from what comes first."""

    def __init__(self):
        super().__init__()
        self.high = torch.zeros(0, dtype=torch.float64)

    def forward(self, A):
        largest = A.detach().abs().amax((0, 2, 3))
        self.high.resize_(largest.shape)
        self.high.copy_(largest)
        return A / self.high[:, None, None].clamp(min=0.1)


OBSERVERS = [Observer, Reassigning, Through, PerChannel]


def observed(observer):
    model = network()
    model.layer.append(observer())
    return model.eval()


def moves(observer):
    return (
        "the outputs depend on the batch, on chance or on what ran before, and so do the "
        f"attributions, though in evaluation mode: {observer.__name__} 'layer.2' changes "
        "its buffer high as it runs"
    )


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("name", OURS)
def test_buffers_that_move_are_put_back_and_named_once(name, observer):
    model = observed(observer)
    module, before = model.layer[2], model.layer[2].high
    value = before.clone()
    options = {"target": 0, "internal_batch_size": 2}
    maps, told = recorded(explain, name, model, model.layer, X, **options)
    assert len(told) == 1 and told[0].startswith(moves(observer))
    assert module.high is before
    assert torch.equal(before, value)
    again, _ = recorded(explain, name, model, model.layer, X, **options)
    assert torch.equal(maps, again)


@pytest.mark.parametrize("name", WITH_LAYER)
def test_examples_do_not_see_what_ran_before_them(name):
    """One by one, and alone: a batch of one is always the first."""
    model = observed(Observer)
    options = {"target": 0, "internal_batch_size": 1}
    maps, _ = recorded(explain, name, model, model.layer, X, **options)
    for n in range(3):
        alone, _ = recorded(explain, name, model, model.layer, X[n : n + 1], **options)
        close(maps[n : n + 1], alone)


@pytest.mark.parametrize("as_function", [False, True])
def test_metrics_and_baselines_leave_buffers_too(as_function):
    model = observed(Observer)
    forward = (lambda x: model(x)) if as_function else model
    maps = X.mean(1, keepdim=True)
    options = {"target": 0, "max_examples_per_batch": 2}
    calls = [
        lambda: metrics.average_drop(forward, X, maps, **options),
        lambda: metrics.increase_in_confidence(forward, X, maps, **options),
        lambda: metrics.overall(forward, X, maps, 0, **options, n_steps=3),
        lambda: neutral(forward, X, n_steps=2),
    ]
    for call in calls:
        _, told = recorded(call)
        assert len(told) == 1 and "Observer" in told[0]
        assert model.layer[2].high == 0.1


@pytest.mark.parametrize("fails", [KeyError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", OURS)
def test_a_failing_pass_puts_buffers_back(name, fails):
    model = observed(Observer)

    def fail(*_):
        raise fails

    model.head.register_forward_hook(fail)
    with pytest.raises(type(fails)):
        explain(name, model, model.layer, X, target=0)
    assert model.layer[2].high == 0.1


@pytest.mark.filterwarnings("ignore:.*(quantiz|torch.ao)")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_fake_quantization(name, fused):
    """Of PyTorch's own: observers of eager quantization-aware training."""
    from torch.ao import quantization

    kind = (
        quantization.FusedMovingAvgObsFakeQuantize
        if fused
        else quantization.FakeQuantize
    )
    model = network().float()
    model.layer.append(
        kind(quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    )
    model.eval()
    x = X.float()
    model(x)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    maps, told = recorded(explain, name, model, model.layer, 2 * x, target=0)
    assert sum("changes its buffers" in words for words in told) == 1
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    again, _ = recorded(explain, name, model, model.layer, 2 * x, target=0)
    assert torch.equal(maps, again)


def test_a_cache_that_follows_its_inputs_stays():
    """It is kept together with numbers that are no buffers."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.zeros(1, dtype=torch.float64))
            self.length = 1

        def forward(self, A):
            if A.shape[-1] > self.length:
                self.length = A.shape[-1]
                self.table = torch.arange(self.length).double()
            return A + self.table[: A.shape[-1]]

    model = network()
    model.layer.append(Positions())
    for _ in range(2):
        explain("rsi-grad-cam", model, model.layer, X, target=0)
    assert model.layer[2].table.shape == (3,)


@pytest.mark.parametrize("module", [nn.BatchNorm2d(6), Observer()])
def test_threads_leave_buffers_as_found(module):
    """Those of the first to come are put back by the last to go."""
    model = network()
    model.layer.append(module.double().train())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    start = threading.Barrier(3)

    def run():
        start.wait()
        for _ in range(4):
            explain("layer-cam", model, model.layer, X, target=0, internal_batch_size=1)

    with warnings.catch_warnings(), ThreadPoolExecutor(3) as pool:
        warnings.simplefilter("ignore")
        for future in [pool.submit(run) for _ in range(3)]:
            future.result()
    for key, value in module.state_dict().items():
        close(value, before[key], equal_nan=True)


# Chance


class Net(nn.Module):
    """A plain module that calls functions."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.head = network().children()
        self.function = function

    def forward(self, x):
        return self.head(self.function(self.layer(x), self.training))


class NoDropoutNet(Net):
    """A name that says nothing."""


def noise(A):
    A = A + python_random.random()
    return A + np.random.rand()


CHANCE = {
    "functional dropout": lambda A, _: F.dropout(A, 0.5, True),
    "normal noise": lambda A, _: A + torch.randn_like(A),
    "Python's and NumPy's": lambda A, _: noise(A),
    "bernoulli": lambda A, _: A * torch.bernoulli(torch.full_like(A, 0.5)),
}


@pytest.mark.parametrize("chance", CHANCE)
@pytest.mark.parametrize("name", OURS)
def test_random_numbers_in_evaluation_mode(name, chance):
    model = Net(CHANCE[chance]).eval()
    states = torch.get_rng_state(), python_random.getstate(), np.random.get_state()
    _, told = recorded(explain, name, model, model.layer, X, target=0)
    assert len([words for words in told if "draws random numbers" in words]) == 1
    assert "Net draws random numbers" in told[0]
    torch.set_rng_state(states[0])
    python_random.setstate(states[1])
    np.random.set_state(states[2])


@pytest.mark.parametrize("name", OURS)
def test_dropout_of_a_plain_module_in_training_mode(name):
    model = Net(lambda A, training: F.dropout(A, 0.5, training)).train()
    _, told = recorded(explain, name, model, model.layer, X, target=0)
    told = [words for words in told if "training mode" in words]
    assert len(told) == 1 and "in training mode, and in it Net: " in told[0]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_names_are_no_evidence(name, training):
    model = NoDropoutNet(lambda A, _: A).train(training)
    explain(name, model, model.layer, X, target=0)


def test_another_threads_random_numbers_are_its_own():
    model, stop = network(), threading.Event()

    def draw():
        while not stop.is_set():
            torch.rand(3)
            time.sleep(0)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(20):
            explain("rsi-grad-cam", model, model.layer, X, target=0)
    finally:
        stop.set()
        thread.join()


# Rows of a batch


def standardized(A):
    """A layer of discriminators: how much the batch varies, as one more number."""
    return A + A.std(0, correction=0).mean()


MIXING = {
    "no running statistics": nn.BatchNorm2d(6, track_running_stats=False).double().eval(),
    "functional": Function(lambda A: F.batch_norm(A, None, None, training=True)),
    "statistics passed": Function(
        lambda A: F.batch_norm(A, A.new_zeros(6), A.new_ones(6), training=True)
    ),
    "mean": Function(lambda A: A - A.mean(0)),
    "one scale": Function(lambda A: A / A.abs().max()),
    "deviation": Function(standardized),
    "softmax": Function(lambda A: A.softmax(0)),
    "neighbor": Function(lambda A: A + A.roll(1, 0)),
    "first row": Function(lambda A: A - A[:1]),
    "attention": Function(
        lambda A: F.scaled_dot_product_attention(
            *[A.flatten(2).transpose(0, 1)] * 3
        ).transpose(0, 1).reshape(A.shape)
    ),
}  # fmt: skip


@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize("mixing", MIXING)
@pytest.mark.parametrize("name", OURS)
def test_rows_that_are_mixed_bring_one_warning(name, mixing, as_function):
    model = network()
    model.layer.append(MIXING[mixing])
    model.layer.append(nn.Conv2d(6, 6, 1).double())
    model.eval()
    forward = (lambda x: model(x)) if as_function else model
    _, told = recorded(explain, name, forward, model.layer[0], X, target=0)
    told = [
        words for words in told if "rows of a batch" in words or "statistics" in words
    ]
    assert len(told) == 1
    assert type(MIXING[mixing]).__name__ in told[0]


SEPARATE = {
    "instance": nn.InstanceNorm2d(6, affine=True).double(),
    "group": nn.GroupNorm(2, 6).double(),
    "layer": nn.LayerNorm((3, 3)).double(),
    "running": nn.BatchNorm2d(6).double().eval(),
    "sequence first": Function(lambda A: A.transpose(0, 1).tanh().transpose(0, 1)),
    "mean over a sequence": Function(
        lambda A: A - A.flatten(2).permute(2, 0, 1).mean(0)[..., None, None]
    ),
    "attention": Function(
        lambda A: nn.functional.scaled_dot_product_attention(
            *[A.flatten(2)] * 3
        ).reshape(A.shape)
    ),
}


@pytest.mark.parametrize("separate", SEPARATE)
@pytest.mark.parametrize("name", OURS)
def test_rows_that_are_not_mixed_are_silent(name, separate):
    model = network()
    model.layer.append(SEPARATE[separate])
    explain(name, model, model.layer, X, target=0)


# Threads


class Slow(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, A):
        time.sleep(self.seconds)
        return A


@pytest.mark.parametrize("name", OURS)
def test_nothing_waits_for_another_model(name):
    """A model that never comes back holds nobody up, whatever asked for it."""
    gate, stuck = threading.Event(), network()
    stuck.layer.append(Function(lambda A: A * gate.wait(60)))
    maps = X.mean(1, keepdim=True)

    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(explain, name, stuck, stuck.layer, X, target=0),
            pool.submit(metrics.average_drop, stuck, X, maps, target=0),
        ]
        try:
            model = network()
            expected = explain(name, model, model.layer, X, target=0)
            assert not any(future.done() for future in waiting)
        finally:
            gate.set()
        close(waiting[0].result(), expected)


@pytest.mark.parametrize("name", OURS)
def test_a_worker_of_the_model_may_explain_something(name):
    """Even the same layer of the same model: it waits for nobody."""
    model = network()
    expected = explain(name, model, model.layer, X, target=0)
    answers = []

    def forward(x):
        if not answers:
            answers.append(None)
            with ThreadPoolExecutor(1) as pool:
                answers[0] = pool.submit(
                    explain, name, model, model.layer, X, target=0
                ).result(timeout=60)
        return model(x)

    close(explain(name, forward, model.layer, X, target=0), expected)
    close(answers[0], expected)


@pytest.mark.parametrize("name", WITH_LAYER)
def test_a_model_may_explain_something_itself(name):
    """The hooks of both sit on one layer."""
    model = network()
    expected = explain(name, model, model.layer, X, target=0)
    answers = []

    def forward(x):
        if not answers:
            answers.append(None)
            answers[0] = explain(name, model, model.layer, X, target=0)
        return model(x)

    close(explain(name, forward, model.layer, X, target=0), expected)
    close(answers[0], expected)


@pytest.mark.parametrize("layer_input", [False, True])
@pytest.mark.parametrize("name", WITH_LAYER)
def test_a_model_may_run_in_a_thread_of_its_own(name, layer_input):
    model = network()
    layer = model.head if layer_input else model.layer
    options = {"target": 0, "attribute_to_layer_input": layer_input}
    expected = explain(name, model, layer, X, **options)
    with ThreadPoolExecutor(1) as pool:

        def forward(x):
            return pool.submit(model, x).result(timeout=60)

        maps = explain(name, forward, layer, X, **options)
        assert pool.submit(torch.is_grad_enabled).result()
    close(maps, expected)


@pytest.mark.parametrize("name", WITH_LAYER)
def test_passes_of_other_threads_are_not_taken_for_this_ones(name):
    """They run the layer while its hooks are set."""
    model, other, stop = network(), random(1, 2, 6, 6, seed=5), threading.Event()
    expected = explain(name, model, model.layer, X, target=0)
    plain = model(other)
    wrong = []

    def predict():
        while not stop.is_set():
            y = model(other)
            if not torch.equal(y, plain):
                wrong.append(y)

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for _ in range(5):
            close(explain(name, model, model.layer, X, target=0), expected)
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_models_in_parallel():
    """Passes that wait overlap: four threads take hardly longer than one."""
    models = [network() for _ in range(4)]
    for model in models:
        model.layer.append(Slow(0.02))
    options = {"target": 0, "internal_batch_size": 1, **SMALL["rsi-grad-cam"]}

    def run(model):
        started = time.perf_counter()
        build("rsi-grad-cam", model, model.layer).attribute(X, **options)
        return time.perf_counter() - started

    alone = run(models[0])
    with ThreadPoolExecutor(4) as pool:
        started = time.perf_counter()
        list(pool.map(run, models))
        together = time.perf_counter() - started
    assert together < 3 * alone


def test_text_of_the_warnings():
    model = observed(Observer)
    model.layer.append(nn.BatchNorm2d(6, track_running_stats=False).double())
    model.head.insert(0, Function(lambda A: F.dropout(A, 0.5)))
    model.eval()
    _, told = recorded(explain, "layer-cam", model, model.layer[0], X, target=0)
    assert told == [
        "the outputs depend on the batch, on chance or on what ran before, and so do the "
        "attributions, though in evaluation mode: Observer 'layer.2' changes its buffer "
        "high as it runs; Function 'head.0' draws random numbers; BatchNorm2d 'layer.3' "
        "takes statistics of the batch (buffers are put back); switch that off first, as "
        "with torch.ao.quantization.disable_observer, track_running_stats=True or "
        "dropout(x, p, self.training)"
    ]
    assert re.search("though in evaluation mode", told[0])
    assert isinstance(model, TwoPart)
