"""The methods that the papers compare with, against literal loops of their formulas."""

import re
import sys

import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam, Saliency
from torch import nn
from torch.nn.functional import max_pool2d

from captum_cams import (
    LayerAblationCam,
    LayerCam,
    LayerEigenCam,
    LayerEigenGradCam,
    LayerFinerCam,
    LayerGradCamPlusPlus,
    LayerHiResCam,
    LayerPositiveGradCam,
    LayerSmoothGradCamPlusPlus,
    LayerXGradCam,
    Rise,
    ScoreCam,
    SmoothGrad,
    Xrai,
)
from captum_cams.attr.registry import METHODS
from captum_cams.attr.xrai import rank
from tests import reference_cams
from tests.methods import explain
from tests.models import Function, TwoPart, network, random
from tests.test_layer_eval import Counting, same, state

GRADIENT_CAMS = {
    LayerPositiveGradCam: reference_cams.positive_grad_cam,
    LayerGradCamPlusPlus: reference_cams.grad_cam_plus_plus,
    LayerXGradCam: reference_cams.x_grad_cam,
    LayerCam: reference_cams.layer_cam,
    LayerHiResCam: reference_cams.hi_res_cam,
    LayerEigenCam: reference_cams.eigen_cam,
    LayerEigenGradCam: reference_cams.eigen_grad_cam,
}
LAYER_CAMS = {**GRADIENT_CAMS, LayerAblationCam: reference_cams.ablation_cam}
WITH_LAYER = [*LAYER_CAMS, LayerFinerCam, LayerSmoothGradCamPlusPlus, ScoreCam]
ALL = [*WITH_LAYER, Rise, Xrai]

# What keeps each method small here.
SMALL = {
    LayerSmoothGradCamPlusPlus: {"nt_samples": 2},
    Rise: {"n_masks": 5, "grid_size": 2},
    Xrai: {"n_steps": 3, "scales": [50]},
}


def build(kind, forward, layer):
    return kind(forward, layer) if issubclass(kind, LayerAttribution) else kind(forward)


def attribute(kind, model=None, inputs=None, layer=None, **options):
    model = model or network()
    inputs = random(2, 2, 6, 6) if inputs is None else inputs
    method = build(kind, model, layer or model.layer)
    return method.attribute(inputs, **{"target": 0, **SMALL.get(kind, {}), **options})


def raises(kind, words):
    return pytest.raises(kind, match=re.escape(words))


def one(model, target):
    return lambda A: model.head(A)[0, target]


@pytest.mark.parametrize("method", LAYER_CAMS)
@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 7, 12)])
@pytest.mark.parametrize("softmax", [True, False])
def test_layer_cams_are_the_papers(method, shape, softmax):
    """On signed feature maps, one of them dead."""
    model, x = network(softmax=softmax, gain=3.0), random(3, *shape, seed=2)
    target = torch.tensor([2, 0, 1])
    maps = attribute(method, model, x, target=target)
    for n in range(3):
        expected = LAYER_CAMS[method](model.layer, one(model, target[n]), x[n])
        torch.testing.assert_close(maps[n, 0], expected, rtol=1e-9, atol=1e-12)
    assert (maps > 0).any()


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 7, 12)])
def test_smooth_grad_cam_plus_plus_is_the_papers(shape):
    model, x = network(gain=3.0), random(3, *shape, seed=2)
    maps = attribute(
        LayerSmoothGradCamPlusPlus, model, x, stdevs=0.5, nt_samples=4, seed=7
    )
    generator = torch.Generator().manual_seed(7)
    noises = [0.5 * torch.randn(1, *shape, generator=generator)[0] for _ in range(4)]
    for n in range(3):
        expected = reference_cams.smooth_grad_cam_plus_plus(
            model.layer, one(model, 0), x[n], noises
        )
        torch.testing.assert_close(maps[n, 0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 5)])
