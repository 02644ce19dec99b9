"""Layers that give no feature maps: tokens, channels last."""

import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from captum_cams import GroupCam, LayerRSIGradCam, ScoreCam
from captum_cams.reshape import channels_last, fits, fitting, sized, vit_tokens
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
    with pytest.warns(UserWarning, match="reshape_transform gives shape"):
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


@pytest.mark.parametrize(
    "hold",
    [lambda t: (t, None), lambda t: [t], lambda t: {"hidden": t, "shape": (2, 3)}],
)
def test_what_holds_one_tensor(hold):
    tokens, maps = random(2, 7, 4), random(2, 3, 3, 5)
    assert torch.equal(vit_tokens(hold(tokens), (2, 3)), vit_tokens(tokens, (2, 3)))
    assert torch.equal(channels_last(hold(maps)), channels_last(maps))
    for transform in (vit_tokens, channels_last):
        with raises("layer must give one tensor here, got 2"):
            transform((maps, maps + 1))


def raises(words, kind=ValueError):
    return pytest.raises(kind, match=re.escape(words))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((random(2, 7, 4),), "vit_tokens got 7 tokens with prefix_tokens = 1, which leaves 6 patches, no square; give it grid=, the patches along each axis, and prefix_tokens= with functools.partial; prefix_tokens = 3 leaves a grid"),
        ((random(2, 7, 4), (3, 3)), "got 7 tokens with prefix_tokens = 1 for the grid (3, 3); give it both with functools.partial"),
        ((random(2, 1, 4),), "got 1 tokens with prefix_tokens = 1, which leaves 0 patches"),
        ((random(2, 4, 4), None, -1), "prefix_tokens = -1"),
        ((random(2, 3, 4), None, -1), "prefix_tokens = -1 for the grid (2, 2)"),
        ((random(2, 7, 4, 4),), "vit_tokens takes a layer's tensor (N, tokens, K), got shape (2, 7, 4, 4)"),
    ],
)  # fmt: skip
def test_tokens_that_do_not_fit(arguments, words):
    with raises(words):
        vit_tokens(*arguments)


GRIDS = [
    # Tokens, tokens before the patches, the input's size, the grid.
    (196, 0, (224, 224), (14, 14)),
    (257, 1, (128, 512), (8, 32)),
    (261, 5, (512, 128), (32, 8)),
    (12 * 101, 0, (128, 1024), (12, 101)),  # patches of 16 pixels at a stride of 10
    (14 * 28, 0, (230, 455), (14, 28)),  # and a rest that no patch covers
    (64, 0, (32, 32, 32), (4, 4, 4)),
    (49, 0, (16000,), (49,)),
]


@pytest.mark.parametrize(("tokens", "prefix", "size", "grid"), GRIDS)
def test_the_grid_is_that_of_the_input(tokens, prefix, size, grid):
    x = random(2, tokens, 3)
    maps = vit_tokens(x, prefix_tokens=prefix, input_size=size)
    assert torch.equal(maps, vit_tokens(x, grid, prefix))
    if len(grid) > 1:
        assert fits(maps.shape, [(2, 3, *size)])


def test_every_grid_of_square_patches_is_found():
    """In pictures of any proportions, also where patches leave a rest at the border."""
    for patch in (7, 14, 16):
        for h in range(1, 13):
            for w in range(1, 13):
                size = (h * patch + h % patch, w * patch + w % patch)
                maps = vit_tokens(random(1, h * w, 1), None, 0, input_size=size)
                assert maps.shape == (1, 1, h, w)


