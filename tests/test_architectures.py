"""Every family of torchvision's classifiers, and convolutions along 1 to 3 axes."""

from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import nn

from captum_cams import GroupCam, LayerIntegratedGradCam, LayerRSIGradCam
from captum_cams.evaluation.layers import find_layers
from captum_cams.evaluation.networks import Network
from captum_cams.reshape import channels_last, vit_tokens
from tests import methods
from tests.methods import OF_LAYER, OURS, WITH_LAYER
from tests.models import network, random

explain = partial(methods.explain, target=0)


class Case(NamedTuple):
    """A sensible layer, the size of its maps, and the layer that is found."""

    layer: str
    size: tuple[int, int]
    side: int = 64
    transform: Any = None
    options: Any = MappingProxyType({})
    found: str = "features"


TINY_MAXVIT = {  # the builder by name takes 224 x 224 pixels alone
    "input_size": (64, 64),
    "stem_channels": 8,
    "partition_size": 2,
    "block_channels": [8, 16],
    "block_layers": [1, 1],
    "head_dim": 8,
    "stochastic_depth_prob": 0.0,
}
PLAIN = {"aux_logits": False, "init_weights": False}
ARCHITECTURES = {
    "alexnet": Case("features.10", (3, 3), found="features.11"),
    "convnext_tiny": Case("features.7.2", (2, 2)),
    "densenet121": Case("features.denseblock4", (2, 2)),
    "efficientnet_b0": Case("features.8", (2, 2)),
    "googlenet": Case("inception5b", (2, 2), options=PLAIN, found="inception5b"),
    "inception_v3": Case("Mixed_7c", (2, 2), side=128, options=PLAIN, found="Mixed_7c"),
    "maxvit_t": Case("blocks.1", (8, 8), options=TINY_MAXVIT, found="blocks.1"),
    "mnasnet0_5": Case("layers.14", (2, 2), found="layers"),
    "mobilenet_v2": Case("features.18", (2, 2)),
    "mobilenet_v3_small": Case("features.12", (2, 2)),
    "regnet_y_400mf": Case("trunk_output.block4", (2, 2), found="trunk_output"),
    "resnet18": Case("layer4", (2, 2), found="layer4"),
    "resnext50_32x4d": Case("layer3", (4, 4), found="layer4"),
    "shufflenet_v2_x0_5": Case("conv5", (2, 2), found="conv5"),
    "squeezenet1_1": Case("features.12", (3, 3)),
    "swin_t": Case("features.7.1.norm1", (2, 2), transform=channels_last, found="permute"),
    "swin_v2_t": Case("features.7.1.norm1", (2, 2), transform=channels_last, found="permute"),
    "vgg11_bn": Case("features.28", (2, 2), found="features.28"),
    "vit_b_16": Case("encoder.layers.encoder_layer_11.ln_1", (4, 4), transform=vit_tokens, options={"image_size": 64}, found="encoder.layers.encoder_layer_11.ln_1"),
    "wide_resnet50_2": Case("layer3", (4, 4), found="layer4"),
}  # fmt: skip


def literal_rsi(model, layer, transform, x, target, m):
    """Eq. 18 as printed, 19 and 24 but for its ReLU, by autograd along one path of one example."""
    A, g, seen = [], [], []

    def keep(_, __, output):
        seen.append(output)
        return output.clone()  # an in-place ReLU may follow

    handle = layer.register_forward_hook(keep)
    for step in range(m + 1):
        y = model(step / m * x)[0, target]
        (gradient,) = torch.autograd.grad(y, seen[-1])
        A.append(transform(seen[-1].detach())[0])  # (K, h, w)
        g.append(transform(gradient)[0])
    handle.remove()
    cam = torch.zeros_like(A[0][0])
    for k in range(len(A[0])):
        integrals = [g[t][k] * (A[t][k] - A[t - 1][k]) for t in range(1, m + 1)]
        cam += sum(integrals).mean() * A[m][k]
    return cam


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name):
    case = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "maxvit_t":
            model = torchvision.models.MaxVit(**case.options)
        else:
            model = torchvision.models.get_model(name, weights=None, **case.options)
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                module.reset_parameters()  # the head of a ViT starts at 0
    # Random weights barely move the output: in double precision that is enough.
    model.double().eval()
    layer = model.get_submodule(case.layer)
    x = random(2, 3, case.side, case.side)
    options = {"reshape_transform": case.transform}

    def made(kind):
        return kind(model, layer, **options)

    rsi = made(LayerRSIGradCam).attribute(
        x,
        target=[3, 5],
        n_steps=2,
        method="riemann_right",
        relu_attributions=False,
    )
    identity = case.transform or (lambda A: A)
    for n in range(2):
        expected = literal_rsi(model, layer, identity, x[n : n + 1], [3, 5][n], 2)
        assert expected.abs().sum() > 0
        torch.testing.assert_close(rsi[n, 0], expected, rtol=1e-6, atol=1e-12)
    igc = made(LayerIntegratedGradCam).attribute(x, target=3, n_steps=2)
    group_cam = made(GroupCam).attribute(x, baselines=0, target=3, groups=2)
    assert rsi.shape == igc.shape == (2, 1, *case.size)
    assert group_cam.shape == (2, 1, case.side, case.side)
    assert igc.isfinite().all()
    assert group_cam.isfinite().all()
    (chosen,) = find_layers(Network(name, model, size=case.side), x[:1])
    assert chosen.name == case.found
    assert chosen.transform is (case.transform if case.found == case.layer else None)


def test_every_family_is_there():
    """By the module of torchvision that builds it."""
    builders = torchvision.models.list_models(module=torchvision.models)
    families = {torchvision.models.get_model_builder(b).__module__ for b in builders}
    covered = {
        torchvision.models.get_model_builder(name).__module__ for name in ARCHITECTURES
    }
    assert covered == families


@pytest.mark.parametrize(
    ("name", "dims"),
    # The segments of XRAI are those of pictures.
    [(name, d) for name in OURS for d in (1, 2, 3) if name != "xrai" or d == 2],
)
def test_axes(name, dims):
    model, x = network(dims), random(2, 2, *[6, 5, 4][:dims])
    maps = explain(name, model, model.layer, x)
    size = x.shape[2:] if name not in OF_LAYER else model.layer(x).shape[2:]
    assert maps.shape == (2, 1, *size)
    assert maps.isfinite().all()
    assert (maps != 0).any()
    single = explain(name, model, model.layer, x[1:])
    torch.testing.assert_close(maps[1:], single)


@pytest.mark.parametrize("name", WITH_LAYER)
def test_axes_in_a_row_are_the_same_maps(name):
    """A signal is a picture one pixel high, and a volume one pixel deep."""
    flat = network(1)
    x = random(2, 2, 6)
    expected = explain(name, flat, flat.layer, x)
    tall = explain(
        name,
        lambda x: flat(x.squeeze(2)),
        flat.layer,
        x.unsqueeze(2),
        lambda A: A.unsqueeze(2),
    )
    torch.testing.assert_close(tall.squeeze(2), expected)
