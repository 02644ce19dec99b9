"""Group-CAM against its paper's formulas."""

import pytest
import torch
from torch import nn

from captum_cams import GroupCam
from captum_cams.attr import group_cam
from captum_cams.baselines import blurred
from tests import reference
from tests.models import Function, TwoPart, network, random


def one(model, target, function=None):
    def head(A):
        scores = model.head(A)
        return (function(scores) if function else scores)[0, target]

    return head


def split(channels, groups):
    sizes = [channels // groups + (r < channels % groups) for r in range(groups)]
    rest = list(range(channels))
    return [[rest.pop(0) for _ in range(size)] for size in sizes]


@pytest.mark.parametrize("groups", [1, 2, 4, 6])
@pytest.mark.parametrize("theta", [None, 0.0, 70.0, 33.3])
@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 7, 12)])
def test_group_cam_is_the_papers(groups, theta, shape):
    model, x = network(gain=3.0), random(2, *shape, seed=2)
    target = torch.tensor([2, 0])
    cam = GroupCam(model, model.layer)
    maps = cam.attribute(
        x,
        target=target,
        groups=groups,
        denoise_percentile=theta,
        blur_kernel_size=5,
        blur_sigma=2.0,
    )
    assert maps.shape == (2, 1, *shape[1:])
    for n in range(2):
        expected = reference.group_cam(
            model.layer,
            one(model, target[n]),
            x[n],
            reference.gaussian_blur(x[n], 5, 2.0),
            split(6, groups),
            theta,
        )
        torch.testing.assert_close(maps[n, 0], expected, rtol=1e-9, atol=1e-12)


def test_without_gradients_masks_are_plain_sums():
    model, x = network(), random(1, 2, 8, 6)
    cam = GroupCam(model, model.layer)
    maps = cam.attribute(x, 0.1, target=1, groups=3, use_gradients=False)
    baseline = torch.full_like(x[0], 0.1)
    expected = reference.group_cam(
        model.layer, one(model, 1), x[0], baseline, split(6, 3), None, False
    )
    torch.testing.assert_close(maps[0, 0], expected, rtol=1e-9, atol=1e-12)


def test_without_gradients_there_is_no_backward_pass():
    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no backward pass")

    model = network()
    model.head.insert(0, Function(Forward.apply))
    cam = GroupCam(model, model.layer)
    x = random(1, 2, 8, 6)
    assert cam.attribute(x, 0, target=1, groups=3, use_gradients=False).isfinite().all()
    with pytest.raises(RuntimeError, match="no backward pass"):
        cam.attribute(x, 0, target=1, groups=3)


def test_confidence_may_differ_from_what_gives_the_gradient():
    """As in the authors' code: logits' gradient, softmax' confidence."""
    model, x = network(softmax=False), random(1, 2, 8, 8)
    cam = GroupCam(model, model.layer)
    maps = cam.attribute(
        x, 0, target=2, groups=2, confidence_func=lambda scores: scores.softmax(1)
    )
    expected = reference.group_cam(
        model.layer,
        one(model, 2),
        x[0],
        torch.zeros_like(x[0]),
        split(6, 2),
        70.0,
        confidence=one(model, 2, lambda scores: scores.softmax(1)),
    )
    torch.testing.assert_close(maps[0, 0], expected, rtol=1e-9, atol=1e-12)


def test_a_constant_group_has_mask_and_weight_zero():
    """Channel 1 of the network is dead: alone in its group it must not give NaN."""
    model, x = network(), random(2, 2, 8, 8)
    maps = GroupCam(model, model.layer).attribute(x, 0, target=0, groups=6)
    assert maps.isfinite().all()
    dead = TwoPart(Function(torch.zeros_like), nn.Flatten())
    maps = GroupCam(dead, dead.layer).attribute(x, 0, target=0, groups=2)
    assert (maps == 0).all()


def test_the_final_relu_can_be_left_out():
    model, x = network(seed=1), random(4, 2, 8, 8)
    cam = GroupCam(model, model.layer)
    signed = cam.attribute(x, 0, target=0, groups=3, relu_attributions=False)
    assert (signed < 0).any()
    rectified = cam.attribute(x, 0, target=0, groups=3)
    torch.testing.assert_close(rectified, signed.relu())


def test_any_batch_gives_the_same_map():
    model, x = network(), random(5, 2, 8, 8)
    cam = GroupCam(model, model.layer)
    maps = cam.attribute(x, 0, target=[0, 1, 2, 1, 0], groups=4)
    for batch in (1, 2, 3, 7, 100):
        again = cam.attribute(
            x, 0, target=[0, 1, 2, 1, 0], groups=4, internal_batch_size=batch
        )
        torch.testing.assert_close(again, maps)


def test_no_more_is_blurred_than_goes_through_the_network(monkeypatch):
    model, x = network(), random(7, 2, 8, 8)
    rows = []

    def noted(inputs, *options):
        rows.append(len(inputs))
        return blurred(inputs, *options)

    monkeypatch.setattr(group_cam, "blurred", noted)
    cam = GroupCam(model, model.layer)
    maps = cam.attribute(
        x, target=0, groups=2, blur_kernel_size=5, internal_batch_size=3
    )
    assert rows == [3, 3, 1]
    start = blurred(x, 5, 50.0)
    torch.testing.assert_close(maps, cam.attribute(x, start, target=0, groups=2))


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims):
    model, x = network(dims), random(2, 2, *[9, 7, 8][:dims])
    maps = GroupCam(model, model.layer).attribute(x, 0, target=0, groups=2)
    assert maps.shape == (2, 1, *x.shape[2:])
    assert (maps > 0).any()


def test_several_inputs_are_masked_each_at_its_size():
    def features(a, b):
        return a + b[..., ::2, ::2]

    layer = Function(features)
    model = Function(lambda a, b: layer(a, b).sum((2, 3)))
    model.layer = layer
    a, b = random(2, 3, 4, 4), random(2, 3, 8, 8)
    maps = GroupCam(model, layer).attribute((a, b), (0, 0), target=0, groups=3)
    assert [m.shape for m in maps] == [(2, 1, 4, 4), (2, 1, 8, 8)]


def test_progress_counts_every_masked_input(capsys):
    model, x = network(), random(2, 2, 8, 8)
    GroupCam(model, model.layer).attribute(x, 0, target=0, groups=2, show_progress=True)
    assert "6/6" in capsys.readouterr().err