@pytest.mark.parametrize(
    ("tokens", "prefix", "size", "words"),
    [
        (198, 1, (224, 224), "got 198 tokens with prefix_tokens = 1 for an input of size (224, 224), whose 197 patches make no grid of patches with equal sides; give it grid=, the patches along each axis, and prefix_tokens= with functools.partial; prefix_tokens = 2 leaves a grid"),
        (261, 1, (128, 512), "prefix_tokens = 5 leaves a grid"),
        (256, 1, (128, 512), "prefix_tokens = 0 leaves a grid"),
        (1 + 13 * 17, 1, (224, 224), "whose 221 patches make no grid of patches with equal sides; give it grid=, the patches along each axis, and prefix_tokens= with functools.partial"),
        (1568, 0, (16, 224, 224), "whose 1568 patches may be a grid of (2, 28, 28) or (8, 14, 14); give it grid="),
        (64, 0, (30,), "whose 64 patches make no grid"),
    ],
)  # fmt: skip
def test_it_asks_for_the_grid_where_the_input_does_not_tell(
    tokens, prefix, size, words
):
    with raises(words):
        vit_tokens(random(1, tokens, 2), prefix_tokens=prefix, input_size=size)


@pytest.mark.parametrize("name", WITH_LAYER)
def test_methods_tell_the_transform_the_inputs_size(name):
    """A wide picture, whose 16 patches would make a square."""
    plain = network()
    forth, x = LAYOUTS["tokens"][0], random(2, 2, 4, 16)
    model = TwoPart(
        nn.Sequential(plain.layer, Function(forth)),
        nn.Sequential(Function(partial(from_tokens, h=2)), plain.head),
    )
    expected = explain(name, plain, plain.layer, x)
    maps = explain(name, model, model.layer, x, vit_tokens)
    torch.testing.assert_close(maps, expected)


def test_who_is_told_the_size():
    def own(tokens, input_size=None):
        return input_size

    def other(tokens):
        return tokens

    pictures = [(2, 5), (2, 3, 4, 6), (2, 3, 8, 8)]
    assert sized(own, pictures)(0) == (4, 6)
    assert sized(partial(own), pictures)(0) == (4, 6)
    assert sized(partial(own, input_size=(1, 1)), pictures)(0) == (1, 1)
    assert sized(own, [(2, 5)])(0) is None
    assert sized(other, pictures) is other
    assert sized(torch.relu, pictures) is torch.relu  # a builtin without a signature
    assert sized(None, pictures) is None


SQUARE, WIDE, VIDEO = (1, 3, 224, 224), (1, 3, 128, 512), (1, 3, 16, 224, 224)


@pytest.mark.parametrize(
    ("shape", "inputs", "fit"),
    [
        ((1, 512, 7, 7), [SQUARE], True),
        ((1, 512, 1, 1), [SQUARE], True),
        ((1, 512, 1, 1), [WIDE], True),  # pooled
        ((1, 512), [SQUARE], True),
        ((1, 197, 768), [SQUARE], False),
        ((1, 7, 7, 768), [SQUARE], False),
        ((1, 56, 56, 96), [SQUARE], False),
        ((1, 12, 197, 64), [SQUARE], False),  # heads
        ((1, 12, 1, 64), [SQUARE], False),
        ((1, 3, 448, 448), [SQUARE], False),
        ((1, 64, 13, 13), [SQUARE], True),  # rounded up
        ((1, 256, 6, 6), [SQUARE], True),  # no padding
        ((1, 2048, 8, 8), [(1, 3, 299, 299)], True),
        ((1, 2048, 8, 12), [(1, 3, 299, 450)], True),
        ((1, 9, 24, 24), [(1, 1, 28, 28)], True),
        ((1, 384, 8, 32), [WIDE], True),
        ((1, 384, 16, 16), [WIDE], False),
        ((1, 8, 32, 192), [WIDE], False),
        ((1, 28, 56, 192), [(1, 3, 224, 448)], False),
        ((1, 64, 29, 29), [(1, 1, 28, 28)], True),  # padded by an even kernel
        ((1, 64, 30, 30), [(1, 1, 28, 28)], False),
        ((1, 512, 2, 7, 7), [VIDEO], True),  # strides of 8 in time and 32 in space
        ((1, 512, 16, 7, 7), [VIDEO], True),
        ((1, 8, 7, 7, 768), [VIDEO], False),
        ((1, 8, 4, 5, 96), [(1, 3, 16, 128, 160)], False),
        ((1, 8, 8, 8, 16), [(1, 1, 32, 32, 32)], False),
        ((1, 16, 64, 64, 32), [(1, 1, 256, 256, 32)], True),  # depth last
        ((1, 64, 85), [(1, 4, 100)], True),
        ((1, 64, 300), [(1, 4, 100)], False),
        ((1, 7, 7, 768), [(1, 20)], True),  # nothing to judge by
        ((1, 5, 4, 4), [(1, 3, 16, 16), (1, 20)], True),
        ((1, 5, 4, 4), [(1, 3, 7), (1, 3, 16, 16)], True),
        ((1, 5, 4, 4), [(1, 3, 7), (1, 3, 16, 64)], False),
    ],
)
def test_what_can_be_feature_maps(shape, inputs, fit):
    assert fits(shape, inputs) == fit


