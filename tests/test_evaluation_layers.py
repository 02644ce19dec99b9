"""The layer that is explained by default, and what makes feature maps of its output."""

import re
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.layers import find_layers
from captum_cams.evaluation.networks import Network, load_transform, transform_name
from captum_cams.reshape import channels_last, vit_tokens
from tests.models import Function, Scale

SIDE = 32


class Attention(nn.Module):
    def __init__(self, width, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.k_norm, self.attn_drop = nn.Identity(), nn.Dropout(0.1)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k = self.k_norm(k * 1)  # (N, heads, tokens, K / heads)
        shares = (q @ k.transpose(2, 3)).softmax(3)
        shares = self.attn_drop(shares * 1)  # (N, heads, tokens, tokens)
        return self.proj((shares @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """As timm's; its head is 0 before training, as torchvision's is."""

    def __init__(self, prefix=1, pool="token", depth=3, width=8, classes=5):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 8, stride=8)
        self.prefix = nn.Parameter(torch.randn(1, prefix, width))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
        self.norm, self.pool = nn.LayerNorm(width), pool
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.pool == "token" else x.mean(1))


def convolutions(*widths, stride=2):
    layers = []
    for before, after in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def pooled(features, width, classes=5):
    return nn.Sequential(
        features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


def with_classifier(pool, side):
    """As VGG: what it pools to a fixed size is flattened."""
    return nn.Sequential(
        nn.Sequential(*convolutions(4, 6), nn.MaxPool2d(2)),
        pool,
        nn.Flatten(),
        nn.Linear(6 * side**2, 5),
    )


def last_to_first(x):
    return x.permute(0, 3, 1, 2)


class Hierarchy(nn.Module):
    """Channels last, as Swin's."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(
            nn.Conv2d(3, 12, 4, stride=4),
            Function(lambda x: x.permute(0, 2, 3, 1)),
            nn.Linear(12, 20),
            nn.GELU(),
        )
        self.norm, self.head = nn.LayerNorm(20), nn.Linear(20, 5)

    def forward(self, x):
        return self.head(self.norm(self.stages(x)).mean((1, 2)))


class SqueezeNet(nn.Module):
    def __init__(self, pool, inplace=True):
        super().__init__()
        self.features = convolutions(4, 6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(6, 5, 1), nn.ReLU(inplace=inplace), pool
        )

    def forward(self, x):
        return self.classifier(self.features(x)).flatten(1)


class WithMaximum(nn.Module):
    """Class scores at each place take part in those of the picture, as VOLO's."""

    def __init__(self):
        super().__init__()
        self.features = convolutions(4, 6)
        self.head, self.aux_head = nn.Linear(6, 5), nn.Conv2d(6, 5, 1)

    def forward(self, x):
        x = self.features(x)
        return self.head(x.mean((2, 3))) + 0.5 * self.aux_head(x).amax((2, 3))


class Aside(nn.Module):
    """A branch that the scores do not depend on, run last."""

    def __init__(self):
        super().__init__()
        self.features, self.aux = convolutions(4, 6), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.features(x)
        self.aux(x)
        return self.head(x.mean((2, 3)))


class SharedReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1, self.conv2 = convolutions(4)[0], nn.Conv2d(4, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.head(x.mean((2, 3)))


class Gate(nn.Module):
    """One map of the places that weigh the others."""

    def __init__(self):
        super().__init__()
        self.features, self.gate = convolutions(4, 6), nn.Conv2d(6, 1, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.features(x)
        return self.head((self.gate(x).sigmoid() * x).mean((2, 3)))


class Pairs(nn.Conv2d):
    def forward(self, x):
        return super().forward(x), None


def in_front(model, function):
    return nn.Sequential(Function(function), model)


def frozen(model):
    return model.requires_grad_(False)


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


CASES = {
    "convolutions": (lambda: pooled(convolutions(4, 6), 6), "0", (6, 8, 8), "none"),
    "frozen": (lambda: frozen(pooled(convolutions(4, 6), 6)), "0", (6, 8, 8), "none"),
    "writes to its input": (
        lambda: in_front(pooled(convolutions(4, 6), 6), lambda x: x.mul_(2)),
        "1.0",
        (6, 8, 8),
        "none",
    ),
    "as many channels as classes": (
        lambda: pooled(convolutions(4, 5), 5),
        "0",
        (5, 8, 8),
        "none",
    ),
    "probabilities": (
        lambda: nn.Sequential(pooled(convolutions(4, 5), 5), nn.Softmax(1)),
        "0.0",
        (5, 8, 8),
        "none",
    ),
    "one convolution and a large head": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 2, 8, stride=8),
            nn.Flatten(),
            *[nn.Linear(32, 32) for _ in range(6)],
        ),
        "0",
        (2, 4, 4),
        "none",
    ),
    "maximum": (
        lambda: nn.Sequential(
            convolutions(4, 6), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 5)
        ),
        "0",
        (6, 8, 8),
        "none",
    ),
    "adaptive pooling that changes nothing": (
        lambda: with_classifier(nn.AdaptiveAvgPool2d(4), 4),
        "0.4",
        (6, 4, 4),
        "none",
    ),
    "adaptive pooling": (
        lambda: with_classifier(nn.AdaptiveAvgPool2d(2), 2),
        "0.4",
        (6, 4, 4),
        "none",
    ),
    "adaptive maximum": (
        lambda: with_classifier(nn.AdaptiveMaxPool2d((2, 2)), 2),
        "0.4",
        (6, 4, 4),
        "none",
    ),
    "adaptive pooling at the end of the features": (
        lambda: nn.Sequential(
            nn.Sequential(convolutions(4, 6), nn.AdaptiveAvgPool2d(2)),
            nn.Flatten(),
            nn.Linear(24, 5),
        ),
        "0.0",
        (6, 8, 8),
        "none",
    ),
    "shared ReLU": (lambda: SharedReLU(), "conv2", (6, 16, 16), "none"),
    "gate": (lambda: Gate(), "features", (6, 8, 8), "none"),
    "aside": (lambda: Aside(), "features", (6, 8, 8), "none"),
    "class scores, averaged": (
        lambda: SqueezeNet(nn.AdaptiveAvgPool2d(1)),
        "features",
        (6, 8, 8),
        "none",
    ),
    "class scores, averaged, softmax": (
        lambda: nn.Sequential(
            SqueezeNet(nn.AdaptiveAvgPool2d(1), False), nn.Softmax(1)
        ),
        "0.features",
        (6, 8, 8),
        "none",
    ),
    "class scores, maximum": (
        lambda: SqueezeNet(nn.AdaptiveMaxPool2d(1), False),
        "features",
        (6, 8, 8),
        "none",
    ),
    "class scores in part": (lambda: WithMaximum(), "features", (6, 8, 8), "none"),
    "channels last": (lambda: Hierarchy(), "norm", (20, 8, 8), "channels_last"),
    "class token": (lambda: ViT(), "blocks.2.norm1", (8, 4, 4), "vit_tokens"),
    "distillation token": (
        lambda: ViT(2),
        "blocks.2.norm1",
        (8, 4, 4),
        "vit_tokens(prefix_tokens=2)",
    ),
    "registers": (
        lambda: ViT(5),
        "blocks.2.norm1",
        (8, 4, 4),
        "vit_tokens(prefix_tokens=5)",
    ),
    "mean of tokens": (
        lambda: ViT(0, "mean"),
        "norm",
        (8, 4, 4),
        "vit_tokens(prefix_tokens=0)",
    ),
}