def test_smooth_grad_is_the_papers(shape):
    model, x = network(len(shape) - 1), random(3, *shape, seed=2)
    options = {"nt_samples": 3, "noise_level": 0.2, "seed": 7}
    maps = SmoothGrad(model).attribute(x, target=1, **options)
    generator = torch.Generator().manual_seed(7)
    noises = [torch.randn(1, *shape, generator=generator)[0].double() for _ in "123"]
    for n in range(3):
        expected = reference_cams.smooth_grad(
            lambda x: model(x)[0, 1], x[n], noises, 0.2
        )
        torch.testing.assert_close(maps[n, 0], expected)


def test_smooth_grad_without_noise_is_the_gradient():
    model, x = network(), random(2, 2, 6, 6)
    maps = SmoothGrad(model).attribute(x, 0, noise_level=0.0, nt_samples=1)
    gradients = Saliency(model).attribute(x.clone().requires_grad_(), 0)
    torch.testing.assert_close(maps, gradients.sum(1, keepdim=True))
    # A picture of one color has no range, and so no noise.
    flat = torch.full_like(x, 0.3)
    noisy = SmoothGrad(model).attribute(flat, 0, nt_samples=1)
    torch.testing.assert_close(
        noisy, SmoothGrad(model).attribute(flat, 0, noise_level=0.0, nt_samples=1)
    )


def test_smooth_grad_cam_plus_plus_without_noise_is_grad_cam_plus_plus():
    model, x = network(softmax=False), random(2, 2, 8, 8)
    smooth = attribute(LayerSmoothGradCamPlusPlus, model, x, stdevs=0.0)
    torch.testing.assert_close(smooth, attribute(LayerGradCamPlusPlus, model, x))
    with raises(ValueError, "stdevs must be at least 0, got -1"):
        attribute(LayerSmoothGradCamPlusPlus, model, x, stdevs=-1)


@pytest.mark.parametrize("method", [*LAYER_CAMS, LayerFinerCam])
def test_layer_cams_options(method):
    model, x = network(seed=1), random(4, 2, 8, 8)
    channels = attribute(
        method, model, x, relu_attributions=False, attr_dim_summation=False
    )
    assert channels.shape == (4, 6, 4, 4)
    signed = attribute(method, model, x, relu_attributions=False)
    torch.testing.assert_close(signed, channels.sum(1, keepdim=True))
    torch.testing.assert_close(attribute(method, model, x), signed.relu())
    inside = attribute(
        method,
        model,
        x,
        model.head[0],
        attribute_to_layer_input=True,
        relu_attributions=False,
    )
    torch.testing.assert_close(inside, signed)


def linear_model(weights):
    """One picture, two channels of 1 x 2 units, and a linear score of them."""
    weights = torch.tensor(weights, dtype=torch.float64)
    return TwoPart(
        nn.Identity(), Function(lambda A: (A * weights).flatten(1).sum(1) + 1)
    )


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # The gradients are (2, -2) and (4, 4), the channels (2, 2) and (3, 1).
        (LayerPositiveGradCam, [1 * 2 + 4 * 3, 1 * 2 + 4 * 1]),
        (LayerGradCamPlusPlus, [2 / 10 * 2 + 8 / 18 * 3, 2 / 10 * 2 + 8 / 18 * 1]),
        (LayerXGradCam, [0 * 2 + 4 * 3, 0 * 2 + 4 * 1]),
        (LayerCam, [2 * 2 + 4 * 3, 0 * 2 + 4 * 1]),
        (LayerHiResCam, [2 * 2 + 4 * 3, -2 * 2 + 4 * 1]),
        # Of its score of 17 the model loses nothing without the first, 16 without the
        # second channel.
        (LayerAblationCam, [0 * 2 + 16 / 17 * 3, 0 * 2 + 16 / 17 * 1]),
    ],
)
def test_by_hand(method, expected):
    model = linear_model([[[2.0, -2.0]], [[4.0, 4.0]]])
    x = torch.tensor([[[[2.0, 2.0]], [[3.0, 1.0]]]], dtype=torch.float64)
    maps = attribute(method, model, x, target=None)
    torch.testing.assert_close(maps.flatten().tolist(), [float(e) for e in expected])


