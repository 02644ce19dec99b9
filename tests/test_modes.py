"""Training mode, dead networks, precisions, wrappers of models, threads, copies."""

import copy
import pickle
import re
import threading
import warnings
import weakref
from functools import partial

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torchvision.ops import StochasticDepth

from captum_cams import LayerRSIGradCam
from captum_cams.metrics import average_drop
from captum_cams.reshape import vit_tokens
from tests import methods
from tests.methods import (
    BY_GRADIENT,
    OF_LAYER,
    OURS,
    SMALL,
    WITH_BASELINES,
    WITH_LAYER,
    build,
)
from tests.models import Function, TwoPart, network, random

explain = partial(methods.explain, target=0)
X = random(3, 2, 6, 6)


def recorded(name, *arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = explain(name, *arguments, **options)
    return maps, [str(warning.message) for warning in caught]


def raises(words, kind=ValueError):
    return pytest.raises(kind, match=re.escape(words))


# Training mode


@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_training_mode_brings_one_warning_and_leaves_no_trace(name, as_function):
    model = network()
    norm = nn.BatchNorm2d(6).double()
    model.layer.append(norm)
    model.head.insert(0, nn.Dropout(0.1))
    model.train()
    model.layer[1].eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    forward = (lambda x: model(x)) if as_function else model
    _, told = recorded(name, forward, model.layer, X, internal_batch_size=2)
    assert told == [
        "the model is in training mode, and in it BatchNorm2d, Dropout: its outputs "
        "depend on the batch or on chance, and so do the attributions; call "
        "model.eval() first"
    ]
    assert [module.training for module in model.modules()] == modes
    assert norm.num_batches_tracked == 0
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", OURS)
def test_training_mode_without_consequences_is_silent(name):
    model = network()
    expected = explain(name, model, model.layer, X)
    model.head.append(nn.Dropout(0.0))
    model.train()
    torch.testing.assert_close(explain(name, model, model.layer, X), expected)


@pytest.mark.parametrize(
    "module",
    [
        nn.Dropout2d(0.2),
        nn.AlphaDropout(0.2),
        StochasticDepth(0.2, "row"),
        nn.RReLU(),
        nn.BatchNorm2d(6).double(),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 6, 1).double()),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_that_act_in_training(module):
    model = network()
    model.layer.append(module.train())
    _, told = recorded("layer-cam", model, model.layer, X)
    assert len(told) == 1
    module.eval()
    explain("layer-cam", model, model.layer, X)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_inside_attention(dropout):
    attention = nn.MultiheadAttention(6, 2, dropout, batch_first=True).double().train()
    model = TwoPart(nn.Conv2d(2, 6, 1).double(), Function(lambda A: A))

    def forward(x):
        tokens = model.layer(x).flatten(2).transpose(1, 2)
        return attention(tokens, tokens, tokens, need_weights=False)[0].sum(1)

    _, told = recorded("layer-cam", forward, model.layer, X)
    assert len(told) == (dropout > 0)


def test_a_part_that_only_later_points_reach():
    class Routed(TwoPart):
        def forward(self, x):
            A = self.layer(x)
            return self.head(self.norm(A) if x.any() else A)

    model = Routed(*network().children()).eval()
    model.norm = nn.BatchNorm2d(6).double()
    _, told = recorded("rsi-grad-cam", model, model.layer, X, internal_batch_size=1)
    assert len(told) == 1
    assert model.norm.num_batches_tracked == 0


def test_metrics_tell_of_training_mode_once():
    model = network()
    model.head.append(nn.Dropout(0.1)).train()
    with pytest.warns(match="the model is in training mode") as caught:
        average_drop(model, X, X.mean(1, keepdim=True), target=0)
    assert len(caught) == 1


def test_another_threads_training_is_left_alone():
    model, other = network(), nn.BatchNorm2d(6).double().train()
    elsewhere = weakref.ref(other)  # no part of the model

    def aside(x):
        thread = threading.Thread(target=elsewhere(), args=(x.detach(),))
        thread.start()
        thread.join()
        return x

    model.layer.append(Function(aside))
    explain("layer-cam", model, model.layer, X)
    assert other.num_batches_tracked == 1


def test_replicas_share_the_buffers():
    model = network()
    norm = nn.BatchNorm2d(6).double()
    model.layer.append(norm)
    model.train()
    _, told = recorded("layer-cam", nn.DataParallel(model), model.layer, X)
    assert len(told) == 1
    assert norm.num_batches_tracked == 0


# Dead networks

SATURATED = (
    "the output's gradients at the layer are all 0 (the output is saturated, units are "
    "dead, or it does not depend on this part of the layer)"
)


@pytest.mark.parametrize("name", [*BY_GRADIENT, "group-cam", "ablation-cam"])
def test_a_dead_network_gives_a_zero_map_and_one_warning(name):
    dead = TwoPart(network().layer, Function(lambda A: 1 - (A - 9).relu().sum((2, 3))))
    maps, told = recorded(name, dead, dead.layer, X, internal_batch_size=2)
    reason = (
        "the output is the same without any one of the layer's channels"
        if name == "ablation-cam"
        else SATURATED
    )
    assert told == [f"the map is 0 for examples 0, 1, 2: {reason}"]
    assert (maps == 0).all()


@pytest.mark.parametrize("name", [*BY_GRADIENT, "group-cam", "ablation-cam"])
def test_only_the_dead_examples_are_named(name):
    def head(A):
        alive = A.new_tensor([[[[1.0]]], [[[0.0]]]])[(A.mean((1, 2, 3)) < 0).long()]
        return 1 + (alive * A).sum((2, 3))

    model = TwoPart(
        nn.Sequential(nn.Identity(), nn.Conv2d(2, 6, 1).double()), Function(head)
    )
    with torch.no_grad():
        model.layer[1].weight.fill_(1)
        model.layer[1].bias.zero_()
    x = torch.stack([random(2, 6, 6).abs(), -random(2, 6, 6).abs()])
    on_path = name in WITH_BASELINES and name in OF_LAYER
    baselines = {"baselines": 2 * x} if on_path else {}
    noise = {"stdevs": 0.0} if name.startswith("smooth") else {}
    maps, told = recorded(name, model, model.layer, x, **baselines, **noise)
    assert len(told) == 1
    assert told[0].startswith("the map is 0 for example 1: ")
    assert (maps[1] == 0).all()


def test_many_dead_examples_are_not_all_named():
    model = TwoPart(nn.Identity(), Function(lambda A: (A * 0).sum((2, 3))))
    _, told = recorded("layer-cam", model, model.layer, random(12, 2, 3, 3))
    assert told == [
        f"the map is 0 for examples 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...: {SATURATED}"
    ]


@pytest.mark.parametrize("name", ["rsi-grad-cam", "integrated-grad-cam"])
def test_a_path_with_some_gradient_is_alive(name):
    """Saturated at the input, where Grad-CAM's gradient is 0."""
    model = TwoPart(nn.Identity(), Function(lambda A: 1 - (1 - A).relu().sum((2, 3))))
    x = torch.full((1, 1, 2, 2), 3.0, dtype=torch.float64)
    assert explain(name, model, model.layer, x, n_steps=30).sum() > 0
    _, told = recorded("layer-cam", model, model.layer, x)
    assert len(told) == 1


@pytest.mark.parametrize("name", BY_GRADIENT)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_small_gradients_are_none_of_zero(name, scale):
    model = TwoPart(nn.Identity(), Function(lambda A: scale * A.sum((2, 3))))
    maps = explain(
        name, model, model.layer, random(2, 2, 3, 3).abs(), relu_attributions=False
    )
    assert maps.isfinite().all()


# Compiled, traced and distributed models


def compiled(model, backend):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the compiler itself
        fast = torch.compile(model, backend=backend)
        fast(X)  # from here on its code takes no hooks
    return fast


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", OURS)
def test_compiled_models(name, backend):
    model = network()
    expected = explain(name, model, model.layer, X)
    fast = compiled(model, backend)
    for layer in (fast.layer, model.layer):
        torch.testing.assert_close(explain(name, fast, layer, X), expected)
    function = torch.compile(lambda x: model(x), backend=backend)
    torch.testing.assert_close(explain(name, function, model.layer, X), expected)
    torch.testing.assert_close(fast(X), model(X))


def test_a_compiled_module_as_the_layer():
    model = network()
    expected = explain("rsi-grad-cam", model, model.layer, X)
    model.layer = torch.compile(model.layer, backend="eager")
    model(X)
    maps = explain("rsi-grad-cam", model, model.layer, X)
    torch.testing.assert_close(maps, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [torch.jit.script, partial(torch.jit.trace, example_inputs=X)],
    ids=["script", "trace"],
)
@pytest.mark.parametrize("name", WITH_LAYER)
def test_traced_and_scripted_models(name, make):
    plain = network()
    modules = TwoPart(plain.layer, nn.Sequential(*list(plain.head)[:-2]))
    fixed = make(modules)
    with raises(
        "layer must be a module that runs in Python, got one that is traced or scripted",
        TypeError,
    ):
        build(name, fixed, fixed.layer)
    with raises(
        "pass a module of this very model, which must be neither traced nor exported"
    ):
        explain(name, fixed, modules.layer, X)


@pytest.mark.parametrize("name", OURS)
def test_data_parallel(name):
    model = network()
    maps = explain(name, nn.DataParallel(model), model.layer, X)
    torch.testing.assert_close(maps, explain(name, model, model.layer, X))


def work(rank, file, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2
    )
    model = network()
    parallel = nn.parallel.DistributedDataParallel(model)
    x = X[: 1 + rank]  # the processes take different numbers of passes
    for name in ("rsi-grad-cam", "group-cam", "ablation-cam", "rise"):
        maps = explain(name, parallel, parallel.module.layer, x, internal_batch_size=1)
        results.put((rank, name, maps.tolist()))
    for _ in range(2):  # training goes on as if nothing had been
        parallel(x).sum().backward()
    results.close()
    results.join_thread()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="needs gloo",
)
def test_distributed_data_parallel(tmp_path):
    context = mp.get_context("spawn")
    results = context.Queue()
    processes = mp.spawn(work, (tmp_path / "meeting", results), nprocs=2, join=False)
    answers = [results.get(timeout=120) for _ in range(8)]
    while not processes.join(timeout=120):
        pass
    model = network()
    for rank, name, maps in answers:
        expected = explain(name, model, model.layer, X[: 1 + rank])
        torch.testing.assert_close(torch.tensor(maps).to(expected), expected)


