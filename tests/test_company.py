"""Wherever Captum's classes work: its helpers, its targets, any kind of model."""

import re
from contextlib import suppress
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from captum._utils.common import _select_targets
from captum.attr import (
    DataLoaderAttribution,
    LayerAttribution,
    LayerGradCam,
    LayerGradientXActivation,
    NoiseTunnel,
)
from captum.attr import visualization as captums
from captum.metrics import infidelity, sensitivity_max
from matplotlib.figure import Figure
from torch import nn

from captum_cams import LayerAblationCam, LayerEigenCam, metrics
from captum_cams.attr.gradient_cams import GradientCamAttribution
from captum_cams.attr.registry import METHODS
from captum_cams.layer_eval import TargetOutput
from captum_cams.masks import upsample
from captum_cams.metrics import explanation_func
from tests.methods import OF_LAYER, OURS, SMALL, WITH_LAYER, build, explain
from tests.models import Function, Scale, network, random

X = random(2, 2, 6, 6)
BOTH = torch.tensor([2, 0])

# The methods that take several layers take a layer of several tensors, too.
TUPLES = [name for name in WITH_LAYER if METHODS[name].several_layers]

close = torch.testing.assert_close
# Methods of one score: Finer-CAM compares it with the other ones.
ONE_SCORE = [name for name in OURS if name != "finer-cam"]


def at_inputs(maps, inputs):
    """As infidelity wants them: a value for each element of the inputs."""
    return upsample(maps, inputs.shape[2:]).expand_as(inputs)


class TestHelpers:
    @pytest.mark.parametrize("name", OURS)
    @pytest.mark.parametrize("batch", [None, 1])
    def test_noise_tunnel(self, name, batch):
        """Without noise: the map, its square and no variance; targets are repeated."""
        model = network()
        kinds = {"smoothgrad": 1, "smoothgrad_sq": 2}
        small = dict(SMALL.get(name, {}))
        small.pop("nt_samples", None)  # the tunnel has an argument of this name
        attribution = build(name, model, model.layer)
        tunnel = NoiseTunnel(attribution)
        maps = attribution.attribute(X, target=BOTH, **small)
        for kind, power in kinds.items():
            smooth = tunnel.attribute(
                X, nt_type=kind, nt_samples=3, stdevs=0.0, target=BOTH,
                nt_samples_batch_size=batch, **small,
            )  # fmt: skip
            close(smooth, maps**power)
        varied = tunnel.attribute(
            X, nt_type="vargrad", nt_samples=3, stdevs=0.0, target=BOTH,
            nt_samples_batch_size=batch, **small,
        )  # fmt: skip
        close(varied, torch.zeros_like(maps))

    def test_noise_tunnel_with_a_convergence_delta(self):
        model = network()
        tunnel = NoiseTunnel(build("rsi-grad-cam", model, model.layer))
        maps, delta = tunnel.attribute(
            X,
            nt_samples=3,
            target=BOTH,
            n_steps=3,
            baselines=0 * X,
            return_convergence_delta=True,
        )
        assert maps.shape == (2, 1, 3, 3) and delta.shape == (6,)

    @pytest.mark.parametrize("name", OURS)
    def test_infidelity(self, name):
        """All is taken away: (sum of x times the map - (y - y(0)))^2."""
        model = network()
        attributions = at_inputs(explain(name, model, model.layer, X, target=BOTH), X)
        values = infidelity(
            model,
            lambda x: (x, 0 * x),
            X,
            attributions,
            target=BOTH,
            n_perturb_samples=2,
        )
        with torch.no_grad():
            rise = (model(X) - model(0 * X)).gather(1, BOTH[:, None])[:, 0]
        close(values, ((X * attributions).sum((1, 2, 3)) - rise) ** 2)

    @pytest.mark.parametrize("name", OURS)
    @pytest.mark.parametrize("examples", [1, 2, 3])
    def test_sensitivity_max(self, name, examples):
        model, x = network(), random(examples, 2, 6, 6)
        target = torch.arange(examples)
        attribution = build(name, model, model.layer)
        values = sensitivity_max(
            explanation_func(attribution.attribute), x, lambda x: x + 0.1,
            n_perturb_samples=4, target=target, **SMALL.get(name, {}),
        )  # fmt: skip
        maps, near = (
            explain(name, model, model.layer, x + shift, target=target).flatten(1)
            for shift in (0, 0.1)
        )
        norms = maps.norm(dim=1)
        close(values, (near - maps).norm(dim=1) / torch.where(norms == 0, 1, norms))

    def test_sensitivity_max_of_layers_and_inputs_in_tuples(self):
        model = network()
        attribution = build("rsi-grad-cam", model, [model.layer, model.head[0]])
        explain_both = explanation_func(attribution.attribute)
        maps = explain_both(X, target=0, n_steps=2)
        assert isinstance(maps, tuple) and len(maps) == 2
        values = sensitivity_max(explain_both, X, target=0, n_steps=2)
        assert values.shape == (2,) and values.isfinite().all()

    @pytest.mark.parametrize("name", WITH_LAYER)
    def test_interpolate(self, name):
        model = network()
        maps = explain(name, model, model.layer, X, target=0)
        attribution = build(name, model, model.layer)
        full = attribution.interpolate(maps, (12, 9), "bilinear")
        close(full, LayerAttribution.interpolate(maps, (12, 9), "bilinear"))
        close(full, upsample(maps, (12, 9)))

    @pytest.mark.parametrize("name", OURS)
    def test_visualize_image_attr(self, name):
        """Of maps and pictures with the channels last."""
        model = network()
        maps = at_inputs(explain(name, model, model.layer, X, target=0) + 0.1, X[:, :1])
        figure = Figure()
        _, axes = captums.visualize_image_attr(
            maps[0].movedim(0, -1).numpy(),
            X.sigmoid()[0, [0, 0, 1]].movedim(0, -1).numpy(),
            method="blended_heat_map",
            sign="positive",
            plt_fig_axis=(figure, figure.add_subplot()),
            use_pyplot=False,
        )
        shown = axes.get_images()[-1].get_array()
        assert shown.shape == (6, 6) and 0 <= shown.min() <= shown.max() <= 1

    @pytest.mark.parametrize("name", OURS)
    def test_data_loader_attribution_is_for_captums_ablations(self, name):
        """It knows its methods by their class, and says so."""
        model = network()
        with pytest.raises(AssertionError, match="does not support"):
            DataLoaderAttribution(build(name, model, model.layer))