@pytest.mark.parametrize("n_references", [1, 2, 5])
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_finer_cam_is_the_papers(n_references, gamma):
    model, x = network(softmax=False, gain=3.0), random(3, 2, 7, 6, seed=2)
    target, options = [2, -3, 1], {"gamma": gamma, "n_references": n_references}
    maps = attribute(LayerFinerCam, model, x, target=target, **options)
    assert (maps > 0).any()
    for n in range(3):
        expected = reference_cams.finer_cam(
            model.layer, model.head, x[n], target[n] % 3, gamma, n_references
        )
        torch.testing.assert_close(maps[n, 0], expected, rtol=1e-9, atol=1e-12)
    # Of an output of more axes the classes lie along the first one.
    both = TwoPart(
        model.layer,
        Function(
            lambda A: torch.stack([0 * model.head(A), model.head(A)], 2)[..., None]
        ),
    )
    pairs = [(index, 1) for index in target]
    torch.testing.assert_close(
        attribute(LayerFinerCam, both, x, target=pairs, **options), maps
    )


def test_finer_cam_without_references_is_grad_cam():
    """Where nothing is taken off, and where there is but one class."""
    model, x = network(softmax=False, gain=3.0), random(3, 2, 7, 6, seed=2)
    grad_cam = LayerGradCam(model, model.layer).attribute(x, 1, relu_attributions=True)
    maps = attribute(LayerFinerCam, model, x, target=1, gamma=0)
    torch.testing.assert_close(maps, grad_cam.detach())
    for alone, target in ((slice(1, 2), 0), (1, None)):
        single = TwoPart(
            model.layer, Function(lambda A, alone=alone: model.head(A)[:, alone])
        )
        maps = attribute(LayerFinerCam, single, x, target=target)
        torch.testing.assert_close(maps, grad_cam.detach())


def test_finer_cam_drops_what_two_classes_share():
    """Channel 0 speaks for both classes, 1 for the target alone."""
    weights = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).double()
    model = TwoPart(nn.Identity(), Function(lambda A: A.mean((2, 3)) @ weights.T))
    x = torch.tensor([[[[3.0, 0.0]], [[0.0, 3.0]]]]).double()
    maps = attribute(LayerFinerCam, model, x)
    assert maps.flatten().tolist() == [0, 1.5]
    assert attribute(LayerFinerCam, model, x, target=1).flatten().tolist() == [0, 0]


@pytest.mark.parametrize("method", [LayerEigenCam, LayerEigenGradCam])
def test_the_sign_of_a_component_is_that_of_the_sum_of_channels(method):
    """Whichever of the signs the decomposition gives: also of turned channels."""
    weights = torch.tensor([[[1.0, -2.0]], [[3.0, 1.0]]])
    model, x = linear_model(weights.tolist()), random(4, 2, 1, 2)
    signed = attribute(method, model, x, target=None, relu_attributions=False)
    channels = x if method is LayerEigenCam else x * weights
    sums = channels.sum(1, keepdim=True)
    assert ((signed * sums).sum((1, 2, 3)) >= 0).all()
    if method is LayerEigenCam:
        turned = attribute(method, model, -x, target=None, relu_attributions=False)
        torch.testing.assert_close(turned, -signed)
        # Behind a ReLU no unit is negative.
        units = attribute(method, model, x.relu(), target=None, relu_attributions=False)
        assert (units >= -1e-12).all()


