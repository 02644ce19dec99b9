"""One clear sentence for bad input: the argument, what came, the remedy."""

import re

import pytest
import torch
from torch import nn

from captum_cams import GroupCam, LayerIntegratedGradCam, LayerRSIGradCam
from tests.models import Function, TwoPart, network, random

PATH_METHODS = [LayerRSIGradCam, LayerIntegratedGradCam]
ALL = [*PATH_METHODS, GroupCam]
X = random(2, 2, 6, 6)


def attribute(kind, model=None, inputs=X, layer=None, **options):
    model = model or network()
    options = {"target": 0, **options}
    if kind is GroupCam:
        options = {"baselines": 0, "groups": 2, **options}
    return kind(model, layer or model.layer).attribute(inputs, **options)


def raises(kind, words):
    return pytest.raises(kind, match=re.escape(words))


@pytest.mark.parametrize("method", PATH_METHODS)
@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"n_steps": 0}, ValueError, "n_steps must be an integer of at least 1, got 0"),
        ({"n_steps": 2.5}, TypeError, "n_steps must be an integer of at least 1, got 2.5"),
        ({"method": "simpson"}, ValueError, "'riemann_left'"),
        ({"method": "simpson"}, ValueError, "got 'simpson'"),
    ],
)  # fmt: skip
def test_path_arguments(method, options, kind, words):
    with raises(kind, words):
        attribute(method, **options)


def test_rules_without_a_stieltjes_sum_are_refused():
    with raises(
        ValueError,
        "method must be one of 'riemann_trapezoid', 'riemann_left', 'riemann_right', "
        "'logistic_trapezoid', got 'gausslegendre'",
    ):
        attribute(LayerRSIGradCam, method="gausslegendre")


def test_weighting():
    with raises(
        ValueError, "weighting must be one of 'signed', 'positive', 'selected'"
    ):
        attribute(LayerRSIGradCam, weighting="negative")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"groups": 0}, ValueError, "groups must be an integer of at least 1, got 0"),
        ({"groups": 7}, ValueError, "groups must be at most the number of the layer's channels, 6, got 7"),
        ({"denoise_percentile": 101}, ValueError, "denoise_percentile must lie in [0, 100], or be None for no de-noising, got 101"),
        ({"denoise_percentile": -1}, ValueError, "got -1"),
        ({"baselines": None}, ValueError, "needs sides of at least 26 pixels, got inputs of shape (2, 2, 6, 6); a kernel size of 11 or less fits"),
        ({"baselines": None, "blur_kernel_size": 4}, ValueError, "the blur's kernel size must be odd, got 4"),
        ({"baselines": None, "blur_kernel_size": 3, "blur_sigma": 0}, ValueError, "sigma must be above 0"),
    ],
)  # fmt: skip
def test_group_cam_arguments(options, kind, words):
    with raises(kind, words):
        attribute(GroupCam, **options)


def test_group_cam_needs_spatial_axes():
    model = TwoPart(nn.Linear(3, 4).double(), nn.Softmax(1))
    with raises(ValueError, "layer must give feature maps (N, K, *spatial)"):
        attribute(GroupCam, model, random(2, 3))
    tokens = TwoPart(
        Function(lambda x: x.flatten(2).transpose(1, 2)), Function(lambda t: t.sum(1))
    )
    with raises(ValueError, "got shape (2, 36, 2) for inputs of shape (2, 2, 6, 6)"):
        attribute(GroupCam, tokens)


def test_group_cam_takes_one_layer_and_one_tensor():
    model = network()
    with raises(TypeError, "layer must be one torch.nn.Module here, got a list of 2"):
        GroupCam(model, [model.layer, model.head])
    two = TwoPart(
        Function(lambda x: (x, x + 1)), Function(lambda t: (t[0] + t[1]).sum((2, 3)))
    )
    for use_gradients in (True, False):
        with raises(ValueError, "layer must give one tensor here, got 2"):
            attribute(GroupCam, two, use_gradients=use_gradients)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"internal_batch_size": 0}, ValueError, "internal_batch_size must be an integer of at least 1, got 0"),
        ({"internal_batch_size": -3}, ValueError, "got -3"),
        ({"target": 3}, ValueError, "target must lie in [0, 2] for an output of shape (2, 3), got 3"),
        ({"target": torch.tensor([0, 9])}, ValueError, "target must lie in [0, 2]"),
        ({"target": [0, 1, 2]}, ValueError, "target must be one index for all examples or one for each, 2, got 3"),
        ({"target": 1.5}, TypeError, "target must be an integer, a tuple of integers"),
        ({"target": torch.tensor([0.0, 1.0])}, TypeError, "target must hold integers, got torch.float32"),
        ({"target": torch.zeros(2, 2, dtype=torch.int64)}, ValueError, "got shape (2, 2)"),
        ({"target": None}, ValueError, "target must select one number of each example from an output of shape (2, 3), got None"),
        ({"target": (0, 1)}, ValueError, "got an index into 2 of its axes"),
        ({"baselines": random(2, 2, 5, 6)}, ValueError, "baselines must have the inputs' shape (2, 2, 6, 6), or 1 in its first place, or be a number, got shape (2, 2, 5, 6)"),
        ({"baselines": random(1, 1, 6, 6)}, ValueError, "got shape (1, 1, 6, 6)"),
        ({"baselines": (0, 0)}, ValueError, "baselines must be as many as the inputs, 1, got 2"),
        ({"baselines": "black"}, TypeError, "baselines must be tensors or numbers, got str"),
        ({"inputs": X.long()}, TypeError, "inputs must be of a floating dtype, got torch.int64"),
        ({"inputs": X.tolist()}, TypeError, "inputs must be a tensor or a tuple of tensors, got list"),
        ({"inputs": X[:0]}, ValueError, "inputs must hold at least one example along their first axis, got shape (0, 2, 6, 6)"),
        ({"inputs": (X, X[:1]), "baselines": (0, 0)}, ValueError, "inputs must agree in their first axis"),
    ],
)  # fmt: skip
def test_common_arguments(method, options, kind, words):
    batch = {} if "internal_batch_size" in options else {"internal_batch_size": 2}
    with raises(kind, words):
        attribute(method, **options, **batch)