def layers(model, *arguments, side=SIDE):
    network = Network("the model", model.eval(), size=side)
    return find_layers(network, torch.zeros(1, 3, side, side), *arguments)


@pytest.mark.parametrize("name", CASES)
def test_the_last_layer_whose_positions_count(name):
    build, layer, shape, transform = CASES[name]
    model = seeded(build)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (info,) = layers(model)
    assert (info.name, info.shape, info.classes) == (
        layer,
        shape,
        model(torch.zeros(1, 3, SIDE, SIDE)).shape[1],
    )
    assert info.module is model.get_submodule(layer)
    assert transform_name(info.transform) == transform
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def raises(words):
    return pytest.raises(UserError, match=re.escape(words))


def test_the_first_layers_alone_are_no_choice():
    """A convolution, and behind it tokens in front of the examples."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8),
        Function(lambda x: x.flatten(2).permute(2, 0, 1)),
        *[nn.Linear(8, 8) for _ in range(4)],
        Function(lambda x: x.mean(0)),
        nn.Linear(8, 5),
    )
    with raises(
        "the model gives feature maps of the picture in its first layers alone, 0 "
        "being the last of them; name a layer with --layer (of evaluate: --layers), "
        "and give a --reshape that makes feature maps (N, K, h, w) of its output"
    ):
        layers(model)
    (info,) = layers(model, None, lambda x: vit_tokens(x.transpose(0, 1), None, 0))
    assert (info.name, info.shape) == ("5", (8, 4, 4))
    (info,) = layers(model, ["0"])
    assert info.shape == (8, 4, 4)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 5)),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 5)).requires_grad_(False),
        nn.Sequential(  # nothing that autograd records
            Function(lambda x: x.detach()), convolutions(4), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ).requires_grad_(False),
    ],
)  # fmt: skip
def test_no_layer_with_positions(model):
    with raises("the model has no layer with spatial output, feature maps of the"):
        layers(model)


def test_a_transform_of_the_users_own():
    model = ViT(0, "mean")
    back = partial(vit_tokens, prefix_tokens=0)
    (info,) = layers(model, None, back)
    assert (info.name, info.shape, info.transform) == ("norm", (8, 4, 4), back)
    (info,) = layers(model, ["blocks.1"], back)
    assert (info.name, info.shape) == ("blocks.1", (8, 4, 4))
    with raises("no layer with spatial output by --reshape channels_last"):
        layers(pooled(convolutions(4, 6), 6), None, channels_last)
    with raises(
        "--reshape vit_tokens fails on what layer patch_embed gives, (1, 8, 4, 4): "
        "ValueError: vit_tokens takes a layer's tensor (N, tokens, K)"
    ):
        layers(model, ["patch_embed"], vit_tokens)
    with raises(
        "layer norm must have spatial output (N, K, h, w), got (1, 8, 16) by --reshape"
    ):
        layers(model, ["norm"], lambda tokens: tokens.transpose(1, 2))


def test_named_layers_get_the_transform_they_need():
    model = Hierarchy()
    first, last, head = layers(model, ["stages.0", "stages", "norm"])
    assert (first.shape, transform_name(first.transform)) == ((12, 8, 8), "none")
    assert (last.shape, transform_name(last.transform)) == ((20, 8, 8), "channels_last")
    assert (head.shape, transform_name(head.transform)) == ((20, 8, 8), "channels_last")
    with raises("got (1, 5); the last that has is norm"):
        layers(model, ["head"])


def test_a_named_layer_that_fits_in_no_way_brings_a_warning():
    model = pooled(
        nn.Sequential(nn.Conv2d(3, 6, 1), Function(lambda x: x[:, :, ::2])), 6
    )
    with pytest.warns(UserWarning, match="layer 0 gives shape"):
        (info,) = layers(model, ["0"])
    assert info.shape == (6, SIDE // 2, SIDE)
    model = nn.Sequential(Pairs(3, 6, 3, stride=2), Function(lambda x: x[0]))
    (info,) = layers(nn.Sequential(model, pooled(nn.Identity(), 6)), ["0.0"])
    assert info.shape == (6, 15, 15)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vit", "--reshape must be vit_tokens, channels_last or module:callable, got"),
        ("vit_tokens(2)", "must be vit_tokens, channels_last or module:callable"),
        ("vit_tokens(prefix=2)", "vit_tokens has no argument 'prefix'; the closest"),
        ("os:sep", "--reshape os:sep must be a function of what the layer gives, got"),
        ("nothing:at_all", "cannot import --reshape nothing:at_all: ModuleNotFound"),
    ],
)
def test_transforms_that_are_none(text, words):
    with raises(words):
        load_transform(text)


def test_transforms_by_name():
    assert load_transform(None) is None
    assert load_transform(channels_last) is channels_last
    assert load_transform("channels_last") is channels_last
    five: Any = load_transform("vit_tokens(prefix_tokens=5)")
    assert (five.func, five.keywords) == (vit_tokens, {"prefix_tokens": 5})
    assert load_transform("torch:flatten") is torch.flatten


X = torch.rand(2, 3, 8, 8)
SCORES = torch.tensor([[0.0, 1, 2], [3, 1, 0]])
OTHER = torch.ones(2, 4)


class Named(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


@dataclass
class Fields:
    loss: None
    logits: torch.Tensor


class Output(dict):
    """As transformers' ModelOutput."""


