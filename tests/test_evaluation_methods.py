"""The maps of methods in the evaluation: of the output that was chosen."""

import re

import pytest
import torch
from torch import nn

from captum_cams import GroupCam, LayerGradCamPlusPlus, LayerRSIGradCam, SmoothGrad
from captum_cams.attr.registry import METHODS
from captum_cams.evaluation import evaluate
from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.layers import LayerInfo
from captum_cams.evaluation.methods import ExplainTask, parse_method
from captum_cams.evaluation.networks import choose_output, load_network
from tests.models import Function, random

X = random(3, 3, 8, 8).float()
TARGETS = torch.tensor([1, 0, 2])


class Net(nn.Module):
    def __init__(self, inplace=False, relu=nn.ReLU):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv1 = nn.Conv2d(3, 5, 3, padding=1)
            self.conv2 = nn.Conv2d(5, 5, 3, padding=1)
            self.linear = nn.Linear(5, 3)
        self.relu = relu(inplace)  # used twice

    def forward(self, x):
        x = self.relu(self.conv1(x))
        x = self.relu(x + self.conv2(x))
        return self.linear(x.mean((2, 3)))


def task(model, explain="logits"):
    network = choose_output(load_network(model, size=8), explain, X[:1])
    return ExplainTask(network, X, TARGETS)


def maps(of, method, seed=0):
    """By the evaluation, of the last convolution where the method has a layer."""
    module = of.network.model.get_submodule("conv2")
    layer = LayerInfo("conv2", module, (5, 8, 8), 3)
    return of.explain(parse_method(method), [layer], seed)[0]


def sigmoid(scores):
    return scores.sigmoid()


@pytest.mark.parametrize(
    ("explain", "function"),
    [
        ("logits", lambda scores: scores),
        ("model", lambda scores: scores),
        ("probabilities", nn.Softmax(1)),
        ("sigmoid", sigmoid),
    ],
)
def test_maps_are_of_the_chosen_output(explain, function):
    model = Net()
    own = LayerRSIGradCam(lambda x: function(model(x)), model.conv2)
    close(maps(task(model, explain), "rsi-grad-cam"), own.attribute(X, target=TARGETS))
    # Grad-CAM++ explains a score whose exponential is the output.
    log = (lambda y: function(y).log()) if explain[:2] in ("pr", "si") else function
    own = LayerGradCamPlusPlus(lambda x: log(model(x)), model.conv2)
    wanted = own.attribute(X, target=TARGETS)
    close(maps(task(model, explain), "grad-cam-plus-plus"), wanted)


def test_group_cam_of_logits_weighs_by_probabilities():
    """As its authors do, and unless it is asked for something else."""
    model = Net()
    options = {"baselines": 0, "groups": 5}
    text = "group-cam(baselines=0, groups=5)"
    cam = GroupCam(model, model.conv2)
    for explain, confidence in (("logits", nn.Softmax(1)), ("model", None)):
        own = cam.attribute(X, target=TARGETS, confidence_func=confidence, **options)
        close(maps(task(model, explain), text), own)
    asked = maps(task(model), "group-cam(baselines=0, groups=5, confidence_func=None)")
    close(asked, cam.attribute(X, target=TARGETS, **options))


def close(found, wanted):
    assert (wanted != 0).any()
    torch.testing.assert_close(found, wanted)


def guided(model, x, target):
    """Guided Backprop of a network `Net`, step by step backward from its output."""
    a = model.conv1(x)
    b = a.relu() + model.conv2(a.relu())
    back = model.linear.weight[target] / b.shape[2:].numel()  # (K,)
    back = (back.view(1, -1, 1, 1) * (b > 0)).clamp(min=0)
    through = nn.functional.conv_transpose2d(back, model.conv2.weight, padding=1)
    back = ((back + through) * (a > 0)).clamp(min=0)
    back = nn.functional.conv_transpose2d(back, model.conv1.weight, padding=1)
    return back.detach().abs().sum(1, keepdim=True)


@pytest.mark.parametrize("inplace", [False, True])
def test_guided_backprop_passes_relus_that_write_in_place_and_are_used_again(inplace):
    model = Net(inplace)
    wanted = [guided(model, X[n : n + 1], TARGETS[n]) for n in range(3)]
    found = maps(task(model), "guided-backprop")
    close(found, torch.cat(wanted))
    x = X.clone().requires_grad_()
    (plain,) = torch.autograd.grad(model(x).gather(1, TARGETS[:, None]).sum(), x)
    assert not torch.allclose(found, plain.abs().sum(1, keepdim=True), rtol=0.1)


@pytest.mark.parametrize("relu", [nn.ReLU6, lambda _: Function(torch.relu)])
def test_guided_backprop_needs_a_relu_that_is_a_module(relu, tmp_path):
    words = "guided-backprop needs a module ReLU in the model, as it changes the gradients of such modules alone, and the model has none"
    with pytest.raises(UserError, match=words):
        maps(task(Net(relu=relu)), "guided-backprop")
    model = Net(relu=relu)
    with pytest.raises(ValueError, match=words):
        evaluate(tmp_path, model=model, size=8, methods=["guided-backprop"], limit=1)


def test_integrated_gradients_of_each_pixel_add_its_channels():
    model = Net()
    steps = 2000
    total = torch.zeros_like(X)
    for step in range(steps):
        x = ((step + 0.5) / steps * X).requires_grad_()
        score = model(x).gather(1, TARGETS[:, None]).sum()
        total += torch.autograd.grad(score, x)[0] / steps
    wanted = (total * X).abs().sum(1, keepdim=True)
    found = maps(task(model), "integrated-gradients(n_steps=200)")
    torch.testing.assert_close(found, wanted, rtol=0.01, atol=0.01 * wanted.max())


def test_smooth_grad_draws_by_the_seed():
    model = Net()
    for seed in (0, 1):
        own = SmoothGrad(model).attribute(X, TARGETS, seed=seed)
        close(maps(task(model), "smooth-grad", seed), own)
    assert not torch.equal(own, SmoothGrad(model).attribute(X, TARGETS))


@pytest.mark.parametrize(
    "name", ["guided-backprop", "integrated-gradients", "smooth-grad"]
)
def test_methods_of_whole_models_leave_no_trace(name, recwarn):
    """Twelve pictures together, more than Integrated Gradients sends at a time."""
    of = task(Net())
    of = of._replace(inputs=X.repeat(4, 1, 1, 1), targets=TARGETS.repeat(4))
    found = maps(of, name)
    assert found.shape == (12, 1, 8, 8) and not found.requires_grad
    torch.testing.assert_close(found[:3], found[9:])
    assert not of.inputs.requires_grad and of.inputs.grad is None
    assert all(parameter.grad is None for parameter in of.network.model.parameters())
    for module in of.network.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert not len(recwarn)


@pytest.mark.parametrize("kind", [3, int, "ReLU", nn.ReLU()])
def test_what_a_method_needs_is_a_class_of_modules(kind):
    words = "needs_module must be a class of torch.nn.Module, or None, got "
    with pytest.raises(TypeError, match=re.escape(words)):
        type(METHODS["rise"])(SmoothGrad, needs_module=kind)