def test_eigen_cam_of_one_pattern_is_its_pattern():
    """Of channels that are multiples a_k of one map P, it is |a| P."""
    a, P = torch.tensor([3.0, 0.0, 4.0]).double(), random(1, 1, 3, 5).abs()
    model = TwoPart(
        Function(lambda x: a.view(3, 1, 1) * x), Function(lambda A: A.sum((2, 3)))
    )
    torch.testing.assert_close(attribute(LayerEigenCam, model, P), 5 * P)
    assert (attribute(LayerEigenCam, model, 0 * P) == 0).all()
    # It needs no gradients.
    with torch.inference_mode():
        assert torch.equal(
            attribute(LayerEigenCam, model, P, target=2),
            attribute(LayerEigenCam, model, P),
        )


def test_hi_res_cam_adds_up_to_the_score():
    model = linear_model([[[2.0, -3.0]], [[4.0, 1.0]]])
    x = random(3, 2, 1, 2)
    maps = attribute(LayerHiResCam, model, x, target=None, relu_attributions=False)
    torch.testing.assert_close(maps.flatten(1).sum(1), model(x) - 1)


def test_positive_grad_cam_is_grad_cam_where_gradients_are_positive():
    model, x = linear_model([[[2.0, 3.0]], [[4.0, 0.0]]]), random(3, 2, 1, 2)
    expected = LayerGradCam(model, model.layer).attribute(x, relu_attributions=True)
    maps = attribute(LayerPositiveGradCam, model, x, target=None)
    torch.testing.assert_close(maps, expected.detach())


def test_gradients_too_small_for_their_powers():
    """In single precision the cube of such a gradient is 0."""
    model = linear_model([[[1e-20, 2e-20]], [[3e-20, 0.0]]])
    x = torch.ones(1, 2, 1, 2)
    maps = attribute(LayerGradCamPlusPlus, model, x, target=None)
    torch.testing.assert_close(
        maps.flatten(), torch.full((2,), 3e-20), atol=0, rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 7, 12)])
@pytest.mark.parametrize("baseline", [None, 0.3])
def test_score_cam_is_the_papers(shape, baseline):
    model, x = network(gain=3.0), random(2, *shape, seed=2)
    target = torch.tensor([2, 0])
    maps = attribute(ScoreCam, model, x, baselines=baseline, target=target)
    assert maps.shape == (2, 1, *shape[1:])
    for n in range(2):
        expected = reference_cams.score_cam(
            model.layer,
            one(model, target[n]),
            x[n],
            torch.full_like(x[n], baseline or 0),
        )
        torch.testing.assert_close(maps[n, 0], expected, rtol=1e-9, atol=1e-12)


def test_score_cam_takes_the_channels_that_vary_most():
    model, x = network(), random(1, 2, 8, 8)
    A = model.layer(x).detach()[0]
    kept = A.flatten(1).std(1).argsort(descending=True)[:2].tolist()
    expected = reference_cams.score_cam(
        model.layer, one(model, 0), x[0], torch.zeros_like(x[0]), kept
    )
    for fraction in (0.3, 2 / 6):
        maps = attribute(ScoreCam, model, x, channel_fraction=fraction)
        torch.testing.assert_close(maps[0, 0], expected, rtol=1e-9, atol=1e-12)
    everything = attribute(ScoreCam, model, x, channel_fraction=1.0)
    torch.testing.assert_close(everything, attribute(ScoreCam, model, x))


def test_score_cam_of_constant_channels_is_their_mean():
    """Also of a constant that is not 0: nothing is masked, all weights are equal."""
    values = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1).double()
    model = TwoPart(
        Function(lambda x: values.expand(len(x), 3, 2, 2) + 0 * x[:, :1]),
        Function(lambda A: A.sum((2, 3))),
    )
    maps = attribute(ScoreCam, model, random(2, 1, 2, 2))
    torch.testing.assert_close(maps, torch.full_like(maps, 3))


