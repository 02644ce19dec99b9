"""Layers that give no feature maps: tokens, channels last."""

import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from captum_cams import LayerRSIGradCam
from captum_cams.reshape import channels_last, vit_tokens
from tests import methods
from tests.methods import BY_GRADIENT, OF_LAYER, WITH_LAYER, build
from tests.models import Function, TwoPart, network, random

explain = partial(methods.explain, target=0)
X = random(3, 2, 6, 6)


def to_tokens(A):
    """A class token that nobody reads, then the patches row by row."""
    N, K, h, w = A.shape
    tokens = A.new_full((N, 1 + h * w, K), 7.0)
    for i in range(h):
        for j in range(w):
            tokens[:, 1 + i * w + j] = A[:, :, i, j]
    return tokens


def from_tokens(tokens, h=3):
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (h, -1))


LAYOUTS = {
    "tokens": (to_tokens, from_tokens, vit_tokens),
    "tokens first": (
        lambda A: to_tokens(A).transpose(0, 1),
        lambda t: from_tokens(t.transpose(0, 1)),
        lambda t: vit_tokens(t.transpose(0, 1)),
    ),
    "channels last": (
        lambda A: A.permute(0, 2, 3, 1),
        lambda A: A.permute(0, 3, 1, 2),
        channels_last,
    ),
}


def laid_out(layout):
    """The same network, but for the layout of its layer, and the transform back."""
    forth, back, transform = LAYOUTS[layout]
    plain = network()
    model = TwoPart(
        nn.Sequential(plain.layer, Function(forth)),
        nn.Sequential(Function(back), plain.head),
    )
    return plain, model, transform


@pytest.mark.parametrize("layer_input", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WITH_LAYER)
def test_the_layout_of_a_layer_does_not_matter(name, layout, layer_input):
    plain, model, transform = laid_out(layout)
    expected = explain(name, plain, plain.layer, X)
    layer = model.head[0] if layer_input else model.layer
    for batch in (2, None):
        maps = explain(
            name,
            model,
            layer,
            X,
            transform,
            attribute_to_layer_input=layer_input,
            internal_batch_size=batch,
        )
        torch.testing.assert_close(maps, expected)
        assert not maps.requires_grad


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_every_layer_of_a_list_is_transformed(name):
    plain, model, transform = laid_out("channels last")
    same = TwoPart(
        model.layer,
        nn.Sequential(Function(lambda A: 2 * A), Function(lambda A: A / 2), model.head),
    )
    maps = explain(name, same, [same.layer, same.head[0]], X, transform)
    torch.testing.assert_close(maps[0], explain(name, plain, plain.layer, X))
    twice = explain(name, same, same.head[0], X, transform)
    torch.testing.assert_close(maps[1], twice)


@pytest.mark.parametrize("name", WITH_LAYER)
def test_the_transforms_function_may_be_any_rearrangement(name):
    """Flipped places flip the map."""
    plain = network()
    flipped = explain(name, plain, plain.layer, X, lambda A: A.flip(3))
    if name in OF_LAYER:
        expected = explain(name, plain, plain.layer, X).flip(3)
        torch.testing.assert_close(flipped, expected)
    assert flipped.isfinite().all()


def test_completeness_lacks_the_class_tokens_part():
    plain = network()

    def forth(A):
        return torch.cat([A.mean((2, 3))[:, None], A.flatten(2).transpose(1, 2)], 1)

    model = TwoPart(
        nn.Sequential(plain.layer, Function(forth)),
        Function(lambda t: plain.head(from_tokens(t) * t[:, 0, :, None, None])),
    )
    options = {"target": 0, "n_steps": 200, "return_convergence_delta": True}
    units, delta = LayerRSIGradCam(
        model, model.layer, reshape_transform=vit_tokens
    ).conductance(X, **options)
    assert units.shape == (3, 6, 3, 3)
    everything, whole = LayerRSIGradCam(
        model, model.layer, reshape_transform=lambda t: t.transpose(1, 2)
    ).conductance(X, **options)  # (N, K, tokens)
    assert (whole.abs() < 1e-5).all()
    torch.testing.assert_close(delta, whole - everything[:, :, 0].sum(1))
    assert (delta.abs() > 1e-4).all()