# Precisions and modes


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16]
)
@pytest.mark.parametrize("name", OURS)
def test_precisions(name, dtype):
    model, x = network(), X
    expected = explain(name, model, model.layer, x)
    maps = explain(name, model.to(dtype), model.layer, x.to(dtype))
    assert maps.dtype == dtype
    assert maps.isfinite().all()
    if name != "xrai":  # ranks jump
        error = (maps.double() - expected).norm() / expected.norm()
        assert error < {8: 1e-12, 4: 1e-5, 2: 0.4}[dtype.itemsize]


@pytest.mark.parametrize("name", OURS)
def test_autocast(name):
    """Maps of a layer are in the layer's dtype, as Captum's, others in the inputs'."""
    model, x = network().float(), X.float()
    expected = explain(name, model, model.layer[0], x)
    with torch.autocast("cpu", torch.bfloat16):
        maps = explain(name, model, model.layer[0], x)
    assert maps.dtype == (torch.bfloat16 if name in OF_LAYER else torch.float32)
    if name != "xrai":
        error = (maps.float() - expected).norm() / expected.norm()
        assert error < 0.4


@pytest.mark.parametrize("name", OURS)
def test_memory_format(name):
    model = network()
    expected = explain(name, model, model.layer, X)
    model.to(memory_format=torch.channels_last)
    x = X.to(memory_format=torch.channels_last)
    torch.testing.assert_close(explain(name, model, model.layer, x), expected)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_flags_and_gradients_stay(name, frozen, requires_grad):
    model, x = network(), X.clone().requires_grad_(requires_grad)
    expected = explain(name, model, model.layer, X)
    model.requires_grad_(not frozen)
    for no_grad in (False, True):
        with torch.set_grad_enabled(not no_grad):
            maps = explain(name, model, model.layer, x)
            assert torch.is_grad_enabled() != no_grad
        torch.testing.assert_close(maps, expected)
        assert not maps.requires_grad
    assert x.requires_grad == requires_grad
    assert x.grad is None
    assert all(p.requires_grad != frozen and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", [*BY_GRADIENT, "group-cam", "xrai"])
def test_inference_mode_is_refused(name):
    model = network()
    with torch.inference_mode(), raises("call attribute outside of it"):
        explain(name, model, model.layer, X)


@pytest.mark.parametrize("name", ["ablation-cam", "score-cam", "rise"])
def test_inference_mode_is_fine_without_gradients(name):
    model = network()
    with torch.inference_mode():
        maps = explain(name, model, model.layer, X)
    torch.testing.assert_close(maps, explain(name, model, model.layer, X))


# Threads and copies


@pytest.mark.parametrize("name", OURS)
def test_two_threads_on_one_model(name):
    model = network()
    inputs = [random(2, 2, 6, 6, seed=seed) for seed in range(2)]
    expected = [explain(name, model, model.layer, x) for x in inputs]
    answers, start = {}, threading.Barrier(2)

    def run(number):
        start.wait()
        for turn in range(3):
            answers[number, turn] = explain(
                name, model, model.layer, inputs[number], internal_batch_size=1
            )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    for (number, _), maps in answers.items():
        torch.testing.assert_close(maps, expected[number])


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda cam: pickle.loads(pickle.dumps(cam))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("name", OURS)
def test_copies(name, duplicate):
    """With a model of their own, whose layer is their layer."""
    model = network()
    options = {"target": 0, **SMALL.get(name, {})}
    cam = build(name, model, model.layer)
    expected = cam.attribute(X, **options)
    other = duplicate(cam)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(other.attribute(X, **options), expected)


def test_copies_keep_their_transform():
    cam = LayerRSIGradCam(
        network(), nn.ReLU(), reshape_transform=partial(vit_tokens, grid=(2, 3))
    )
    tokens = random(1, 7, 2)
    for other in (copy.deepcopy(cam), pickle.loads(pickle.dumps(cam))):
        assert torch.equal(
            other.reshape_transform(tokens), cam.reshape_transform(tokens)
        )