@pytest.mark.parametrize(("channels", "dead"), [(6, 1), (24, 1)])
def test_passes(channels, dead):
    model = network(channels=channels)
    model.layer = Counting(model.layer)
    x = random(3, 2, 6, 6)
    attribute(ScoreCam, model, x, internal_batch_size=4)
    # The feature maps, the baseline, and the channels that are not dead.
    assert sum(model.layer.rows) == 3 * (1 + 1 + channels - dead)
    assert max(model.layer.rows) <= 4
    model.layer.rows.clear()
    attribute(LayerAblationCam, model, x, internal_batch_size=4)
    assert sum(model.layer.rows) == 3 * (1 + 1 + channels - dead)
    assert max(model.layer.rows) <= 4
    model.layer.rows.clear()
    attribute(Rise, model, x, n_masks=channels, internal_batch_size=4)
    assert sum(model.layer.rows) == 3 * channels
    assert max(model.layer.rows) <= 4
    assert not any(model.layer.recorded)


@pytest.mark.parametrize("method", [ScoreCam, Rise])
def test_memory_does_not_grow_with_the_number_of_masks(method, monkeypatch):
    """The most elements that one tensor at the input's size holds."""
    largest = []

    def noting(inputs, baselines, masks):
        largest.append(masks.numel())
        return inputs * masks + baselines * (1 - masks)

    monkeypatch.setattr("captum_cams.attr._mask_scores.blend", noting)
    for count in (4, 40):
        options = {"n_masks": count} if method is Rise else {}
        model, x = network(channels=count), random(2, 2, 6, 6)
        attribute(method, model, x, internal_batch_size=3, **options)
    assert max(largest) <= 3 * 36


def draws(n_masks, grid, p, axes=2, seed=0):
    """The random numbers as Rise takes them, at most 100 masks."""
    cells = grid**axes
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(
        n_masks, cells + axes, generator=generator, dtype=torch.float64
    )
    grids = (numbers[:, :cells] < p).double().view(-1, *[grid] * axes)
    return grids, numbers[:, cells:].tolist()


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 7, 13)])
@pytest.mark.parametrize(("grid", "p"), [(3, 0.5), (5, 0.3), (1, 0.5)])
def test_rise_is_the_papers(shape, grid, p):
    model, x = network(), random(2, *shape)
    target = torch.tensor([2, 0])
    maps = attribute(
        Rise,
        model,
        x,
        baselines=0.1,
        target=target,
        n_masks=12,
        grid_size=grid,
        probability=p,
    )
    assert maps.shape == (2, 1, *shape[1:])
    grids, shifts = draws(12, grid, p)
    for n in range(2):
        expected = reference_cams.rise(
            lambda picture, n=n: model(picture[None])[0, target[n]].item(),
            x[n],
            torch.full_like(x[n], 0.1),
            grids,
            shifts,
            p,
        )
        torch.testing.assert_close(maps[n, 0], expected, rtol=1e-9, atol=1e-12)


def test_rise_of_a_constant_is_that_constant():
    model = Function(lambda x: x.new_full((len(x),), 3.0))
    maps = Rise(model).attribute(random(1, 1, 12, 12), n_masks=3000, grid_size=4)
    torch.testing.assert_close(maps, torch.full_like(maps, 3), atol=0.15, rtol=0)


def test_rise_finds_the_pixels_that_count():
    model = Function(lambda x: x[:, :, 2:5, 6:9].mean((1, 2, 3)))
    cam = Rise(model).attribute(torch.ones(1, 1, 12, 12), n_masks=500, grid_size=4)[
        0, 0
    ]
    row, column = divmod(int(cam.argmax()), 12)
    assert 2 <= row <= 4 and 6 <= column <= 8


def test_rise_draws_from_its_own_generator():
    model, x = network(), random(2, 2, 6, 6)

    def maps(seed):
        generator = torch.Generator().manual_seed(seed)
        return attribute(Rise, model, x, generator=generator)

    assert torch.equal(attribute(Rise, model, x), attribute(Rise, model, x))
    assert torch.equal(attribute(Rise, model, x), maps(0))
    assert not torch.equal(maps(0), maps(1))


