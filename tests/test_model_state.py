"""Models whose state moves, who draw random numbers, or mix the rows of a batch."""

import contextlib
import random as python_random
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_cams import metrics
from captum_cams.baselines import neutral
from tests.methods import BY_GRADIENT, OURS, WITH_LAYER, explain
from tests.models import Function, network, random

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
        "the outputs may depend on the batch, on chance or on what ran before, and so may the "
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


class Refusing(Observer):
    """Exchanges its buffers and does not take the first of them back."""

    def observe(self, largest):
        self._buffers["high"] = torch.maximum(self.high, largest)
        self.name = torch.tensor(1.0)

    def __setattr__(self, name, value):
        if name == "high":
            raise RuntimeError("high is fixed")
        super().__setattr__(name, value)


class Opaque(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.clone:
            raise RuntimeError("no copy of an opaque tensor")
        return super().__torch_function__(func, types, args, kwargs or {})


class Uncopied(Observer):
    """Holds a buffer of which no copy can be had."""

    def __init__(self):
        super().__init__()
        self.high = torch.tensor(0.1, dtype=torch.float64).as_subclass(Opaque)


@pytest.mark.parametrize("where", [2, 3])
@pytest.mark.parametrize("observer", [Refusing, Uncopied])
def test_one_module_that_fails_does_not_keep_others_from_being_put_back(
    observer, where
):
    model, steady = observed(Observer), network().layer[1]
    watched = model.layer[2]
    model.layer.insert(where, observer())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"high is fixed|no copy of an opaque"):
            recorded(explain, "rsi-grad-cam", model, model.layer, X, target=0)
        assert watched.high == 0.1
        assert model.layer[where].name.isnan()
    model.layer[where] = steady
    recorded(explain, "rsi-grad-cam", model, model.layer, X, target=0)
    assert watched.high == 0.1


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


class Positions(nn.Module):
    """A cache, together with a number that says what it is for."""

    def __init__(self, lazily):
        super().__init__()
        table = None if lazily else torch.zeros(1, dtype=torch.float64)
        self.register_buffer("table", table)
        self.length = 1

    def forward(self, A):
        if A.shape[-1] > self.length:
            self.length = A.shape[-1]
            self.table = torch.arange(self.length).double()
        return A + self.table[: A.shape[-1]]


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_a_cache_is_put_back_with_what_belongs_to_it(name, lazily):
    model = network()
    model.layer.append(Positions(lazily))
    model.eval()
    before = model.layer[2].table
    maps, told = recorded(explain, name, model, model.layer, X, target=0)
    assert sum("'layer.2' changes its buffer table" in words for words in told) == 1
    assert model.layer[2].table is before and model.layer[2].length == 1
    model(X)  # from here on nothing changes
    close(explain(name, model, model.layer, X, target=0), maps)


