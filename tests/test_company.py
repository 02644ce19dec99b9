"""Wherever Captum's classes work: its helpers, its targets, any kind of model."""

import re
from functools import partial

import pytest
import torch
from captum.attr import DataLoaderAttribution, LayerAttribution, NoiseTunnel
from captum.attr import visualization as captums
from captum.metrics import infidelity, sensitivity_max
from matplotlib.figure import Figure
from torch import nn

from captum_cams.masks import upsample
from captum_cams.metrics import explanation_func
from tests.methods import OURS, SMALL, WITH_LAYER, build, explain
from tests.models import Function, Scale, network, random

X = random(2, 2, 6, 6)
BOTH = torch.tensor([2, 0])

# The methods of one map over the input, which several inputs share.
OVER_INPUTS = ["group-cam", "score-cam", "rise"]
ONE_TENSOR = ["group-cam", "score-cam", "ablation-cam"]
TUPLES = [name for name in WITH_LAYER if name not in ONE_TENSOR]

close = torch.testing.assert_close


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
        if name == "smooth-grad-cam-plus-plus":
            small = {}  # the tunnel has an `nt_samples` of its own
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

    @pytest.mark.parametrize("name", OURS)
    def test_no_target_of_one_score(self, name):
        model = network()
        expected = explain(name, model, model.layer, X, target=1)
        for score in (lambda x: model(x)[:, 1], lambda x: model(x)[:, 1:2]):
            close(explain(name, score, model.layer, X), expected)
        alone = explain(
            name, lambda x: model(x)[0, 1], model.layer, X[:1], internal_batch_size=1
        )
        close(alone, expected[:1])


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
        elif name in OVER_INPUTS:
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

    @pytest.mark.parametrize("name", OURS)
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
