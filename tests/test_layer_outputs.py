"""What layers and models give besides one tensor, and layers without a gradient."""

import re
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_cams import LayerHiResCam, LayerRSIGradCam
from captum_cams.metrics import average_drop
from tests.methods import BY_GRADIENT, OF_LAYER, OURS, WITH_LAYER, explain
from tests.models import Function, TwoPart, network, random

X = random(3, 2, 6, 6)
close = torch.testing.assert_close


def raises(words, kind=ValueError):
    return pytest.raises(kind, match=re.escape(words))


@dataclass
class Stage:
    """As a stage of transformers gives it."""

    maps: torch.Tensor
    state: object = None


@dataclass(frozen=True)
class Frozen:
    maps: torch.Tensor


class Output(OrderedDict):
    """A mapping whose values are attributes too."""

    def __init__(self, **values):
        super().__init__(**values)
        self.__dict__.update(values)

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        self.__dict__[key] = value


Named = namedtuple("Named", "maps sizes")


class Own(Named):
    """With a constructor of its own."""

    def __new__(cls, maps):
        return super().__new__(cls, maps, (3, 3))


@dataclass
class Unset:
    maps: torch.Tensor
    later: object = field(init=False)


# What a layer may make of its feature maps; how its maps are got back; whether there
# is one tensor that can be maps alone.
CONTAINERS = {
    "tuple with None": (lambda A: (A, None), lambda given: given[0], True),
    "tuple with sizes": (lambda A: (A, (3, 3)), lambda given: given[0], True),
    "tuple with indices": (lambda A: (A, A.argmax(1)), lambda given: given[0], True),
    "tuple with a loss": (lambda A: (A.sum(), A), lambda given: given[1], True),
    "list": (lambda A: [None, A], lambda given: given[1], True),
    "nested": (lambda A: ((A, None), None), lambda given: given[0][0], True),
    "dict": (lambda A: {"out": A}, lambda given: given["out"], True),
    "ordered": (lambda A: OrderedDict(out=A, at=2), lambda given: given["out"], True),
    "mapping": (lambda A: Output(maps=A, loss=None), lambda given: given.maps, True),
    "dataclass": (lambda A: Stage(A, "x"), lambda given: given.maps, True),
    "frozen": (lambda A: Frozen(A), lambda given: given.maps, True),
    "named": (lambda A: Named(A, (3, 3)), lambda given: given.maps, True),
    "own constructor": (lambda A: Own(A), lambda given: given.maps, True),
    "unset field": (lambda A: Unset(A), lambda given: given.maps, True),
    "proxy": (lambda A: MappingProxyType({"a": A}), lambda given: given["a"], True),
    "of a function": (lambda A: A.sort(-1), lambda given: given.values, True),
    "twice the same": (lambda A: {"a": A, "b": [A]}, lambda given: given["a"], True),
    "pyramid": (
        lambda A: OrderedDict(fine=A, coarse=A.mean((2, 3), True)),
        lambda given: given["fine"],
        False,
    ),
    "recurrent": (
        lambda A: (A, (A.mean(3), A.mean(2))),
        lambda given: given[0],
        False,
    ),
    "hidden states": (
        lambda A: Output(maps=A, states=(2 * A, A)),
        lambda given: given.maps,
        False,
    ),
}


def contained(container):
    """A network, and one whose layer gives the same maps inside of something else."""
    wrap, select, _ = CONTAINERS[container]
    plain = network()
    if container == "of a function":
        plain.layer.append(Function(lambda A: A.sort(-1).values))
    model = TwoPart(
        nn.Sequential(plain.layer, Function(wrap)),
        nn.Sequential(Function(select), plain.head),
    )
    return plain, model


@pytest.mark.parametrize("container", [c for c, (*_, one) in CONTAINERS.items() if one])
@pytest.mark.parametrize("name", WITH_LAYER)
def test_the_only_feature_maps_are_found(name, container):
    plain, model = contained(container)
    expected = explain(name, plain, plain.layer, X, target=0)
    for batch in (2, None):
        maps = explain(name, model, model.layer, X, target=0, internal_batch_size=batch)
        close(maps, expected)