@pytest.mark.parametrize("method", ALL)
def test_layers(method):
    with raises(ValueError, "layer must be used by forward_func"):
        attribute(method, layer=nn.ReLU())
    with raises(TypeError, "layer must be a torch.nn.Module of the model"):
        method(network(), "layer4")
    with raises(TypeError, "layer must give tensors of a floating dtype"):
        attribute(
            method,
            TwoPart(Function(torch.Tensor.long), Function(lambda A: A.sum((2, 3)))),
        )
    with raises(ValueError, "layer must give one row for each of its 2 examples"):
        attribute(
            method,
            TwoPart(
                Function(lambda x: x.transpose(0, 2)),
                Function(lambda A: A.transpose(0, 2).sum((2, 3))),
            ),
            internal_batch_size=2,
        )


@pytest.mark.parametrize("method", ALL)
def test_an_output_that_does_not_depend_on_the_layer(method):
    model = network()
    aside = nn.Identity()
    words = "forward_func's target output must depend on every tensor of the layer"

    def forward(x):
        aside(x + 1)
        return model(x)

    with raises(ValueError, words):
        attribute(method, forward, layer=aside)
    with raises(ValueError, words):
        attribute(method, lambda x: model(x).detach(), layer=model.layer)


def test_zero_gradients_on_request():
    model = TwoPart(
        Function(lambda x: (x, x + 1)), Function(lambda t: t[0].sum((1, 2, 3)))
    )
    maps = attribute(
        LayerRSIGradCam,
        model,
        target=None,
        n_steps=2,
        grad_kwargs={"materialize_grads": True},
    )
    assert (maps[1] == 0).all()


def test_large_activations_are_finite():
    model = TwoPart(nn.Identity(), Function(lambda A: A.amax((2, 3))))
    x = torch.full((1, 1, 40, 40), 1e36)
    assert attribute(GroupCam, model, x, groups=1).isfinite().all()
    assert attribute(LayerRSIGradCam, model, x * 1e-20, n_steps=2).isfinite().all()


@pytest.mark.parametrize("method", ALL)
def test_outputs_that_are_no_scores(method):
    model = network()
    with raises(TypeError, "forward_func must return a tensor, got tuple; wrap it"):
        attribute(method, lambda x: (model(x), 0), layer=model.layer)
    with raises(ValueError, "forward_func must return one row for each of its"):
        attribute(method, lambda x: model(x)[:1], layer=model.layer)


@pytest.mark.parametrize("method", ALL)
def test_gradients_and_outputs_that_are_not_finite_name_their_example(method):
    def root(A):
        y = A.sum((1, 2, 3))
        return torch.stack([y, y * 0], 1).sum(1) + (y * 0).sqrt()

    with raises(ValueError, "the output's gradients must be finite"):
        attribute(method, TwoPart(nn.Identity(), Function(root)), target=None)
    infinite = TwoPart(nn.Identity(), Function(lambda A: A.sum((1, 2, 3)) / 0))
    with raises(
        ValueError, "forward_func's output must be finite, got NaN or infinity"
    ):
        attribute(method, infinite, target=None)


@pytest.mark.parametrize("method", ALL)
def test_inference_mode(method):
    with (
        torch.inference_mode(),
        raises(ValueError, "call attribute outside of it, under torch.no_grad()"),
    ):
        attribute(method)


@pytest.mark.parametrize("method", PATH_METHODS)
def test_layers_without_channels_or_positional_inputs(method):
    flat = TwoPart(Function(lambda x: x.sum((1, 2, 3))), Function(lambda y: 2 * y))
    with raises(ValueError, "layer must give channels for each example"):
        attribute(method, flat, target=None)
    layer = nn.ReLU()
    with raises(ValueError, "called with its input as a positional argument"):
        method(lambda x: layer(input=x).sum((1, 2, 3)), layer).attribute(
            X, attribute_to_layer_input=True
        )