@pytest.mark.parametrize("batch", [1, 7])
def test_rise_stops_at_its_tolerance(batch):
    """Each example by itself, after a multiple of 100 masks."""
    x = torch.ones(2, 2, 4, 4, dtype=torch.float64)
    x[1] = 0  # has an error of 0 at once
    model = TwoPart(
        Counting(nn.Identity()), Function(lambda A: A[..., 1:3].mean((1, 2, 3)))
    )
    grids, shifts = draws(100, 2, 0.5)
    error = reference_cams.rise_error(
        lambda x: model(x[None])[0], x[0], grids, shifts, 0.5
    )
    options = {"target": None, "internal_batch_size": batch, "n_masks": 3000}
    model.layer.rows.clear()
    maps = attribute(Rise, model, x, tolerance=1.0001 * error, **options)
    assert sum(model.layer.rows) == 100 + 100
    plain = attribute(Rise, model, x, **{**options, "n_masks": 100})
    torch.testing.assert_close(maps, plain)
    model.layer.rows.clear()
    finer = attribute(Rise, model, x, tolerance=0.9999 * error, **options)
    assert sum(model.layer.rows) >= 200 + 100
    assert (finer[0] != maps[0]).any()
    assert (finer[1] == 0).all()


def test_rise_warns_once_where_the_tolerance_is_not_reached():
    words = "the maps of 2 of 2 examples have not reached the tolerance of 1e-09 after 120 masks"
    with pytest.warns(UserWarning, match=re.escape(words)) as caught:
        attribute(Rise, n_masks=120, tolerance=1e-9)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("mode", ["full", "fast"])
@pytest.mark.parametrize("seed", range(4))
def test_xrai_ranks_as_the_paper(mode, seed):
    generator = torch.Generator().manual_seed(seed)
    regions = torch.rand(9, 5, 7, generator=generator) < 0.3
    regions[-1] = ~regions[:-1].any(0)  # every pixel is covered
    regions[-1, 0, 0] = True
    a = random(5, 7, seed=seed)
    places = [[tuple(p) for p in region.nonzero().tolist()] for region in regions]
    expected = reference_cams.xrai(places, a, mode == "full")
    torch.testing.assert_close(rank(regions, a, mode), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["full", "fast"])
@pytest.mark.parametrize(("color", "sign"), [(0.9, 1), (0.1, -1)])
def test_xrai_finds_what_is_brighter_or_darker(mode, color, sign):
    pytest.importorskip("skimage")
    x, inside = torch.full((1, 3, 40, 40), 0.4), torch.zeros(1, 1, 40, 40)
    x[..., 8:24, 10:30], inside[..., 8:24, 10:30] = color, 1
    maps = Xrai(lambda x: sign * (x * inside).sum((1, 2, 3))).attribute(
        x, mode=mode, n_steps=4, scales=[50, 250]
    )
    near = max_pool2d(inside, 11, 1, 5)  # segments are dilated by five pixels
    assert maps[inside == 1].min() > maps[near == 0].max()


def test_xrai_takes_normalized_pictures():
    pytest.importorskip("skimage")
    model, x = network(), random(1, 2, 24, 24).sigmoid()
    plain = attribute(Xrai, model, x)
    mean, std = 0.4, 0.2
    normalized = attribute(
        Xrai,
        lambda z: model(z * std + mean),
        (x - mean) / std,
        model.layer,
        black=-mean / std,
        white=(1 - mean) / std,
    )
    torch.testing.assert_close(plain, normalized)


def test_xrai_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with raises(ImportError, "pip install captum-cams[xrai]"):
        attribute(Xrai)