@pytest.mark.parametrize("layer_input", [False, True])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", WITH_LAYER)
def test_a_transform_is_handed_what_the_layer_gives(name, container, layer_input):
    plain, model = contained(container)
    expected = explain(name, plain, plain.layer, X, target=0)
    maps = explain(
        name,
        model,
        model.head[0] if layer_input else model.layer,
        X,
        CONTAINERS[container][1],
        target=0,
        attribute_to_layer_input=layer_input,
    )
    close(maps, expected)


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ("pyramid", "got OrderedDict('fine': tensor of shape (3, 6, 3, 3), 'coarse': tensor of shape (3, 6, 1, 1)); select its feature maps with a reshape_transform, such as lambda given: given['fine'], rearranged to (N, K, *spatial)"),
        ("recurrent", "got tuple(tensor of shape (3, 6, 3, 3), tuple(tensor of shape (3, 6, 3), tensor of shape (3, 6, 3))); select its feature maps with a reshape_transform, such as lambda given: given[0], rearranged to (N, K, *spatial)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", WITH_LAYER)
def test_several_feature_maps_are_named_as_they_are_nested(name, container, words):
    _, model = contained(container)
    with raises("layer must give tensors or a tuple of tensors, " + words, TypeError):
        explain(name, model, model.layer, X, target=0, internal_batch_size=3)


@pytest.mark.parametrize("given", [None, "text", {}, (1, 2), [{}]])
def test_nothing_to_map(given):
    def forward(x):
        layer(x)
        return x.sum((1, 2, 3))

    layer = Function(lambda x: given)
    with raises("choose a module inside it", TypeError):
        explain("layer-cam", forward, layer, X)
    with raises("choose a module inside it", TypeError):
        explain("layer-cam", forward, layer, X, lambda given: given)


# Models whose output is no tensor


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda y: Output(loss=None, logits=y), "got Output; wrap it in a function that returns the scores alone, such as lambda *args: model(*args)['logits'] (it holds Output('loss': None, 'logits': tensor of shape (3, 3)))"),
        (lambda y: {"out": y, "aux": y}, "such as lambda *args: model(*args)['out'] (it holds dict('out': tensor of shape (3, 3), 'aux': tensor of shape (3, 3)))"),
        (lambda y: Named(y, 0), "such as lambda *args: model(*args).maps (it holds Named(maps: tensor of shape (3, 3), sizes: 0))"),
        (lambda y: Stage(y), "such as lambda *args: model(*args).maps (it holds Stage(maps: tensor of shape (3, 3), state: None))"),
        (lambda y: (y, None), "such as lambda *args: model(*args)[0] (it holds tuple(tensor of shape (3, 3), None))"),
        (lambda y: {"loss": y.sum(), "logits": y}, "such as lambda *args: model(*args)['logits'] (it holds dict('loss': tensor of shape ()"),
        (lambda y: 3.0, "got float; wrap it in a function that returns the scores alone (it holds 3.0)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", OURS)
def test_outputs_that_are_no_tensor_name_their_fields(name, wrap, words):
    model = network()
    options = {"target": 0, "internal_batch_size": 3}
    if name == "xrai":
        options["n_steps"] = 2
        words = words.replace("(3, 3)", "(2, 3)")
    with raises(words, TypeError):
        explain(name, lambda x: wrap(model(x)), model.layer, X, **options)


# Several tensors of one layer


def fork(model, x, replicate=False):
    """A layer with two inputs, of which one is computed from the other."""
    h = model.stem(x)
    joint = model.joint._replicate_for_data_parallel() if replicate else model.joint
    return joint(h, 1.5 * h).flatten(1).sum(1)


@pytest.mark.parametrize("whole", ["data parallel", "device ids", "no_grad inside"])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_gradient_never_runs_through_another_tensor_of_the_layer(name, whole):
    model = nn.Module()
    model.stem = nn.Conv2d(2, 4, 3).double()
    model.joint = Function(lambda a, b: (a * b.tanh()).square())

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            return fork(model, x)

    options = {"attribute_to_layer_input": True}
    expected = explain(name, lambda x: fork(model, x), model.joint, X, **options)
    if whole == "data parallel":
        maps = explain(name, nn.DataParallel(Whole()), model.joint, X, **options)
    elif whole == "device ids":
        from tests.methods import SMALL, build

        cam = build(name, lambda x: fork(model, x), model.joint, device_ids=[0, 1])
        maps = cam.attribute(X, **SMALL.get(name, {}), **options)
    else:

        def forward(x):
            with torch.no_grad():
                h = model.stem(x)
                joined = model.joint(h, 1.5 * h)
            return joined.flatten(1).sum(1)

        maps = explain(name, forward, model.joint, X, **options)
    assert len(maps) == 2
    for ours, theirs in zip(maps, expected, strict=True):
        close(ours, theirs)
    h = model.stem(X).detach().requires_grad_()
    other = 1.5 * h.detach()
    (gradient,) = torch.autograd.grad((h * other.tanh()).square().sum(), h)
    exact = (gradient * h).sum(1, keepdim=True).relu()
    hi_res = LayerHiResCam(lambda x: fork(model, x), model.joint)
    close(hi_res.attribute(X, **options)[0], exact.detach())


