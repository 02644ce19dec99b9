"""GroupCamBlend: the paper's blend, and a model in training that does not notice."""

import copy
import re

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from captum_cams import GroupCam
from captum_cams.augmentation import GroupCamBlend
from captum_cams.baselines import blurred
from tests.models import Function, TwoPart, network, random

BLUR = {"blur_kernel_size": 3, "blur_sigma": 2.0}
X, LABELS = random(5, 2, 8, 10), torch.tensor([0, 2, 1, 1, 0])


def convolutional(dtype=torch.float64):
    """Everything that changes as it runs in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        )
        head = nn.Sequential(
            nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
        )
        return TwoPart(layer, head).to(dtype).train()


def test_the_blend_is_the_papers():
    """Eq. 1-7 with w_k = 1, the map binarized at its mean, and eq. 5, pixel by pixel."""
    model = network(softmax=False, gain=5.0)
    images, labels = GroupCamBlend(model, model.layer, 3, **BLUR)(X, LABELS)
    assert labels is LABELS
    blurry, shares = blurred(X, 3, 2.0), []
    with torch.no_grad():
        A = model.layer(X)  # (N, 6, 4, 5)
        for n in range(len(X)):

            def confidence(x, label=LABELS[n]):
                return model(x.unsqueeze(0)).softmax(1)[0, label]

            cam = torch.zeros(8, 10, dtype=torch.float64)
            for r in range(3):
                M = (A[n, 2 * r] + A[n, 2 * r + 1]).relu()  # (4, 5)
                M = (M - M.min()) / (M.max() - M.min())
                M = nn.functional.interpolate(M[None, None], (8, 10), mode="bilinear")
                shown = X[n] * M[0, 0] + blurry[n] * (1 - M[0, 0])
                cam += (confidence(shown) - confidence(blurry[n])) * M[0, 0]
            cam = cam.relu()
            mask = cam >= cam.mean()
            shares.append(mask.double().mean().item())
            expected = torch.where(mask, X[n], blurry[n])
            torch.testing.assert_close(images[n], expected, rtol=0, atol=0)
    assert sum(0.1 < share < 0.9 for share in shares) >= 3


def test_a_picture_without_a_map_stays_as_it_is():
    """No group gains confidence where the output does not depend on the picture."""
    model = TwoPart(nn.Conv2d(2, 6, 3).double(), Function(lambda A: 0 * A.sum((2, 3))))
    images, _ = GroupCamBlend(model, model.layer, 2, **BLUR)(X, LABELS)
    assert torch.equal(images, X)


def test_the_number_of_inputs_in_a_batch_does_not_matter():
    """Also in training mode, where BatchNorm would mix them."""
    model = convolutional()
    whole, _ = GroupCamBlend(model, model.layer, 3, **BLUR)(X, LABELS)
    for batch in (1, 2, 100):
        blend = GroupCamBlend(model, model.layer, 3, **BLUR, internal_batch_size=batch)
        assert torch.equal(blend(X, LABELS)[0], whole)
        assert torch.equal(blend(X[2:3], LABELS[2:3])[0], whole[2:3])


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(fails):
    model = convolutional()
    model.head[0].eval()  # a mode of its own
    model.layer[0].requires_grad_(False)
    model.head[3].weight.grad = torch.ones_like(model.head[3].weight)
    calls = []
    model.layer.register_forward_hook(lambda *_: calls.append(1))
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    random_state, x = torch.get_rng_state(), X.clone()
    blend = GroupCamBlend(model, model.layer, 3, **BLUR)
    if fails:
        with pytest.raises(ValueError, match=r"target must lie in \[0, 2\]"):
            blend(X, LABELS + 9)
    else:
        blend(X, LABELS)
    assert [module.training for module in model.modules()] == modes
    assert all(map(torch.equal, model.state_dict().values(), state.values()))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(x, X)
    assert not model.layer[0].weight.requires_grad
    assert model.layer[1].weight.requires_grad
    assert torch.equal(model.head[3].weight.grad, torch.ones_like(model.head[3].weight))
    assert model.layer[1].weight.grad is None
    assert len(model.layer._forward_hooks) == 1
    assert not model._forward_hooks
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("autocast", [False, True])
def test_a_training_step_goes_on_as_if_nothing_had_happened(autocast):
    """Gradients and statistics are those of a step on the blended inputs alone."""
    dtype = torch.float32 if autocast else torch.float64
    x = X.to(dtype)
    model = convolutional(dtype)
    alone = copy.deepcopy(model)
    blend = GroupCamBlend(model, model.layer, 3, **BLUR)

    def step(model, inputs):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            images, labels = inputs()
            loss = nn.functional.cross_entropy(model(images).float(), labels)
        torch.autograd.backward(loss)

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        blended, _ = blend(x, LABELS)
    step(model, lambda: blend(x, LABELS))
    step(alone, lambda: (blended, LABELS))
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(model.buffers(), alone.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_transform_does_not_own_the_model():
    model = convolutional()
    blend = GroupCamBlend(model, model.layer, 3)
    assert not list(blend.parameters())
    assert not blend.state_dict()
    blend.eval()
    assert model.training
    assert repr(blend) == "GroupCamBlend(groups=3)"


def test_it_stands_among_torchvisions_transforms():
    model = convolutional(torch.float32)
    blend = GroupCamBlend(model, model.layer, 3, **BLUR)
    x = X.float()
    images, labels = v2.Compose([blend, v2.MixUp(num_classes=3)])(x, LABELS)
    assert images.shape == X.shape
    assert labels.shape == (5, 3)
    images, labels = v2.RandomApply([blend], p=1.0)(x, LABELS)
    assert torch.equal(images, blend(x, LABELS)[0])
    assert torch.equal(labels, LABELS)


def test_confidences_may_come_from_the_model():
    probable, logits = network(), network(softmax=False)
    ours, _ = GroupCamBlend(probable, probable.layer, 3, confidence_func=None, **BLUR)(
        X, LABELS
    )
    theirs, _ = GroupCamBlend(logits, logits.layer, 3, **BLUR)(X, LABELS)
    assert torch.equal(ours, theirs)


def test_the_map_is_group_cams_without_gradients():
    model = network()
    images, _ = GroupCamBlend(model, model.layer, 3, confidence_func=None, **BLUR)(
        X, LABELS
    )
    cam = GroupCam(model, model.layer)
    maps = cam.attribute(X, blurred(X, 3, 2.0), LABELS, groups=3, use_gradients=False)
    shown = (images == X).all(1, keepdim=True)
    assert torch.equal(shown, maps >= maps.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims):
    model, x = network(dims), random(2, 2, *[8, 6, 7][:dims])
    images, _ = GroupCamBlend(model, model.layer, 2, **BLUR)(x, torch.tensor([0, 1]))
    assert images.shape == x.shape
    assert not torch.equal(images, x)


@pytest.mark.parametrize(
    ("labels", "kind", "words"),
    [
        ([0, 1], TypeError, "labels must be a tensor of integers, got list; blend before"),
        (torch.rand(5, 3), TypeError, "labels must be a tensor of integers, got torch.float32; blend before transforms that mix classes, such as MixUp"),
        (torch.eye(5).long(), ValueError, "labels must be one class for each of 5 inputs, (N,), got shape (5, 5)"),
        (LABELS[:4], ValueError, "got shape (4,)"),
    ],
)  # fmt: skip
def test_labels(labels, kind, words):
    model = convolutional()
    with pytest.raises(kind, match=re.escape(words)):
        GroupCamBlend(model, model.layer, 3, **BLUR)(X, labels)


def test_arguments():
    model = convolutional()
    with pytest.raises(
        TypeError, match=r"model must be a torch.nn.Module, .* function"
    ):
        GroupCamBlend(lambda x: model(x), model.layer)
    with pytest.raises(ValueError, match="groups must be an integer of at least 1"):
        GroupCamBlend(model, model.layer, 0)
    with pytest.raises(ValueError, match="groups must be at most"):
        GroupCamBlend(model, model.layer, 16, **BLUR)(X, LABELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_a_constant_map_everything_is_shown(dtype, monkeypatch):
    """Though its mean may be larger by rounding."""
    model, x = convolutional(dtype), X.to(dtype)
    for value in torch.linspace(0.1, 1, 40):
        maps = torch.full((5, 1, 8, 10), float(value), dtype=dtype)
        monkeypatch.setattr(GroupCam, "attribute", lambda *_, m=maps, **__: m)
        images, _ = GroupCamBlend(model, model.layer, 3, **BLUR)(x, LABELS)
        assert torch.equal(images, x)