@pytest.mark.parametrize("method", ALL)
def test_any_batch_gives_the_same_map(method):
    """Also one example by itself; targets and arguments follow their rows."""
    model, x = network(), random(3, 2, 6, 6)
    shift, factor = random(3, 1, 1, 1, seed=3), random(1, seed=4)[0]

    def forward(x, shift, factor, name):
        assert name == "kept"
        assert factor.shape == ()
        return model(x + shift * factor)

    def maps(rows, **options):
        return attribute(
            method,
            forward,
            x[rows],
            model.layer,
            target=[0, 2, 1][rows],
            additional_forward_args=(shift[rows], factor, "kept"),
            **options,
        )

    expected = maps(slice(None))
    for batch in (1, 2, 5, 100):
        torch.testing.assert_close(
            maps(slice(None), internal_batch_size=batch), expected
        )
    for n in range(3):
        torch.testing.assert_close(maps(slice(n, n + 1)), expected[n : n + 1])


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(method, fails):
    model = network()
    model.head.append(
        Function(lambda y: (_ for _ in ()).throw(KeyError("broken")) if fails else y)
    )
    model.head[0].weight.requires_grad_(False)
    x = random(2, 2, 6, 6)
    x_before, before = x.clone(), state(model)
    numbers = torch.get_rng_state()
    if fails:
        with pytest.raises(KeyError, match="broken"):
            attribute(method, model, x)
    else:
        assert not attribute(method, model, x).requires_grad
    assert same(state(model), before)
    assert torch.equal(x, x_before)
    assert not x.requires_grad and x.grad is None
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.parametrize("method", [m for m in ALL if m is not Xrai])
@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(method, dims):
    model, x = network(dims), random(2, 2, *[6, 5, 4][:dims])
    maps = attribute(method, model, x)
    size = x.shape[2:] if method in (ScoreCam, Rise) else (3, 3, 2)[:dims]
    assert maps.shape == (2, 1, *size)
    assert maps.isfinite().all()


@pytest.mark.parametrize("method", ALL)
def test_half_precision(method):
    model, x = network().bfloat16(), random(1, 2, 6, 6).bfloat16()
    maps = attribute(method, model, x)
    assert maps.dtype == torch.bfloat16
    exact = attribute(method, model.double(), x.double())
    assert (maps - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("method", LAYER_CAMS)
def test_dense_layers(method):
    model = TwoPart(nn.Linear(3, 4).double(), nn.Linear(4, 2).double())
    maps = attribute(method, model, random(2, 3), attr_dim_summation=False)
    assert maps.shape == (2, 4)


@pytest.mark.parametrize("method", GRADIENT_CAMS)
def test_several_layers_and_tensors(method):
    model, x = network(), random(2, 2, 6, 6)
    both = method(model, [model.layer, model.head[0]]).attribute(x, target=0)
    for maps, layer in zip(both, (model.layer, model.head[0]), strict=True):
        torch.testing.assert_close(maps, attribute(method, model, x, layer))
    two = TwoPart(
        Function(lambda x: (x, x + 1)), Function(lambda t: (t[0] * t[1]).sum((2, 3)))
    )
    assert [maps.shape for maps in attribute(method, two, x)] == 2 * [(2, 1, 6, 6)]


@pytest.mark.parametrize("method", [ScoreCam, Rise])
def test_several_inputs_are_masked_each_at_its_size(method):
    layer = Function(lambda a, b: a + b[..., ::2, ::2])
    model = Function(lambda a, b: layer(a, b).sum((2, 3)))
    inputs = random(2, 3, 4, 4), random(2, 3, 8, 8)
    maps = attribute(method, model, inputs, layer)
    assert [m.shape for m in maps] == [(2, 1, 4, 4), (2, 1, 8, 8)]


@pytest.mark.parametrize("method", [LayerAblationCam, ScoreCam, Rise, Xrai])
def test_progress(method, capsys):
    attribute(method)
    assert capsys.readouterr().err == ""
    attribute(method, show_progress=True)
    ends = {ScoreCam: "14/14", Rise: "10/10", Xrai: "2/2", LayerAblationCam: "12pass"}
    assert ends[method] in capsys.readouterr().err


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"internal_batch_size": 0}, ValueError, "internal_batch_size must be an integer of at least 1, got 0"),
        ({"target": 3}, ValueError, "target must lie in [0, 2]"),
        ({"target": [0, 1, 2]}, ValueError, "target must be one index for all examples or one for each, 2, got 3"),
        ({"target": None}, ValueError, "target must select one number of each example"),
        ({"inputs": random(2, 2, 6, 6)[:0]}, ValueError, "inputs must hold at least one example"),
    ],
)  # fmt: skip
def test_common_arguments(method, options, kind, words):
    with raises(kind, words):
        attribute(method, **options)


