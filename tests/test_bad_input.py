"""One clear sentence for bad input: the argument, what came, the remedy."""

import inspect
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution
from PIL import Image
from torch import nn

import captum_cams
from captum_cams import GroupCam, LayerIntegratedGradCam, LayerRSIGradCam, metrics
from captum_cams.attr.gradient_cams import GradientCamAttribution
from captum_cams.attr.registry import METHODS
from captum_cams.attr.rsi_grad_cam import ConductanceIntegrand
from captum_cams.augmentation import GroupCamBlend
from captum_cams.baselines import black, blurred, constant, neutral, uniform_noise
from captum_cams.evaluation import evaluate
from captum_cams.evaluation.methods import parse_method
from captum_cams.path import blur_path, quadrature, reparametrized
from captum_cams.targets import (
    ClassContrast,
    DetectionScore,
    EmbeddingSimilarity,
    NegativeDistance,
    SegmentationScore,
)
from captum_cams.visualization import blend, curves, overlay, panel
from tests.methods import OURS, explain
from tests.models import Function, TwoPart, network, random

SCORES = [
    SegmentationScore,
    DetectionScore,
    EmbeddingSimilarity,
    ClassContrast,
    NegativeDistance,
]
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


# What does not fit arguments of a kind. None may fit where it is the default.
WORD, TWO, COMPLEX = "five", torch.tensor([1, 2]), 1j
NAN, INF = float("nan"), float("inf")
COUNT = [WORD, None, True, 2.5, 0, -1, [1], NAN, TWO, COMPLEX]
NUMBER = [WORD, None, True, NAN, INF, -1, [0.5], TWO, COMPLEX]
FLAG = [WORD, None, 2, [True], TWO]
FUNCTION = [WORD, None, 3]
CHOICE = [WORD, None, 3, ["signed"]]
TENSOR = [WORD, None, 3, [[1.0]], X * COMPLEX]
COLOR = [WORD, None, [WORD], NAN, [1, NAN], [1, 2, 3], COMPLEX, True]
WORDS = [3, None, [], [3], NAN]
PATH = [3, None, [WORD]]
BASELINE = [WORD, [0.5], NAN, -INF, COMPLEX, X * NAN, X[:, :1], X * COMPLEX]
CURVES = [WORD, 3, [X], {1: X}, {"a": [1.0]}]
KINDS = [
    (COUNT, "n_steps groups n_masks nt_samples n_references batch_size limit kernel_size blur_kernel_size"),
    (COUNT, "internal_batch_size max_examples_per_batch num_classes"),
    (NUMBER, "tolerance probability channel_fraction denoise_percentile sigma blur_sigma stdevs noise_level gamma"),
    (NUMBER, "eps lr top_fraction alpha min_iou weight"),
    (FLAG, "attribute_to_layer_input relu_attributions attr_dim_summation use_gradients flip"),
    (FLAG, "return_convergence_delta return_alphas show_progress"),
    (FUNCTION, "forward_func path confidence_func output_func reshape_transform f explain attribute"),
    (CHOICE, "method weighting mode dataset protocol preset resize reduction"),
    (TENSOR, "inputs attributions images"),
    (COLOR, "mean std value thresholds"),
    (WORDS, "layers methods metrics similarity"),
    (PATH, "root out weights labels classes"),
    (BASELINE, "baselines black white"),
    (CURVES, "deletion insertion"),
]  # fmt: skip
BAD = {
    **{name: values for values, names in KINDS for name in names.split()},
    "target": [WORD, 1.5, [0.5], [[0]], (0, WORD), TWO[:0], TWO.double(), COMPLEX, {}, 3],
    "seed": [WORD, None, 2.5, True, TWO, 2**64],
    "generator": [0, WORD],
    "grad_kwargs": [WORD, True, ["retain_graph"], {"is_grads_batched": True}],
    "device_ids": [0, WORD, [WORD]],
    "layer": [WORD, None, [], [WORD]],
    "attribution_method": [WORD, None, 3, torch.square],
    "intensities": [WORD, None, [], [WORD], NAN, [1, INF], COMPLEX, True],
    "integrands": [WORD, 3, [], [WORD], [ConductanceIntegrand]],
    "model": [WORD, None, 3],
    "grid_size": [*COUNT, 7, (1, 2, 3)],
    "scales": [WORD, None, [], 50, [0], [WORD], [NAN]],
    "regions": [WORD, None, 3, X, [X], [WORD]],
    "size": [7, WORD, (6,), (6, 0), (6, WORD)],
    "hits": [WORD, None, [1.0], X],
    "categories": [WORD, None, [1], X],
    "titles": [WORD, 3, ["one"], [1, 2]],
    "boxes": [WORD, 3, [1, 2], torch.zeros(3, 4), torch.zeros(2, 5)],
    "device": ["abacus", 1.5, [0]],
    "split": [3, "1812-test"],
    "reshape": [WORD, 3, [0.5]],
    "cmap": [WORD, 3, [0.5]],
}  # fmt: skip
# Where more fits, or an argument of this name is of another kind.
BUT = {
    ("GroupCam.attribute", "denoise_percentile"): [v for v in NUMBER if v is not None],
    ("GroupCamBlend", "confidence_func"): [WORD, 3],
    ("randomization_check", "target"): [],  # the user's own
    ("AugmentationTunnel.attribute", "kwargs"): [],  # checked by what it explains with
    ("evaluate", "explain"): CHOICE,
    ("evaluate", "target"): CHOICE,
    ("evaluate", "size"): COUNT,
    ("evaluate", "model"): [3, [WORD]],
    ("evaluate", "sanity_pictures"): [WORD, None, -1, 2.5],
    ("evaluate", "mean"): [WORD, 0.5, [0.1, 0.2], [NAN, 0.1, 0.2]],
    ("evaluate", "std"): [WORD, 0.5, [0.1, 0.2], [0, 0.1, 0.2]],
}
# The words for an argument that is passed on to what has another name for it.
ALSO = {
    "blur_kernel_size": "the blur's kernel size",
    "kernel_size": "the blur's kernel size",
    "blur_sigma": "the blur's sigma",
    "sigma": "the blur's sigma",
}