class ActNorm(nn.Module):
    """Takes its parameters from the first batch."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6, 1, 1, dtype=torch.float64))
        self.register_buffer("initialized", torch.tensor(0))

    def forward(self, A):
        if not self.initialized:
            self.scale.data.copy_(1 / A.std((0, 2, 3)).view(6, 1, 1).clamp(min=0.1))
            self.initialized.fill_(1)
        return A * self.scale


@pytest.mark.parametrize("name", OURS)
def test_parameters_are_put_back_with_the_buffers(name):
    model = network()
    model.layer.append(ActNorm())
    model.eval()
    recorded(explain, name, model, model.layer, X, target=0)
    assert not model.layer[2].initialized
    assert (model.layer[2].scale == 1).all()


@pytest.mark.parametrize("name", OURS)
def test_buffers_that_a_function_exchanges_for_a_while(name):
    """What it undoes itself is not undone once more."""
    model, other = network(), network(seed=1)
    for part in (model, other):
        part.layer.append(nn.BatchNorm2d(6).double())
        part.eval()
    other.layer[2].running_mean.fill_(0.3)
    values = {key: value.clone() for key, value in other.state_dict().items()}
    own = {key: value.clone() for key, value in model.state_dict().items()}
    objects = dict(model.named_buffers())

    def swapped(x):
        return torch.func.functional_call(model, values, (x,))

    def copied(x):
        model.load_state_dict(values)
        y = model(x)
        model.load_state_dict(own)
        return y

    expected = explain(name, other, other.layer, X, target=0)
    close(explain(name, swapped, model.layer, X, target=0), expected)
    if name not in (
        *BY_GRADIENT,
        "group-cam",
        "smooth-grad",
        "xrai",
    ):  # autograd needs the values that were copied
        explain(name, copied, model.layer, X, target=0)
    for key, value in model.state_dict().items():
        assert torch.equal(value, own[key])
    for key, value in model.named_buffers():
        assert value is objects[key]


class Holder:
    """No module, but it holds one, beside what runs another."""

    def __init__(self, model):
        self.parts = {"models": [model]}

    def scores(self, x):
        return self.parts["models"][0](x)

    def __call__(self, x):
        return self.scores(x)


REFERENCES = {
    "closure": lambda model: lambda x: model(x),
    "default": lambda model: lambda x, model=model: model(x),
    "partial": lambda model: partial(lambda model, x: model(x), model),
    "method": lambda model: model.forward,
    "object": Holder,
    "method of an object": lambda model: Holder(model).scores,
    "nested": lambda model: (lambda f: lambda x: f(x))(lambda x: model(x)),
    "pool": lambda model: lambda x: _POOL.submit(model, x).result(timeout=60),
}
_POOL = ThreadPoolExecutor(1)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", OURS)
def test_a_function_is_known_by_what_it_refers_to(name, reference):
    """Also modules that run from some pass on, or are only read."""
    model = observed(Observer)
    model.unused = Observer()
    calls = []

    def read(module, inputs):
        calls.append(None)
        if len(calls) > 1:
            model.unused.high += 1

    model.head.register_forward_pre_hook(read)
    options = {"target": 0, "internal_batch_size": 1}
    recorded(explain, name, REFERENCES[reference](model), model.layer, X, **options)
    assert model.layer[2].high == 0.1 and model.unused.high == 0.1


@pytest.mark.filterwarnings("ignore:.*(parse CSR|CSR|torch.jit)")
@pytest.mark.parametrize("as_function", [False, True])
def test_buffers_of_all_kinds(as_function):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            eye = torch.eye(3, dtype=torch.float64)
            self.register_buffer("coo", eye.to_sparse())
            self.register_buffer("meta", torch.empty(2, device="meta"))
            self.register_buffer("nothing", None)
            self.register_buffer("mask", torch.ones(3, dtype=torch.bool))
            self.register_buffer("whole", torch.tensor(1 + 2j))

        def forward(self, A):
            rows = A.transpose(0, 2).flatten(1)  # (3, ...)
            return (self.coo @ rows).view_as(A.transpose(0, 2)).transpose(0, 2)

    model = network()
    expected = explain("layer-cam", model, model.layer, X, target=0)
    model.layer.append(Odd())
    forward = (lambda x: model(x)) if as_function else model
    maps = explain("layer-cam", forward, model.layer, X, target=0)
    close(maps, expected)


class Moving(nn.Module):
    """What can be scripted, unlike the observers above."""

    def __init__(self):
        super().__init__()
        self.register_buffer("high", torch.tensor(0.1, dtype=torch.float64))

    def forward(self, A):
        self.high.copy_(torch.maximum(self.high, A.detach().abs().max()))
        return A / self.high


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_scripted_parts(name, as_function):
    model, plain = network(), network()
    plain.layer.append(Moving())
    model.layer.append(torch.jit.script(Moving()))
    layers = [part.eval().layer[1] for part in (model, plain)]
    forward = (lambda x: model(x)) if as_function else model
    expected, _ = recorded(explain, name, plain, layers[1], X, target=0)
    maps, told = recorded(explain, name, forward, layers[0], X, target=0)
    close(maps, expected)
    assert "changes its buffer high" in told[0]
    assert model.layer[2].high == 0.1


def test_modules_still_to_be_initialized():
    model = network()
    model.layer.append(nn.LazyBatchNorm2d(dtype=torch.float64))
    model.eval()
    maps = explain("layer-cam", lambda x: model(x), model.layer, X, target=0)
    close(maps, explain("layer-cam", model, model.layer, X, target=0))


def test_threads_that_share_an_observer_are_all_told():
    model, start = observed(Observer), threading.Barrier(3)

    def run():
        start.wait()
        for _ in range(3):
            explain("layer-cam", model, model.layer, X, target=0, internal_batch_size=1)

    with warnings.catch_warnings(record=True) as told, ThreadPoolExecutor(3) as pool:
        warnings.simplefilter("always")
        for future in [pool.submit(run) for _ in range(3)]:
            future.result()
    assert len(told) == 9
    assert model.layer[2].high == 0.1


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


GENERATOR = torch.Generator()


def forked(A):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return A + torch.randn_like(A)


CHANCE = {
    "a generator": lambda A, _: A + torch.rand(A.shape, generator=GENERATOR),
    "a forked generator": lambda A, _: forked(A),
    "a saturated output": lambda A, _: F.dropout(A, 0.5, True) * 0 + A,
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


class Flattened(nn.Module):
    """A normalization of tokens, N L of them in the first axis."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, A):
        tokens = A.flatten(2).transpose(1, 2)  # (N, L, C)
        normalized = self.norm(tokens.flatten(0, 1)).view_as(tokens)
        return normalized.transpose(1, 2).reshape(A.shape)