def taken():
    """Targets and outputs of which Captum selects one number for each example."""
    shapes = [(3, 4), (1, 4), (3, 1), (1, 1), (3, 4, 1), (3, 4, 2), (1, 4, 2), (3,), (1,)]  # fmt: skip
    one, three = torch.tensor(1), torch.tensor([2, 0, 3])
    forms = [
        None, 0, 2, -1, (), (1,), (-2,), (2, 1), (2, 0), (one,), (one[None], 1), (np.int64(1),),
        one, one[None], one[None, None], -one[None, None, None], one.to(torch.uint8), one[None, None].int(),
        three, three.int(), three.to(torch.int16), [0], [3], [2, 0, 3], [(1,)], [(2, 1)],
        [(2, 1), (0, 0), (3, 1)], [(2,), (0,), (3,)], [(one,), (0,), (-1,)], [(), (), ()],
    ]  # fmt: skip
    for target, shape in product(forms, shapes):
        with suppress(AssertionError, IndexError, RuntimeError):
            if _select_targets(torch.zeros(shape), target).numel() == shape[0]:
                yield target, shape


class TestTargets:
    @pytest.mark.parametrize("name", OURS)
    @pytest.mark.parametrize(
        ("target", "same"),
        [
            ((2,), [2, 2]),
            (torch.tensor(2), [2, 2]),
            (torch.tensor([2]), [2, 2]),
            ([2], [2, 2]),
            ([2, 0], [2, 0]),
            (BOTH, [2, 0]),
            (BOTH.int(), [2, 0]),
            ([(2,), (0,)], [2, 0]),
            (-1, [2, 2]),
        ],
    )
    def test_classes(self, name, target, same):
        model = network()
        maps = explain(name, model, model.layer, X, target=target)
        for n in range(2):
            alone = explain(name, model, model.layer, X[n : n + 1], target=same[n])
            close(maps[n : n + 1], alone)

    @pytest.mark.parametrize("name", OURS)
    def test_scores_of_several_axes(self, name):
        """A segmentation's map of scores: a class at a place."""
        model = network()
        scores = Function(
            lambda x: model(x).unsqueeze(2) * x.new_tensor([1, 2])
        )  # (N, 3, 2)
        plain = explain(name, model, model.layer, X, target=BOTH)
        for target in ((2, 0), [(2, 0), (0, 0)]):
            maps = explain(name, scores, model.layer, X, target=target)
            close(maps[:1], plain[:1])
        close(maps, plain)

    @pytest.mark.parametrize("name", ONE_SCORE)
    def test_no_target_of_one_score(self, name):
        model = network()
        expected = explain(name, model, model.layer, X, target=1)
        for score in (lambda x: model(x)[:, 1], lambda x: model(x)[:, 1:2]):
            close(explain(name, score, model.layer, X), expected)
        alone = explain(
            name, lambda x: model(x)[0, 1], model.layer, X[:1], internal_batch_size=1
        )
        close(alone, expected[:1])

    @pytest.mark.parametrize(("target", "shape"), [*taken()], ids=str)
    def test_what_captum_takes_is_taken_alike(self, target, shape):
        output = random(*shape)
        x = torch.zeros(len(output), 1)
        y = TargetOutput(lambda x: output, (x,), target)((x,), torch.arange(len(x)))
        assert torch.equal(y, _select_targets(output, target).flatten())

    @pytest.mark.parametrize(
        "target",
        [
            np.int64(2),
            np.uint8(2),
            [2],
            [np.int64(2)] * 3,
            [torch.tensor(2)] * 3,
            [torch.tensor([2])] * 3,
            [(2,), 2, torch.tensor(2)],
            torch.full((3, 1), 2),
            torch.full((3,), 2, dtype=torch.uint8),
            torch.full((3,), -2),
        ],
        ids=str,
    )
    def test_what_is_clear_is_taken_where_captum_refuses(self, target):
        output, x = random(3, 4), torch.zeros(3, 1)
        with pytest.raises((AssertionError, RuntimeError, TypeError)):
            _select_targets(output, target)
        y = TargetOutput(lambda x: output, (x,), target)((x,), torch.arange(3))
        assert torch.equal(y, output[:, 2])

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            (torch.zeros(3, 2).long(), "or be of shape (3,) or (3, 1), got shape (3, 2)"),
            (torch.zeros(1, 3).long(), "got shape (1, 3)"),
            (torch.zeros(2).long(), "one index for all examples or one for each, 3, got 2"),
            (torch.zeros(2, 1).long(), "one for each, 3, got 2"),
            (torch.zeros(0).long(), "one for each, 3, got 0"),
            ([], "one for each, 3, got 0"),
            ([0, 1], "one for each, 3, got 2"),
            (torch.ones(3), "target must hold integers, got torch.float32"),
            (torch.tensor(1.0), "target must hold integers, got torch.float32"),
            (torch.ones(3).bool(), "target must hold integers, got torch.bool"),
            (torch.ones(3) * 1j, "target must hold integers, got torch.complex64"),
            ([[0], [1], [2]], "a list of integers or tuples, got list"),
            ([torch.zeros(2).long()] * 3, "got a tensor of shape (2,)"),
            (np.arange(3), "got ndarray"),
            ("cat", "got 'cat'"),
            ((slice(0, 1),), "got tuple"),
            ([(0,), (0, 1), (0,)], "the same number of axes for every example"),
        ],
        ids=str,
    )  # fmt: skip
    def test_what_does_not_fit_is_told(self, target, words):
        with pytest.raises((TypeError, ValueError), match=re.escape(words)):
            TargetOutput(lambda x: random(3, 4), (torch.zeros(3, 1),), target)

    @pytest.mark.parametrize("name", OURS)
    def test_the_best_class_of_a_batch(self, name):
        """As topk gives it, for one example and for two."""
        model = network()
        best = model(X).topk(1).indices  # (2, 1)
        maps = explain(name, model, model.layer, X, target=best)
        close(maps, explain(name, model, model.layer, X, target=best[:, 0]))
        close(explain(name, model, model.layer, X[:1], target=best[:1]), maps[:1])

    @pytest.mark.parametrize(
        "metric", [metrics.average_drop, metrics.increase_in_confidence, metrics.deletion_auc, metrics.insertion_auc, metrics.overall]
    )  # fmt: skip
    def test_the_best_class_in_metrics(self, metric):
        model, maps = network(), random(2, 1, 3, 3)
        best = model(X).topk(1).indices  # (2, 1)
        values = metric(model, X, maps, 0, target=best)
        assert torch.equal(values, metric(model, X, maps, 0, target=best[:, 0]))
        alone = metric(model, X[:1], maps[:1], 0, target=best[:1])
        close(alone, values[:1])