def public():
    """Every public callable, with arguments that fit and take little time."""
    model, maps = network(), random(2, 1, 3, 3)
    fits = {
        "forward_func": model,
        "layer": model.layer,
        "inputs": X,
        "baselines": 0,
        "attributions": maps,
        "target": 0,
        "regions": torch.ones(2, 6, 6, dtype=torch.bool),
        "thresholds": 0.5,
        "hits": torch.ones(2),
        "categories": TWO,
        "explain": lambda model, x, target: maps,
        "model": model,
        "attribute": model,
        "attribution_method": captum_cams.LayerCam(model, model.layer),
        "mean": 0,
        "std": 1,
        "value": 0,
        "f": torch.square,
        "images": torch.rand(2, 3, 6, 6),
        "similarity": ["ssim"],
        "kernel_size": 3,
        "n_steps": 2,
        "groups": 2,
        "n_masks": 5,
        "grid_size": 2,
        "nt_samples": 2,
    }
    named = {
        "AugmentationTunnel.attribute": {"target": 0},
        "panel": {"attributions": {"a": maps}},
        "curves": {"deletion": {"a": torch.ones(2, 3)}},
        "quadrature": {"method": "riemann_left"},
        "evaluate": {
            "model": None,
            "explain": "probabilities",
            "target": "label",
            "mean": None,
            "std": None,
            "methods": "grad-cam",
            "metrics": "heatmap_mean",
            "limit": 1,
            "protocol": "group-cam",
        },
    }
    found = [getattr(captum_cams, name) for name in captum_cams.__all__]
    methods = [kind for kind in found if isinstance(kind, type)]
    made = [
        kind(fits["attribution_method"])
        if kind is captum_cams.AugmentationTunnel
        else kind(model, *[model.layer] * issubclass(kind, LayerAttribution))
        for kind in methods
    ]
    functions = [getattr(metrics, name) for name in metrics.__all__]
    named_functions = {
        **{kind.__name__: kind for kind in methods},
        **{f"{type(one).__name__}.attribute": one.attribute for one in made},
        "LayerRSIGradCam.conductance": LayerRSIGradCam(model, model.layer).conductance,
        **{f.__name__: f for f in functions if not isinstance(f, type)},
        **{f.__name__: f for f in (blurred, black, constant, uniform_noise, neutral)},
        **{f.__name__: f for f in (blur_path, quadrature, reparametrized)},
        **{
            f.__name__: f
            for f in (overlay, panel, blend, curves, GroupCamBlend, evaluate)
        },
        **{kind.__name__: kind for kind in SCORES},
    }
    for name, function in named_functions.items():
        known = inspect.signature(function).parameters
        fitting = {key: value for key, value in fits.items() if key in known}
        yield name, function, fitting | named.get(name, {})


