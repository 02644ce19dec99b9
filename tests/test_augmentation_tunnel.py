"""Means over flipped and dimmed copies, against the literal loop."""

import re

import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients, LayerGradCam
from torch import nn

from captum_cams import (
    AugmentationTunnel,
    GroupCam,
    LayerCam,
    LayerIntegratedGradCam,
    LayerRSIGradCam,
)
from tests.models import Function, TwoPart, network, random


def looped(explain, x, intensities, flip=True):
    """Flip, explain, flip back, mean; `explain` is told whether it is a flip."""
    total, count = 0, 0
    for intensity in intensities:
        total, count = total + explain(intensity * x, False), count + 1
        if flip:
            maps = explain((intensity * x).flip(3), True)
            total, count = total + maps.flip(3), count + 1
    return total / count


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("intensities", [(0.9, 1.0, 1.1), (1.0,), [0.5, 2]])
@pytest.mark.parametrize(
    "build",
    [
        lambda model: LayerCam(model, model.layer),
        lambda model: LayerGradCam(model, model.layer),
        lambda model: IntegratedGradients(model),
    ],
)
def test_it_is_the_mean_of_the_copies(build, flip, intensities):
    model, x = network(), random(3, 2, 6, 7)
    method, target = build(model), torch.tensor([0, 2, 1])
    maps = AugmentationTunnel(method).attribute(
        x, target=target, flip=flip, intensities=intensities
    )
    expected = looped(
        lambda x, _: method.attribute(x.clone().requires_grad_(), target=target),
        x,
        intensities,
        flip,
    )
    torch.testing.assert_close(maps, expected.detach())
    assert not maps.requires_grad and maps.dtype == x.dtype


def test_baselines_are_flipped_with_the_inputs():
    model, x, baseline = network(), random(2, 2, 6, 6), random(1, 2, 6, 6, seed=4)
    method = LayerRSIGradCam(model, model.layer)
    options = {"target": 1, "n_steps": 3}
    maps = AugmentationTunnel(method).attribute(x, baselines=baseline, **options)
    expected = looped(
        lambda x, flipped: method.attribute(
            x, baseline.flip(3) if flipped else baseline, **options
        ),
        x,
        (0.9, 1.0, 1.1),
    )
    torch.testing.assert_close(maps, expected)


def test_segments_are_flipped_with_the_inputs():
    model, x = network(), random(2, 2, 6, 6)
    segments = torch.arange(6).expand(1, 1, 6, 6) // 2
    method = FeatureAblation(model)
    maps = AugmentationTunnel(method).attribute(x, target=1, feature_mask=segments)
    expected = looped(
        lambda x, flipped: method.attribute(
            x, target=1, feature_mask=segments.flip(3) if flipped else segments
        ),
        x,
        (0.9, 1.0, 1.1),
    )
    torch.testing.assert_close(maps, expected.detach())


def test_a_flipped_picture_has_the_flipped_map():
    model, x = network(), random(2, 2, 6, 8)
    tunnel = AugmentationTunnel(GroupCam(model, model.layer))
    options = {"target": 0, "groups": 2, "baselines": 0}
    torch.testing.assert_close(
        tunnel.attribute(x.flip(3), **options), tunnel.attribute(x, **options).flip(3)
    )


def test_lists_of_layers_deltas_and_tuples_keep_their_form():
    model, x = network(), random(2, 2, 6, 6)
    layers = [model.layer, model.head[0]]
    both, deltas = AugmentationTunnel(LayerRSIGradCam(model, layers)).attribute(
        x, target=0, n_steps=3, return_convergence_delta=True
    )
    for maps, delta, layer in zip(both, deltas, layers, strict=True):
        alone = LayerRSIGradCam(model, layer)
        expected = AugmentationTunnel(alone).attribute(x, target=0, n_steps=3)
        torch.testing.assert_close(maps, expected)
        copies = [
            f(c * x) for c in (0.9, 1, 1.1) for f in (lambda x: x, lambda x: x.flip(3))
        ]
        found = [
            alone.attribute(copy, target=0, n_steps=3, return_convergence_delta=True)[1]
            for copy in copies
        ]
        torch.testing.assert_close(delta, sum(found) / 6)
    model = Function(lambda a, b: (a * b).sum((2, 3)))
    maps = AugmentationTunnel(IntegratedGradients(model)).attribute(
        (x, x + 1), target=0
    )
    assert isinstance(maps, tuple) and [m.shape for m in maps] == [x.shape, x.shape]


def test_nothing_is_left_behind():
    model, x = network(), random(2, 2, 6, 6)
    before, numbers = x.clone(), torch.get_rng_state()
    AugmentationTunnel(LayerIntegratedGradCam(model, model.layer)).attribute(
        x, target=0
    )
    assert torch.equal(x, before) and not x.requires_grad and x.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), numbers)


def test_errors_teach():
    model = network()
    tunnel = AugmentationTunnel(LayerCam(model, model.layer))

    def raises(kind, words):
        return pytest.raises(kind, match=re.escape(words))

    with raises(ValueError, "inputs must have spatial axes to be flipped"):
        tunnel.attribute(random(2, 2), target=0)
    with raises(ValueError, "intensities must be finite numbers, at least one, got []"):
        tunnel.attribute(random(2, 2, 6, 6), target=0, intensities=[])
    with raises(TypeError, "attribution_method must be an object of captum.attr"):
        AugmentationTunnel(LayerCam)
    tokens = TwoPart(nn.Flatten(2), Function(lambda A: A.sum((2,))))
    with raises(
        ValueError, "attribution_method must give maps with the inputs' spatial"
    ):
        AugmentationTunnel(LayerGradCam(tokens, tokens.layer)).attribute(
            random(2, 2, 6, 6), target=0
        )