def test_what_the_model_does_to_the_layers_input_later_is_not_seen():
    """The layer's input is changed in place behind it, as by `x += block(x)`."""
    block = nn.Conv2d(2, 2, 3, padding=1).double()

    def forward(x, inplace):
        h = x * 1.0
        if inplace:
            h += block(h)
        else:
            h = h + block(h)
        return h.square().sum((1, 2, 3))

    for layer_input in (True, False):
        maps = [
            LayerRSIGradCam(lambda x, inplace=inplace: forward(x, inplace), block)
            .attribute(X, n_steps=3, attribute_to_layer_input=layer_input)
            for inplace in (False, True)
        ]  # fmt: skip
        close(*maps)
    same = nn.Identity()

    def written(x, inplace):
        h = x * 1.0
        y = same(h).square().sum((1, 2, 3))
        return y + (h.mul_(3) if inplace else h * 3).sum((1, 2, 3))

    maps = [
        explain("hi-res-cam", lambda x, i=i: written(x, i), same, X) for i in (0, 1)
    ]
    close(*maps)


# Layers without a gradient

PREFIX = (
    "forward_func's target output must depend on every tensor of the layer by "
    "operations that autograd records, but "
)


class Round(nn.Module):
    """As quantized arithmetic does: nothing is recorded."""

    def forward(self, A):
        with torch.no_grad():
            return (A * 100).round() / 100


def behind(function):
    """A network with a module between its layer and its head."""
    model = network()
    model.head.insert(
        1, function if isinstance(function, nn.Module) else Function(function)
    )
    return model


def without_gradient():
    """Models whose layer has no gradient, and words of the cause and the remedy."""
    used = network()
    used.aside = nn.Identity()

    def forward(x):
        used.aside(x + 1)
        return used(x)

    yield "aside", forward, used.aside, (
        "it is the same whatever the layer gives; choose a layer on the way to the output"
    )  # fmt: skip
    detached = behind(lambda A: A.detach())
    yield "detach", detached, detached.layer, (
        "the way from the layer to the output is recorded no further than Conv2d 'head.0'; look behind it for torch.no_grad(), .detach(), rounding, NumPy"
    )  # fmt: skip
    rounded = behind(Round())
    yield (
        "no_grad",
        rounded,
        rounded.layer,
        "the way from the layer to the output is recorded no further than Conv2d 'head.0'",
    )
    arrays = behind(lambda A: torch.from_numpy(A.detach().numpy() * 2))
    yield (
        "numpy",
        arrays,
        arrays.layer,
        "the way from the layer to the output is recorded no further than Conv2d 'head.0'",
    )
    whole = network()
    yield (
        "output",
        lambda x: whole(x).detach(),
        whole.layer,
        "the way from the layer to the output is recorded no further than TwoPart",
    )

    class Inference(TwoPart):
        def forward(self, x):
            with torch.inference_mode():
                return super().forward(x)

    inference = Inference(*network().children())
    yield "inference", inference, inference.layer, (
        "at or behind the layer the model runs in torch.inference_mode(), which "
        "records nothing; explain it without that"
    )  # fmt: skip
    tail = network()

    def tail_inference(x):
        A = tail.layer(x)
        with torch.inference_mode():
            return tail.head(A)

    yield (
        "inference behind",
        tail_inference,
        tail.layer,
        "at or behind the layer the model runs in torch.inference_mode()",
    )
    inside = network()

    def checkpointed(x):
        return inside.head(checkpoint(inside.layer, x, use_reentrant=True))

    yield "checkpoint around", checkpointed, inside.layer, (
        "the layer runs inside of CheckpointFunction, which records nothing inside; "
        "for torch.utils.checkpoint pass use_reentrant=False"
    )  # fmt: skip
    after = network()

    def checkpointed_head(x):
        return checkpoint(after.head, after.layer(x), use_reentrant=True)

    yield "checkpoint behind", checkpointed_head, after.layer, (
        "the model has a reentrant torch.utils.checkpoint behind the layer, which hands "
        "gradients to parameters alone; pass it use_reentrant=False"
    )  # fmt: skip