PUBLIC = {name: (function, fitting) for name, function, fitting in public()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_of_everything_public(name, tmp_path):
    """One sentence that names the argument; one that is not in the table fails."""
    function, fitting = PUBLIC[name]
    fitting = fitting | {"out": tmp_path} if name == "evaluate" else fitting
    faults = []
    for argument, parameter in inspect.signature(function).parameters.items():
        if argument == "additional_forward_args":  # the model's own
            continue
        values = BUT[name, argument] if (name, argument) in BUT else BAD[argument]
        for value in values:
            if value is None and parameter.default is None:
                continue
            try:
                function(**{**fitting, argument: value})
            except (TypeError, ValueError) as error:
                words = str(error)
                named = argument in words or ALSO.get(argument, "?") in words
                teaches = re.search("(must|is for) .*, got |cannot use device", words)
                if not named or not teaches:
                    faults.append(f"{argument} = {value}: {words}")
            else:
                faults.append(f"{argument} = {value} passes")
    assert not faults, "\n".join(faults)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("LayerRSIGradCam.attribute", "tolerance", 0.25),
        ("LayerRSIGradCam.attribute", "n_steps", 3),
        ("LayerIntegratedGradCam.attribute", "tolerance", 0.25),
        ("LayerSmoothGradCamPlusPlus.attribute", "stdevs", 0.25),
        ("LayerSmoothGradCamPlusPlus.attribute", "seed", 3),
        ("SmoothGrad.attribute", "noise_level", 0.25),
        ("GroupCam.attribute", "denoise_percentile", 60.0),
        ("GroupCam.attribute", "baselines", 0.5),
        ("ScoreCam.attribute", "channel_fraction", 0.5),
        ("Rise.attribute", "probability", 0.25),
        ("Rise.attribute", "tolerance", 0.25),
        ("average_drop", "top_fraction", 0.15),
        ("pointing_game", "tolerance", 2.0),
        ("normalize", "eps", 0.125),
        ("blurred", "sigma", 2.0),
        ("neutral", "lr", 0.5),
        ("constant", "std", 0.5),
    ],
)
def test_numbers_of_other_kinds_are_numbers(name, argument, value):
    """Of numpy, tensors without axes, and fractions; 0.15 is the decimal."""
    function, fitting = PUBLIC[name]

    def result(number):
        return function(**{**fitting, argument: number})

    if isinstance(value, int):
        kinds = [np.int64, np.int32, np.uint8, torch.tensor]
    else:
        kinds = [np.float64, np.float32, lambda number: Fraction(str(number))]
        kinds += [lambda number: torch.tensor(number, dtype=torch.float64)]
    expected = result(value)
    for kind in kinds:
        assert torch.equal(result(kind(value)), expected)


def test_one_word_is_a_list_of_one(tmp_path):
    """Of the evaluation's lists; the second run is the first one."""
    settings = {"limit": 1, "protocol": "group-cam"}
    one = {"methods": "grad-cam", "metrics": "heatmap_mean", "layers": "block4"}
    expected = list(evaluate(tmp_path, **one, **settings))
    several = {name: [word] for name, word in one.items()}
    assert list(evaluate(tmp_path, **several, **settings)) == expected
    with raises(ValueError, "protocol must be one of 'all', 'rsi', 'igc', 'group-cam'"):
        evaluate(tmp_path, protocol=["group-cam"])
    with raises(ValueError, "a method must be a name like 'grad-cam' or"):
        parse_method(3)


def test_one_similarity_is_a_list_of_one():
    function, fitting = PUBLIC["randomization_check"]
    plain = function(**fitting, layers=["head.0"])
    word = function(**fitting | {"similarity": "ssim"}, layers=["head.0"])
    assert torch.equal(plain["head.0"]["ssim"], word["head.0"]["ssim"])