@pytest.mark.parametrize("seed", range(20))
def test_convolutions_and_pooling_always_fit(seed):
    """Whatever their kernels, strides, paddings and ways to round."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    x = torch.zeros(1, 1, drawn(60, 300), drawn(60, 300), device="meta")
    maps = x
    while min(maps.shape[2:]) > 12:
        kernel, stride = drawn(1, 5), drawn(1, 3)
        if drawn(0, 1):
            layer = nn.Conv2d(
                1, 1, kernel, stride, drawn(0, kernel // 2), device="meta"
            )
        else:
            layer = nn.MaxPool2d(kernel, stride, ceil_mode=bool(drawn(0, 1)))
        maps = layer(maps)
        assert fits((1, 64, *maps.shape[2:]), [x.shape]), (x.shape, maps.shape)


@pytest.mark.parametrize(
    ("shape", "inputs", "function", "bound"),
    [
        ((1, 7, 7, 768), SQUARE, channels_last, {}),
        ((1, 8, 7, 7, 768), VIDEO, channels_last, {}),
        ((1, 197, 768), SQUARE, vit_tokens, {}),
        ((1, 196, 768), SQUARE, vit_tokens, {"prefix_tokens": 0}),
        ((1, 201, 768), SQUARE, vit_tokens, {"prefix_tokens": 5}),
        ((1, 257, 768), WIDE, vit_tokens, {}),
    ],
)
def test_the_transform_that_fits(shape, inputs, function, bound):
    found = fitting(shape, [inputs])
    assert getattr(found, "func", found) is function
    assert getattr(found, "keywords", {}) == bound
    assert fits(sized(found, [inputs])(torch.zeros(shape)).shape, [inputs])


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [
        ((1, 12, 197, 64), SQUARE),
        ((1, 393, 768), VIDEO),  # of 8 x 7 x 7 patches, or of 2 x 14 x 14
        ((1, 213, 768), SQUARE),
        ((1, 5), SQUARE),
    ],
)
def test_no_transform_fits(shape, inputs):
    assert fitting(shape, [inputs]) is None


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
    "taken for channels, the others for places, which do not fit those of the inputs; "
    "if they are none, as with a transformer's tokens or channels last, the map is "
    "wrong: pass a reshape_transform, such as captum_cams.reshape.vit_tokens"
)


@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize("name", OF_LAYER)
def test_a_layer_that_does_not_fit_brings_one_warning(name, batch):
    _, model, _ = laid_out("tokens")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explain(name, model, model.layer, X, internal_batch_size=batch)
    assert [str(warning.message) for warning in caught] == [ADVICE]
    assert caught[0].filename.endswith("methods.py")  # the line that called


MASKS = {
    "group-cam": GroupCam,
    "score-cam": ScoreCam,
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(
    ("function", "given", "remedy"),
    [
        (to_tokens, "(3, 10, 6)", "captum_cams.reshape.vit_tokens"),
        (lambda A: A.permute(0, 2, 3, 1), "(3, 3, 3, 6)", "captum_cams.reshape.channels_last"),
        (lambda A: A.repeat(1, 1, 1, 3), "(3, 6, 3, 9)", ""),
    ],
)  # fmt: skip
def test_masks_of_the_input_refuse_what_is_none(name, function, given, remedy):
    """Before they speak of groups, of which there are more than channels here."""
    model = TwoPart(
        nn.Sequential(network().layer, Function(function)),
        Function(lambda A: A.tanh().flatten(1).sum(1)),
    )
    options = {"groups": 20, "baselines": 0} if name == "group-cam" else {}
    cam = MASKS[name](model, model.layer)
    with raises(
        "layer must give feature maps (N, K, *spatial) whose spatial axes fit the "
        f"inputs' axes, got shape {given} for inputs of shape (3, 2, 6, 6); choose a "
        "convolutional layer, or give a reshape_transform"
        + (f", such as {remedy}" if remedy else " that gives feature maps")
    ):
        cam.attribute(X, internal_batch_size=3, **options)


@pytest.mark.parametrize("name", WITH_LAYER)
@pytest.mark.parametrize(
    "function",
    [
        lambda A: A.repeat_interleave(4, 2).repeat_interleave(4, 3),  # 12 x 12 of 6 x 6
        lambda A: A.amax(2, keepdim=True),  # 1 x 3, as networks that read text
    ],
)
def test_maps_that_may_be_meant_bring_a_warning_alone(name, function):
    plain = network()
    model = TwoPart(
        nn.Sequential(plain.layer, Function(function)),
        Function(lambda A: A.tanh().mean((2, 3))),
    )
    with pytest.warns(UserWarning, match="layer gives shape") as caught:
        maps = explain(name, model, model.layer, X)
    assert len(caught) == 1
    assert maps.isfinite().all()


def test_the_warning_names_the_transform():
    def advice(layer, x):
        model = TwoPart(layer, Function(lambda A: A.tanh().flatten(1).sum(1)))
        with pytest.warns(UserWarning, match="gives shape") as caught:
            LayerRSIGradCam(model, model.layer).attribute(x, n_steps=2)
        return str(caught[0].message)

    turned = nn.Sequential(network().layer, Function(lambda A: A.permute(0, 2, 3, 1)))
    assert advice(turned, X).endswith("such as captum_cams.reshape.channels_last")
    volume = nn.Sequential(
        network(3).layer, Function(lambda A: A.permute(0, 2, 3, 4, 1))
    )
    x = random(1, 2, 4, 6, 6)
    assert advice(volume, x).endswith("such as captum_cams.reshape.channels_last")
    patches = nn.Sequential(network().layer, Function(lambda A: A.flatten(2).mT))
    assert advice(patches, X).endswith(
        "functools.partial(captum_cams.reshape.vit_tokens, prefix_tokens=0)"
    )
    video = nn.Sequential(network(3).layer, Function(lambda A: A.flatten(2).mT))
    assert advice(video, random(1, 2, 16, 28, 28)).endswith(
        "captum_cams.reshape.vit_tokens with grid= bound by functools.partial"
    )
    heads = Function(lambda x: x[:, :, :2].repeat(1, 2, 1, 1))
    assert advice(heads, X).endswith("feature maps of the inputs' proportions")


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
def test_what_a_transform_gives_is_judged_too(name):
    _, model, _ = laid_out("tokens")
    with pytest.warns(UserWarning, match="reshape_transform gives shape") as caught:
        explain(name, model, model.layer, X, lambda tokens: tokens)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="reshape_transform gives shape"):
        explain(name, model, model.layer, X, partial(vit_tokens, grid=(1, 9)))
    plain = network()
    with pytest.warns(
        UserWarning, match="pass no reshape_transform, as what the layer"
    ):
        explain(name, plain, plain.layer, X, channels_last)