class Framed(Flattened):
    """A normalization of frames, N T of them in the first axis."""

    def forward(self, A):
        return self.norm(A.unflatten(1, (2, 3)).flatten(0, 1)).reshape(A.shape)


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
    "tokens": Flattened(nn.BatchNorm1d(6, track_running_stats=False).double()),
    "frames": Framed(nn.BatchNorm2d(3, track_running_stats=False).double()),
    "picked": Function(lambda A: A + A[torch.arange(len(A)).flip(0)]),
    "selected": Function(lambda A: A - A.index_select(0, torch.arange(len(A)).flip(0))),
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
    named = getattr(MIXING[mixing], "norm", MIXING[mixing])
    assert type(named).__name__ in told[0]
    assert "forward_func" not in told[0]


@pytest.mark.parametrize("name", WITH_LAYER)
def test_as_many_rows_as_channels(name):
    model, x = network(), random(6, 2, 6, 6)
    model.layer.append(Function(lambda A: A - A.mean(0) / 2))
    model.eval()
    _, told = recorded(explain, name, model, model.layer[0], x, target=0)
    assert len(told) == 1 and "Function 'layer.2' mixes the rows" in told[0]


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


@pytest.mark.parametrize("worker", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_a_model_may_explain_something_itself(name, worker):
    """Even its own layer, whose hooks are set; or it waits for a worker that does."""
    model, answers = network(), []
    ask = partial(explain, name, model, model.layer, X, target=0)
    expected = ask()

    def forward(x):
        if not answers:
            answers.append(None)
            if worker:
                with ThreadPoolExecutor(1) as pool:
                    answers[0] = pool.submit(ask).result(timeout=60)
            else:
                answers[0] = ask()
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

        for enabled in (True, False):
            pool.submit(torch.set_grad_enabled, enabled).result()
            if enabled:
                close(explain(name, forward, layer, X, **options), expected)
            else:
                with contextlib.suppress(ValueError):  # nothing is recorded there
                    explain(name, forward, layer, X, **options)
            assert pool.submit(torch.is_grad_enabled).result() == enabled


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


@pytest.mark.parametrize("name", OURS)
def test_models_run_at_the_same_time(name):
    """Each pass waits for one of each of the others: one after the other never ends."""
    meeting = threading.Barrier(4)

    def together(A):
        meeting.wait(timeout=60)
        return A

    models = [network() for _ in range(4)]
    for model in models:
        model.layer.append(Function(together))

    def run(model):
        return explain(name, model, model.layer, X, target=0, internal_batch_size=1)

    with ThreadPoolExecutor(4) as pool:
        maps = list(pool.map(run, models))
    for others in maps[1:]:
        close(others, maps[0])


def test_text_of_the_warnings():
    model = observed(Observer)
    model.layer.append(nn.BatchNorm2d(6, track_running_stats=False).double())
    model.head.insert(0, Function(lambda A: F.dropout(A, 0.5)))
    model.eval()
    _, told = recorded(explain, "layer-cam", model, model.layer[0], X, target=0)
    assert told == [
        "the outputs may depend on the batch, on chance or on what ran before, and so may the "
        "attributions, though in evaluation mode: Observer 'layer.2' changes its buffer "
        "high as it runs; Function 'head.0' draws random numbers; BatchNorm2d 'layer.3' "
        "takes statistics of the batch (buffers are put back); switch that off first, as "
        "with torch.ao.quantization.disable_observer, track_running_stats=True or "
        "dropout(x, p, self.training)"
    ]