@pytest.mark.parametrize(
    "outputs",
    [
        Named(OTHER, SCORES),
        Fields(None, SCORES),
        Output(hidden=OTHER, logits=SCORES),
        {"out": SCORES, "aux": OTHER},
        (SCORES, X),
        [X, SCORES],
        (SCORES, None),
    ],
)
def test_class_scores_are_found_in_outputs(outputs):
    network = Network("the model", Function(lambda x: outputs))
    torch.testing.assert_close(network.forward(X), SCORES.softmax(1))


@pytest.mark.parametrize(
    ("outputs", "came"),
    [
        ((SCORES, OTHER), "tuple with 0 (2, 3), 1 (2, 4)"),
        ({"scores": SCORES}, "dict with scores (2, 3)"),
        (Named(OTHER, X), "(2, 3, 8, 8)"),
        (Fields(None, "no"), "Fields with loss (NoneType), logits (str)"),
        (None, "NoneType"),
        (X, "(2, 3, 8, 8)"),
    ],
)
def test_outputs_without_class_scores_name_their_parts(outputs, came):
    network = Network("the model", Function(lambda x: outputs))
    with raises(
        "the model must give one row of class scores a picture, (N, classes), got "
        f"{came}; wrap it in a module that does"
    ):
        network.forward(X)


def test_scaled_scores_stay_scores():
    model = nn.Sequential(SqueezeNet(nn.AdaptiveAvgPool2d(1)), Scale(3.0))
    (info,) = layers(model)
    assert info.name == "0.features"