def test_vit_tokens():
    tokens = random(2, 1 + 6, 4)
    maps = vit_tokens(tokens, grid=(2, 3))
    for i in range(2):
        for j in range(3):
            assert torch.equal(maps[:, :, i, j], tokens[:, 1 + 3 * i + j])
    assert torch.equal(vit_tokens(tokens[:, 1:], (2, 3), 0), maps)
    assert torch.equal(
        partial(vit_tokens, grid=(2, 3), prefix_tokens=3)(
            torch.cat([tokens[:, :1]] * 2 + [tokens], 1)
        ),
        maps,
    )
    assert vit_tokens(random(1, 1 + 8, 5), grid=(2, 2, 2)).shape == (1, 5, 2, 2, 2)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_channels_last(dims):
    A = random(2, 5, *[3, 4, 6][:dims])
    assert torch.equal(channels_last(torch.stack(list(A.unbind(1)), -1)), A)


def raises(words, kind=ValueError):
    return pytest.raises(kind, match=re.escape(words))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((random(2, 7, 4),), "got 7 tokens with prefix_tokens = 1 for the grid (2, 2); give it both with functools.partial"),
        ((random(2, 7, 4), (3, 3)), "got 7 tokens with prefix_tokens = 1 for the grid (3, 3)"),
        ((random(2, 1, 4),), "got 1 tokens with prefix_tokens = 1 for the grid (0, 0)"),
        ((random(2, 4, 4), None, -1), "prefix_tokens = -1"),
        ((random(2, 7, 4, 4),), "vit_tokens takes a layer's tensor (N, tokens, K), got shape (2, 7, 4, 4)"),
    ],
)  # fmt: skip
def test_tokens_that_do_not_fit(arguments, words):
    with raises(words):
        vit_tokens(*arguments)


def test_channels_last_needs_places():
    with raises(
        "channels_last takes a layer's tensor (N, *spatial, K), got shape (2, 5)"
    ):
        channels_last(random(2, 5))


@pytest.mark.parametrize("name", WITH_LAYER)
@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (lambda A: A.flatten(1), "reshape_transform must give feature maps (N, K, *spatial) of a floating dtype, got a tensor of shape (3, 54) for the layer's tensor of shape (3, 6, 3, 3)"),
        (lambda A: (A,), "got tuple"),
        (lambda A: A.long(), "of a floating dtype"),
        (lambda A: A[:1], "layer must give one row for each of its 3 examples, got shape (1, 6, 3, 3)"),
        (vit_tokens, "vit_tokens takes a layer's tensor (N, tokens, K), got shape (3, 6, 3, 3)"),
    ],
)  # fmt: skip
def test_transforms_that_give_no_maps(name, transform, words):
    model = network()
    with raises(words):
        explain(name, model, model.layer, X, transform, internal_batch_size=3)


@pytest.mark.parametrize("name", WITH_LAYER)
def test_a_transform_is_a_function(name):
    model = network()
    with raises(
        "reshape_transform must be a function of a tensor, or None, got 'vit'",
        TypeError,
    ):
        build(name, model, model.layer, reshape_transform="vit")


ADVICE = (
    "layer gives shape (N, 10, 6) for inputs of shape (N, 2, 6, 6): its second axis is "
    "taken for channels, the others for places; if they are not, as with a "
    "transformer's tokens, the map is wrong: pass a reshape_transform, such as "
    "captum_cams.reshape.vit_tokens"
)


@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize("name", OF_LAYER)
def test_other_axes_than_the_inputs_bring_one_warning(name, batch):
    _, model, _ = laid_out("tokens")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explain(name, model, model.layer, X, internal_batch_size=batch)
    assert [str(warning.message) for warning in caught] == [ADVICE]
    assert caught[0].filename.endswith("methods.py")  # the line that called


@pytest.mark.parametrize("name", ["group-cam", "score-cam"])
def test_masks_of_the_input_refuse_tokens(name):
    _, model, _ = laid_out("tokens")
    with raises(
        "got shape (3, 10, 6) for inputs of shape (3, 2, 6, 6); choose a convolutional "
        "layer, or give a reshape_transform, such as captum_cams.reshape.vit_tokens"
    ):
        explain(name, model, model.layer, X, internal_batch_size=3)


@pytest.mark.parametrize("name", OF_LAYER)
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (Function(lambda x: x.flatten(1)), X),  # one number a channel
        (Function(lambda x: x[:, None] * torch.ones(3, 1).double()), random(2, 5)),
        (nn.Conv1d(4, 3, 1).double(), random(2, 4, 7)),  # embeddings
    ],
)
def test_no_warning_where_nothing_is_wrong(name, layer, x):
    model = TwoPart(layer, Function(lambda A: A.tanh().flatten(1).sum(1)))
    explain(name, model, model.layer, x, target=None)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_transform_that_does_nothing_ends_the_warning(name):
    _, model, _ = laid_out("tokens")
    explain(name, model, model.layer, X, lambda tokens: tokens)