class Text(nn.Module):
    """Scores of words: an embedding, a convolution or attention, and a linear head."""

    def __init__(self, attention=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding = nn.Embedding(11, 6)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
            self.convolution = nn.Conv1d(6, 5, 3, padding=1)
            self.head = nn.Linear(5, 3)
        self.attends = attention
        self.double().eval()

    def forward(self, tokens, scale=1.0, mask=None):
        words = self.embedding(tokens)  # (N, T, 6)
        if self.attends:
            words = self.attention(words, words, words, need_weights=False)[0]
        features = self.convolution(words.transpose(1, 2)).tanh()  # (N, 5, T)
        if mask is not None:
            features = features * mask.unsqueeze(1)
        return self.head(features.mean(2) * scale)


TOKENS = torch.tensor([[1, 4, 0, 7, 2], [3, 3, 9, 10, 0], [8, 1, 5, 5, 6]])
INTEGER = [
    name
    for name in OURS
    if issubclass(
        METHODS[name].attribution,
        (GradientCamAttribution, LayerAblationCam, LayerEigenCam),
    )
]


class TestIntegers:
    """Tokens are looked up in a table; nothing but the layer is differentiated."""

    @pytest.mark.parametrize("name", INTEGER)
    @pytest.mark.parametrize("attention", [False, True])
    @pytest.mark.parametrize("layer", ["embedding", "convolution"])
    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
    def test_tokens(self, name, attention, layer, dtype):
        """The same maps as of numbers that the model rounds itself, in any batch."""
        model, target = Text(attention), torch.tensor([2, 0, 1])
        mask = random(3, 5, seed=1).sigmoid()
        options = {"target": target, "additional_forward_args": (0.5, mask)}
        layer = getattr(model, layer)
        expected = explain(
            name, lambda x, *more: model(x.long(), *more), layer, TOKENS.double(),
            **options,
        )  # fmt: skip
        for batch in (None, 1, 2):
            maps = explain(
                name, model, layer, TOKENS.to(dtype), internal_batch_size=batch, **options
            )  # fmt: skip
            close(maps, expected)

    @pytest.mark.parametrize("layer", ["embedding", "convolution"])
    def test_as_captum(self, layer):
        model = Text()
        with torch.no_grad():  # Grad-CAM of positive gradients is then Grad-CAM
            model.head.weight.abs_()
            model.convolution.weight.abs_()
        layer = getattr(model, layer)
        options = {"relu_attributions": True}
        for batch in (None, 2):
            ours = explain(
                "positive-grad-cam", model, layer, TOKENS, target=1, internal_batch_size=batch
            )  # fmt: skip
            close(
                ours,
                LayerGradCam(model, layer).attribute(TOKENS, 1, **options).detach(),
            )
            ours = explain(
                "hi-res-cam", model, layer, TOKENS, target=1, internal_batch_size=batch
            )  # fmt: skip
            parts = LayerGradientXActivation(model, layer).attribute(TOKENS, 1)
            close(ours, parts.detach().sum(1, keepdim=True).relu())

    @pytest.mark.parametrize("name", INTEGER)
    def test_yes_and_no_and_mixed_inputs(self, name):
        model, words = network(), Text()
        yes = X > 0
        maps = explain(name, lambda x: model(x.double()), model.layer, yes, target=BOTH)
        close(maps, explain(name, model, model.layer, yes.double(), target=BOTH))
        maps = explain(
            name, lambda x, t: model(x) * words(t), model.layer, (X, TOKENS[:2]),
            target=BOTH,
        )  # fmt: skip
        assert maps.isfinite().all() and maps.shape == (2, 1, 3, 3)

    @pytest.mark.parametrize("name", [name for name in OURS if name not in INTEGER])
    def test_paths_masks_and_noise_need_numbers_between(self, name):
        model = Text()
        words = "inputs must be of a floating dtype, got torch.int64.*token ids"
        with pytest.raises(TypeError, match=words):
            explain(name, model, model.convolution, TOKENS, target=0)

    @pytest.mark.parametrize("name", INTEGER)
    def test_complex_numbers_are_none(self, name):
        with pytest.raises(TypeError, match="inputs must hold real numbers"):
            explain(name, network(), network().layer, X * 1j, target=0)


class TestForwardFunctions:
    @pytest.mark.parametrize("name", OURS)
    def test_functions_and_methods(self, name):
        model = network()
        expected = explain(name, model, model.layer, X, target=1)
        forwards = [
            model.forward,
            lambda x: model(x),
            partial(model),
            nn.Sequential(model),
        ]
        for forward in forwards:
            close(explain(name, forward, model.layer, X, target=1), expected)

    @pytest.mark.parametrize("name", OURS)
    def test_additional_forward_args(self, name):
        """Of each example, of all, of no number, and the next model's flags."""
        model, shift = network(), random(2, 1, 1, 1, seed=1)
        common, factor = random(1, 2, 6, 6, seed=2), torch.tensor(0.5).double()

        def forward(x, shift, common, factor, flag=None, *, always=True):
            assert flag == "kept" and always
            assert len(shift) == len(x) and factor.dim() == 0 and len(common) == 1
            return model(x + factor * shift + common)

        arguments = (shift, common, factor, "kept")
        maps = explain(
            name,
            forward,
            model.layer,
            X,
            target=BOTH,
            additional_forward_args=arguments,
        )
        for n in range(2):
            rows = slice(n, n + 1)
            plain = explain(
                name, lambda x, rows=rows: model(x + factor * shift[rows] + common),
                model.layer, X[rows], target=BOTH[rows],
            )  # fmt: skip
            close(maps[rows], plain)
        one = explain(name, lambda x, s: model(x + s), model.layer, X, target=1, additional_forward_args=shift)  # fmt: skip
        assert one.shape == maps.shape

    @pytest.mark.parametrize("name", [name for name in OURS if name != "xrai"])
    def test_several_inputs(self, name):
        """Two pictures of a channel each are one picture of two channels."""
        model = network()
        expected = explain(name, model, model.layer, X, target=BOTH)
        options = {"baselines": (0, 0.0)} if name == "group-cam" else {}
        maps = explain(
            name, lambda a, b: model(torch.cat([a, b], 1)), model.layer,
            (X[:, :1], X[:, 1:]), target=BOTH, **options,
        )  # fmt: skip
        if name == "smooth-grad-cam-plus-plus":  # the noise is another
            assert maps.shape == expected.shape
        elif name == "smooth-grad":  # as is that of each input
            assert [part.shape for part in maps] == [expected.shape] * 2
        elif name not in OF_LAYER:  # a map over each input
            assert isinstance(maps, tuple)
            for part in maps:
                close(part, expected)
        else:
            close(maps, expected)

    def test_xrai_takes_one_picture(self):
        with pytest.raises(ValueError, match="must be pictures"):
            explain("xrai", network(), None, (X, X), target=0)

    @pytest.mark.parametrize("name", OURS)
    def test_segmentation_through_a_wrapper(self, name):
        """The mean score of a class, over a dict of maps."""
        model = network()
        deep = Function(
            lambda x: {"out": model(x)[:, :, None, None].expand(-1, -1, 4, 4)}
        )
        words = "forward_func must return a tensor, got dict; wrap it"
        with pytest.raises(TypeError, match=words):
            explain(name, deep, model.layer, X, target=0)
        whole = re.escape("target must select one number of each example from an output of shape (2, 3, 4, 4)")  # fmt: skip
        with pytest.raises(ValueError, match=whole):
            explain(
                name,
                lambda x: deep(x)["out"],
                model.layer,
                X,
                target=0,
                internal_batch_size=2,
            )
        maps = explain(
            name, lambda x: deep(x)["out"].mean((2, 3)), model.layer, X, target=BOTH
        )
        close(maps, explain(name, model, model.layer, X, target=BOTH))

    @pytest.mark.parametrize("name", ONE_SCORE)
    def test_detection_through_a_wrapper(self, name):
        """The best score of a class, of lists of boxes that differ in length."""
        model = network()

        def detector(pictures):
            found = []
            for n, scores in enumerate(model(pictures)):
                scores = scores[: 2 + n % 2]
                found.append({"scores": scores, "labels": torch.arange(len(scores))})
            return found

        def best(pictures, label):
            return torch.stack(
                [
                    one["scores"][one["labels"] == label].amax()
                    for one in detector(pictures)
                ]
            )

        maps = explain(name, best, model.layer, X, additional_forward_args=1)
        close(maps, explain(name, model, model.layer, X, target=1))


class TestLayers:
    @pytest.mark.parametrize("name", WITH_LAYER)
    def test_layer_input_is_the_output_of_the_layer_before(self, name):
        model = network()
        options = {"attribute_to_layer_input": True}
        behind = explain(name, model, model.layer[1], X, target=0, **options)
        close(behind, explain(name, model, model.layer[0], X, target=0))

    @pytest.mark.parametrize("name", TUPLES)
    def test_a_layer_that_gives_a_tuple(self, name):
        """Each tensor's map is that of a layer which gives it alone."""
        model = network()
        second = nn.Conv2d(2, 4, 3, padding=1).double()
        first, other, both = nn.Identity(), nn.Identity(), nn.Identity()

        def forward(x):
            a, b = both((first(model.layer(x)), other(second(x).tanh())))
            return model.head(a * b.mean((1, 2, 3), keepdim=True).exp())

        maps = explain(name, forward, both, X, target=BOTH)
        assert isinstance(maps, tuple)
        for layer, part in zip((first, other), maps, strict=True):
            close(part, explain(name, forward, layer, X, target=BOTH))

    @pytest.mark.parametrize("name", TUPLES)
    def test_a_list_of_layers(self, name):
        model = network()
        layers = [model.layer[0], model.head[1]]
        together = explain(name, model, layers, X, target=0)
        assert isinstance(together, list)
        for layer, maps in zip(layers, together, strict=True):
            close(maps, explain(name, model, layer, X, target=0))

    def test_a_list_of_layers_has_a_delta_each(self):
        model = network()
        cam = build("rsi-grad-cam", model, [model.layer, model.head[0]])
        options = {"target": 0, "n_steps": 50, "return_convergence_delta": True}
        maps, deltas = cam.attribute(X, **options)
        assert len(maps) == 2
        assert [delta.shape for delta in deltas] == [(2,), (2,)]

    @pytest.mark.parametrize("name", WITH_LAYER)
    def test_an_inplace_operation_behind_the_layer(self, name):
        maps = []
        for inplace in (False, True):
            model = network()
            model.head.insert(0, nn.ReLU(inplace))
            maps.append(explain(name, model, model.layer, X, target=BOTH))
        close(*maps)

    @pytest.mark.parametrize("name", WITH_LAYER)
    def test_a_layer_used_twice_counts_its_last_use(self, name):
        """As in Captum: the hook keeps what it saw last."""
        model, shared, last = network(), Scale(0.5), Scale(0.5)

        def forward(x, second):
            return model.head(second(model.layer(shared(x)).sinh()))

        options = {"target": BOTH}
        expected = explain(name, lambda x: forward(x, last), last, X, **options)
        with pytest.warns(UserWarning, match="is used 2 times in a pass"):
            maps = explain(name, lambda x: forward(x, shared), shared, X, **options)
        close(maps, expected)