# Mistakes with the form of inputs, and how the message tells the remedy.
PICTURES = random(2, 3, 12, 12).float()
FORMS = {
    "no batch dimension": (PICTURES[0], "got torch.float32 of shape (3, 12, 12); pass inputs.unsqueeze(0)"),
    "double": (PICTURES.double(), "got torch.float64 of shape (2, 3, 12, 12); pass inputs.to(torch.float32), in the range"),
    "bytes": (PICTURES.byte(), ""),
    "array": (PICTURES.numpy(), "got ndarray; convert arrays with torch.from_numpy()"),
    "picture": (Image.new("RGB", (12, 12)), "got Image; convert pictures with torchvision.transforms.functional.to_tensor(), and .unsqueeze(0)"),
    "list": (PICTURES.tolist(), "got list"),
}  # fmt: skip
TAKE_INTEGERS = (
    GradientCamAttribution,
    captum_cams.LayerAblationCam,
    captum_cams.LayerEigenCam,
)


def convolutional():
    """A network in single precision that refuses pictures without a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
        return TwoPart(nn.Conv2d(3, 4, 3), head)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", OURS)
def test_inputs_in_another_form(name, form):
    """In the user's words, wherever the model takes another form."""
    if name == "xrai":
        pytest.importorskip("skimage")
    value, words = FORMS[form]
    model = convolutional()
    if form == "bytes":
        words = (
            "inputs must be of the dtype that forward_func takes, torch.float32, got"
            if issubclass(METHODS[name].attribution, TAKE_INTEGERS)
            else "inputs must be of a floating dtype, got torch.uint8; convert them"
        )
    if name == "xrai" and form == "no batch dimension":
        words = "got (3, 12, 12); pass one picture (C, H, W) as inputs.unsqueeze(0)"
    with pytest.raises((TypeError, ValueError), match=re.escape(words)) as caught:
        explain(name, model, model.layer, value, target=0)
    assert str(caught.value).startswith("inputs must")


def test_other_errors_of_a_model_stay_its_own():
    """No remedy is told that would not help, and no state is left by looking for it."""
    model = convolutional()
    with raises(RuntimeError, "to have 3 channels, but got 1 channels"):
        attribute(LayerRSIGradCam, model, PICTURES[:, :1])
    broken = TwoPart(nn.Identity(), Function(lambda A: A.missing))
    with raises(AttributeError, "missing"):
        attribute(LayerRSIGradCam, broken)
    # A linear layer takes any number of axes: the target is to blame.
    linear = TwoPart(nn.Identity(), nn.Linear(3, 4).double())
    with raises(ValueError, "got an index into 2 of its axes"):
        attribute(LayerRSIGradCam, linear, random(2, 3), target=(0, 1))


def test_messages_count_the_users_examples():
    """Not the rows that happen to go through the network together."""
    for target, words in (
        (None, "from an output of shape (2, 3), got None"),
        (7, "target must lie in [0, 2] for an output of shape (2, 3), got 7"),
    ):
        for size in (1, 2, 5):
            for method in ALL:
                with raises(ValueError, words):
                    attribute(method, target=target, internal_batch_size=size)


def test_what_stands_for_a_model_a_layer_or_a_target():
    model = network()
    for kind in (LayerRSIGradCam, GroupCam, captum_cams.Rise, captum_cams.Xrai):
        layer = [model.layer] * issubclass(kind, LayerAttribution)
        with raises(
            TypeError,
            "forward_func must be a model or a function, got the class TwoPart; pass an instance of it, TwoPart(...)",
        ):
            kind(TwoPart, *layer)
    with raises(TypeError, "got str; pass model.get_submodule('layer')"):
        GroupCam(model, "layer")
    with raises(
        TypeError,
        "got torch.float64; pass indices of classes, of one-hot rows their .argmax(1)",
    ):
        attribute(GroupCam, target=torch.eye(3, dtype=torch.float64)[:2])
    with raises(TypeError, "got ndarray; convert arrays with torch.from_numpy()"):
        attribute(GroupCam, target=np.array([0, 1]))
    with raises(
        TypeError, "baselines must be tensors or numbers, got ndarray; convert"
    ):
        attribute(GroupCam, baselines=X.numpy())
    with raises(
        ValueError, "shape (1, 1, 3, 3); pass inputs.unsqueeze(0) where their batch"
    ):
        metrics.average_drop(model, X[0], random(1, 1, 3, 3), target=0)
    with raises(ValueError, "black must have the inputs' shape"):
        captum_cams.Xrai(model).attribute(X, black=X[:, :1])