CAUSES = {name: rest for name, *rest in without_gradient()}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("name", [*BY_GRADIENT, "group-cam"])
def test_each_cause_has_its_own_remedy(name, cause):
    forward, layer, words = CAUSES[cause]
    with raises(PREFIX + words) as caught:
        explain(name, forward, layer, X, target=0)
    assert "materialize_grads" not in str(caught.value)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_of_several_tensors_those_without_a_gradient_may_be_zeros(name):
    def second(model):
        return TwoPart(
            nn.Sequential(model.layer, Function(lambda A: (A, A + 1))),
            nn.Sequential(Function(lambda given: given[0]), model.head),
        )

    model = second(network())
    words = (
        PREFIX
        + "it is the same whatever tensor 1 of the layer gives; choose a layer on "
        "the way to the output, select the others with a reshape_transform, or pass "
        "grad_kwargs={'materialize_grads': True} for a map of zeros"
    )
    with raises(words):
        explain(name, model, model.layer, X, target=0)
    plain = network()
    maps = explain(
        name, model, model.layer, X, target=0, grad_kwargs={"materialize_grads": True}
    )
    close(maps[0], explain(name, plain, plain.layer, X, target=0))
    assert (maps[1] == 0).all()


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_layers_with_a_block_between_that_records_nothing(name):
    model = network()

    def forward(x, block):
        A = model.layer[0](x)
        with torch.set_grad_enabled(not block):
            B = model.layer[1](A)
        return model.head(B)

    layers = [model.layer[0], model.head[0]]
    expected = explain(name, lambda x: forward(x, False), layers, X, target=0)
    with raises(
        PREFIX
        + "the way from layer 0 of the list (Conv2d) to the output is recorded no further than layer 0 of the list (Conv2d); look behind it"
    ):
        explain(name, lambda x: forward(x, True), layers, X, target=0)
    maps = explain(name, lambda x: forward(x, True), layers[1:], X, target=0)
    close(maps[0], expected[1])

    def frozen(x):
        with torch.no_grad():
            A = model.layer[0](x)
        return model.head(model.layer[1](A))

    for ours, theirs in zip(
        explain(name, frozen, layers, X, target=0), expected, strict=True
    ):
        close(ours, theirs)


@pytest.mark.parametrize("name", [*BY_GRADIENT, "group-cam"])
def test_checkpoints_that_are_not_reentrant(name):
    model = network()
    expected = explain(name, model, model.layer, X, target=0)

    def forward(x):
        return checkpoint(model.head, checkpoint(model.layer, x, use_reentrant=False), use_reentrant=False)  # fmt: skip

    close(explain(name, forward, model.layer, X, target=0), expected)


def test_the_last_layer_of_an_inference_block():
    model = network()
    expected = explain("rsi-grad-cam", model, model.layer, X, target=0)

    def forward(x):
        with torch.inference_mode():
            A = model.layer(x)
        return model.head(A)

    close(explain("rsi-grad-cam", forward, model.layer, X, target=0), expected)


# Layers that a pass uses more than once

TWICE = (
    "layer (Tanh) is used 2 times in a pass: the map is that of its last use; to "
    "explain another one, let it run through a copy.deepcopy of the layer, or of the part of the model that holds it"
)


@pytest.mark.parametrize("batch", [1, None])
@pytest.mark.parametrize("name", WITH_LAYER)
def test_a_layer_used_twice_maps_its_last_use_and_says_so(name, batch):
    plain, shared = network(), nn.Tanh()
    model = TwoPart(
        nn.Sequential(plain.layer[0], shared, nn.Conv2d(6, 6, 1).double(), shared),
        plain.head,
    )
    last = TwoPart(nn.Sequential(*model.layer[:3], nn.Tanh()), plain.head)
    expected = explain(name, last, last.layer[3], X, target=0)
    with pytest.warns(UserWarning, match=re.escape(TWICE)) as caught:
        maps = explain(name, model, shared, X, target=0, internal_batch_size=batch)
    assert len(caught) == 1
    close(maps, expected)


def test_siamese_networks():
    """One network on two inputs: the second input's map."""
    tower = network(softmax=False)

    def forward(a, b):
        return F.cosine_similarity(tower(a), tower(b))

    a, b = X, random(3, 2, 6, 6, seed=1)
    with pytest.warns(UserWarning, match="is used 2 times in a pass"):
        maps = explain("layer-cam", forward, tower.layer, (a, b))
    with torch.no_grad():
        fixed = tower(a)
    expected = explain(
        "layer-cam",
        lambda b, fixed: F.cosine_similarity(fixed, tower(b)),
        tower.layer,
        b,
        additional_forward_args=fixed,
    )
    close(maps, expected)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_layer_named_twice_is_used_once(name):
    model = network()
    maps = explain(name, model, [model.layer, model.layer], X, target=0)
    expected = explain(name, model, model.layer, X, target=0)
    for map_ in maps:
        close(map_, expected)