@pytest.mark.parametrize("method", WITH_LAYER)
def test_layers(method):
    with raises(ValueError, "layer must be used by forward_func"):
        attribute(method, layer=nn.ReLU())
    with raises(TypeError, "layer must be a torch.nn.Module of the model"):
        method(network(), "layer4")
    if method in (LayerAblationCam, ScoreCam):
        model = network()
        with raises(TypeError, "layer must be one torch.nn.Module here, got a list"):
            method(model, [model.layer, model.head])
        two = TwoPart(
            Function(lambda x: (x, x)), Function(lambda t: (t[0] + t[1]).sum((2, 3)))
        )
        with raises(ValueError, "layer must give one tensor here, got 2"):
            attribute(method, two)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (ScoreCam, {"channel_fraction": 0}, "channel_fraction must lie in (0, 1], or be None, got 0"),
        (ScoreCam, {"baselines": random(1, 1, 6, 6)}, "baselines must have the inputs' shape"),
        (ScoreCam, {"inputs": random(2, 2, 36), "model": TwoPart(nn.Unflatten(2, (6, 6)), Function(lambda A: A.sum((2, 3))))}, "layer must give feature maps (N, K, *spatial)"),
        (Rise, {"n_masks": 0}, "n_masks must be an integer of at least 1, got 0"),
        (Rise, {"probability": 1}, "probability must lie between 0 and 1, got 1"),
        (Rise, {"grid_size": 7}, "grid_size must be at most the number of pixels of each axis, (6, 6), got (7, 7)"),
        (Rise, {"grid_size": (2, 2, 2)}, "one for each of the inputs' 2 spatial axes, got 3"),
        (Rise, {"grid_size": 0}, "grid_size must be an integer of at least 1, got 0"),
        (Rise, {"tolerance": 0}, "tolerance must be above 0, got 0"),
        (SmoothGrad, {"nt_samples": 0}, "nt_samples must be an integer of at least 1, got 0"),
        (SmoothGrad, {"noise_level": -0.1}, "noise_level must be at least 0, got -0.1"),
        (SmoothGrad, {"inputs": random(2)}, "inputs must have channels along their second axis, (N, C, *spatial), got shape (2,)"),
        (SmoothGrad, {"model": TwoPart(nn.Identity(), Function(lambda x: x.detach().mean((2, 3))))}, "must depend on the inputs by operations that autograd records"),
        (Rise, {"inputs": random(2, 2)}, "inputs must have 1 to 3 spatial axes to be masked"),
        (Rise, {"inputs": (random(2, 2, 6), random(2, 2, 6, 6))}, "got shapes (2, 2, 6), (2, 2, 6, 6)"),
        (Xrai, {"mode": "slow"}, "mode must be one of 'full', 'fast', got 'slow'"),
        (Xrai, {"n_steps": 0}, "n_steps must be an integer of at least 1, got 0"),
        (Xrai, {"white": 0}, "white must be above black in every channel"),
        (Xrai, {"inputs": random(2, 2, 6)}, "inputs must be pictures (N, C, H, W) in one tensor"),
    ],
)  # fmt: skip
def test_arguments(method, options, words):
    with raises(ValueError, words):
        attribute(method, **options)


def test_registry():
    """Every name builds and explains; Grad-CAM is rectified as all are."""
    model, x = network(), random(2, 2, 30, 30)
    for name in METHODS:
        maps = explain(name, model, model.layer, x, target=0)
        assert maps.shape in ((2, 1, 15, 15), (2, 1, 30, 30))
        assert name == "xrai" or (maps >= 0).all()