def test_ablation_needs_a_transform_that_is_recorded():
    model = network()
    with raises("to tell what belongs to a channel, got maps of shape"):
        explain("ablation-cam", model, model.layer, X, lambda A: A.detach(), target=0)
    expected = explain("ablation-cam", model, model.layer, X, target=0)
    with torch.inference_mode():
        maps = explain("ablation-cam", model, model.layer, X, lambda A: A, target=0)
    close(maps, expected)


def test_a_layer_aside_of_a_model_with_chance():
    model, aside = network(), nn.Conv2d(2, 3, 1).double()
    model.head.insert(0, nn.Dropout(0.5))

    def forward(x):
        aside(x)
        return model(x)

    model.train()
    with (
        raises("it is the same whatever the layer gives"),
    ):
        explain("layer-cam", forward, aside, X, target=0)


# Models that fix their batch


class FixedState(nn.Module):
    """A recurrent network whose first state has one row for each of N examples."""

    def __init__(self, rows):
        super().__init__()
        self.embed = nn.Conv1d(2, 4, 1).double()
        self.lstm = nn.LSTM(4, 4, batch_first=True).double()
        self.state = (random(1, rows, 4, seed=1), random(1, rows, 4, seed=2))

    def forward(self, x):
        return self.lstm(self.embed(x).transpose(1, 2), self.state)[0].sum((1, 2))


@pytest.mark.parametrize("name", ["rsi-grad-cam", "integrated-grad-cam", "rise", "ablation-cam"])  # fmt: skip
def test_models_that_fix_their_batch_name_it(name):
    model, x = FixedState(3), random(3, 2, 9)
    options = {"internal_batch_size": 5} if name != "rise" else {}
    with raises("forward_func fails on a batch of ") as caught:
        explain(name, model, model.embed, x, **options)
    words = (
        "rows, but not on one of 3, as many as there are examples; pass "
        "internal_batch_size=3 (of metrics max_examples_per_batch), as the model seems "
        "to fix its batch (RuntimeError: Expected hidden"
    )
    assert words in str(caught.value)
    if name.endswith("grad-cam"):
        follows = FixedState(1)
        follows.load_state_dict(model.state_dict())

        def forward(x, h, c):
            follows.state = (h.transpose(0, 1), c.transpose(0, 1))
            return follows(x)

        maps = explain(name, model, model.embed, x, internal_batch_size=3)
        rows = tuple(part.transpose(0, 1) for part in model.state)
        # The state follows its examples there.
        expected = explain(
            name, forward, follows.embed, x, additional_forward_args=rows
        )
        close(maps, expected)


def test_a_fixed_batch_that_a_reshape_hides():
    model = network()

    def forward(x):
        return model(x).reshape(3, -1)[:, :3]

    with raises("forward_func fails on a batch of 12 rows, but not on one of 3"):
        explain("rsi-grad-cam", forward, model.layer, X, target=0)
    maps = X.mean(1, keepdim=True)
    with raises("(of metrics max_examples_per_batch)"):
        average_drop(forward, X, maps, target=0, max_examples_per_batch=2)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), MemoryError("full")])
def test_a_batch_that_takes_too_much_memory_is_no_fixed_batch(error):
    model = network()

    def forward(x):
        if len(x) > 3:
            raise error
        return model(x)

    with pytest.raises(type(error), match="full"):
        explain("rsi-grad-cam", forward, model.layer, X, target=0)


def test_a_row_that_fails_is_no_fixed_batch():
    model = network()

    def forward(x):
        if (x[:, 0, 0, 0] > 0.9 * X[2, 0, 0, 0].abs()).any():
            raise KeyError("this picture")
        return model(x)

    x = X.clone()
    x[:2] *= 0
    x[2, 0, 0, 0] = x[2, 0, 0, 0].abs()
    with pytest.raises(KeyError, match="this picture"):
        explain("rsi-grad-cam", forward, model.layer, x, target=0)


def test_errors_that_have_nothing_to_do_with_the_batch_stay():
    model = behind(lambda A: A @ A.new_ones(7, 2))
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|size|shape"):
        explain("rsi-grad-cam", model, model.layer, X, target=0)


def test_a_tuple_with_none_brings_no_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in OF_LAYER:
            _, model = contained("tuple with None")
            explain(name, model, model.layer, X, target=0)
    assert not caught
