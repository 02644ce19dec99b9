"""A method of a user's own, added in one file."""

import re
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from captum.attr import Attribution, LayerAttribution, LayerGradCam, Saliency
from PIL import Image
from torch import nn

from captum_cams import (
    LayerHiResCam,
    LayerPathIntegrals,
    LayerRSIGradCam,
    _explain,
    cli,
)
from captum_cams.attr.gradient_cams import GradientCamAttribution
from captum_cams.attr.registry import METHODS, Method, register
from captum_cams.attr.rsi_grad_cam import ConductanceIntegrand
from captum_cams.evaluation import evaluate
from captum_cams.evaluation.methods import parse_method
from captum_cams.evaluation.results import Records
from captum_cams.examples import shape_pictures, shapes_model
from captum_cams.reshape import vit_tokens
from tests import methods as tables_of_methods
from tests.models import Function, network, random

CAM = """
from captum_cams.attr.gradient_cams import GradientCamAttribution
from captum_cams.attr.registry import register


@register("absolute-grad-cam", several_layers=True, axioms={"dummy"}, homogeneity=1)
class LayerAbsoluteGradCam(GradientCamAttribution):
    '''Grad-CAM of the gradients' magnitudes.'''

    def weights(self, activations, gradients):
        return gradients.abs().mean((2, 3), keepdim=True)
"""
# Not registered; drawn by chance, with an argument, of one layer at a time.
PLAIN = """
import torch
from captum.attr import LayerAttribution, LayerGradCam

class Noisy(LayerAttribution):
    def attribute(self, inputs, target=None, n=1):
        maps = LayerGradCam(self.forward_func, self.layer).attribute(inputs, target)
        return maps.detach() + n * torch.rand_like(maps)

class Wide(LayerAttribution):
    def attribute(self, inputs, target=None):
        return LayerGradCam(self.forward_func, self.layer).attribute(
            inputs, target, attr_dim_summation=False
        )

class Broken(Noisy):
    def attribute(self, inputs, target=None):
        raise KeyError("no such thing")

class First(LayerAttribution):
    def attribute(self, inputs, target=None):
        return LayerGradCam(self.forward_func, self.layer[0]).attribute(inputs, target)

class Demanding(Noisy):
    def __init__(self, forward_func, layer, strength):
        super().__init__(forward_func, layer)

number = 3
"""
SHAPES = ["--model", "captum_cams.examples:shapes_model", "--size", "128"]
SETTINGS = {"layers": ["block4", "block5"], "size": 64, "limit": 2}
SETTINGS |= {"protocol": "group-cam", "metrics": ["heatmap_mean", "overall"]}


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder with a picture and code; what is registered in it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "path", [*map(str, map(Path.absolute, map(Path, sys.path)))]
    )
    monkeypatch.setattr(METHODS, "data", dict(METHODS))
    for name, text in (("user_cam", CAM), ("plain_cam", PLAIN)):
        Path(f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    picture = (shape_pictures(1).images[0] * 255).byte().movedim(0, -1).numpy()
    Image.fromarray(picture).save("picture.png")


def imported():
    sys.path.insert(0, str(Path.cwd()))
    import user_cam

    return user_cam.LayerAbsoluteGradCam


def maps_by_hand(kind, layers):
    model = shapes_model()
    drawn = [shape_pictures(1, 64, seed=10**7 + i) for i in range(2)]
    images = torch.cat([one.images for one in drawn])
    target = torch.cat([one.labels for one in drawn])
    modules = [getattr(model, layer) for layer in layers]
    return kind(model, modules).attribute(images, target=target)


def check_values(records, method, layers):
    """Means of the maps that the class itself gives."""
    wanted = maps_by_hand(imported(), layers)
    found = {(r["layer"], r["index"]): r for r in records}
    assert len(found) == 2 * len(layers)
    for layer, maps in zip(layers, wanted, strict=True):
        full = LayerRSIGradCam.interpolate(maps, (64, 64), "bilinear")
        for i in range(2):
            record = found[layer, i]
            assert record["method"] == method
            mean = full[i].mean().item()
            assert record["values"]["heatmap_mean"] == pytest.approx(mean, rel=1e-4)


def test_one_file_is_all_that_the_tables_of_the_tests_need():
    assert "absolute-grad-cam" not in METHODS
    kind = imported()
    assert METHODS["absolute-grad-cam"].attribution is kind
    tables = runpy.run_path(tables_of_methods.__file__)
    for name in ("METHOD_NAMES", "OURS", "WITH_LAYER", "OF_LAYER", "BY_GRADIENT"):
        assert "absolute-grad-cam" in tables[name]
    assert "absolute-grad-cam" in tables["with_axiom"]("dummy")
    assert "absolute-grad-cam" not in tables["with_axiom"]("linearity")
    model, x = network(), random(2, 2, 30, 30)
    for name in tables["BY_GRADIENT"]:
        assert tables["explain"](name, model, model.layer, x, target=0).shape[:2] == (
            2,
            1,
        )


@pytest.mark.parametrize("named", ["name", "module:class"])
def test_it_is_evaluated_with_several_layers_at_once(named, tmp_path, monkeypatch):
    asked = []
    kind = imported()
    attribute = kind.attribute
    monkeypatch.setattr(
        kind,
        "attribute",
        lambda cam, *rest, **more: (
            asked.append(cam.layer),
            attribute(cam, *rest, **more),
        )[1],
    )
    text = "absolute-grad-cam" if named == "name" else "user_cam:LayerAbsoluteGradCam"
    records = evaluate("out", methods=[text], **SETTINGS)
    assert any(isinstance(layer, list) and len(layer) == 2 for layer in asked)
    check_values(records, "absolute-grad-cam", SETTINGS["layers"])
    report = (tmp_path / "out/report.html").read_text("utf-8")
    assert "absolute-grad-cam" in report and "<figure>" in report
    # Done already: it goes on, and finds nothing to do.
    before = (tmp_path / "out/results-0.jsonl").read_bytes()
    assert list(evaluate("out", methods=[text], **SETTINGS)) == list(records)
    assert (tmp_path / "out/results-0.jsonl").read_bytes() == before


def test_it_is_assigned_as_well_as_registered():
    METHODS["hi-res-cam-signed"] = Method(
        LayerHiResCam, defaults={"relu_attributions": False}, several_layers=True
    )
    records = list(evaluate("out", methods=["hi-res-cam-signed"], **SETTINGS))
    assert {record["method"] for record in records} == {"hi-res-cam-signed"}


def test_the_commands_find_it_by_its_module(capsys, tmp_path):
    text = "user_cam:LayerAbsoluteGradCam"
    arguments = ["explain", "picture.png", *SHAPES, "--methods", "grad-cam", text]
    assert cli.main([*arguments, "--layer", "block5"]) == 0
    assert Path("picture-figure.png").stat().st_size > 0
    options = ["--layers", "block4,block5", "--size", "64", "--limit", "2"]
    options += ["--protocol", "group-cam", "--metrics", "heatmap_mean"]
    assert cli.main(["evaluate", "--methods", text, *options, "--out", "out"]) == 0
    records = Records(tmp_path / "out")
    assert records.run["methods"] == {"group-cam": ["absolute-grad-cam"]}
    check_values(records, "absolute-grad-cam", ["block4", "block5"])
    # Its name is enough from then on, and "all" takes it too.
    assert parse_method("absolute-grad-cam(relu_attributions=False)").arguments
    assert "absolute-grad-cam" in [
        spec.name for spec in _explain.find_specs(["all"], nn.ReLU())
    ]


def test_a_class_that_is_not_registered_goes_by_its_module_and_name(tmp_path, capsys):
    text = "plain_cam:Noisy(n=3)"
    spec = parse_method(text)
    assert (spec.label, spec.name, dict(spec.arguments)) == (
        text,
        "plain_cam:Noisy",
        {"n": 3},
    )
    assert spec.method == Method(sys.modules["plain_cam"].Noisy)
    assert parse_method(spec.label) == spec
    assert parse_method("captum.attr:LayerGradCam") == parse_method("grad-cam")
    methods = ["--methods", text, "plain_cam:Noisy"]
    assert cli.main(["explain", "picture.png", *SHAPES, *methods]) == 0
    whole = list(evaluate("whole", methods=[text], **SETTINGS))
    assert {record["method"] for record in whole} == {text}
    assert "plain_cam:Noisy(n=3)" in (tmp_path / "whole/report.html").read_text("utf-8")
    # It draws numbers by chance: those of a run that goes on are the same.
    evaluate("cut", methods=[text], batch_size=1, **SETTINGS)
    records = tmp_path / "cut/results-0.jsonl"
    content = records.read_bytes()
    records.write_bytes(content[: len(content) // 2])
    again = evaluate("cut", methods=[text], batch_size=1, **SETTINGS)
    wanted = [re.sub(rb'"seconds": [^}]*', b"", line) for line in content.splitlines()]
    found = [
        re.sub(rb'"seconds": [^}]*', b"", line)
        for line in records.read_bytes().splitlines()
    ]
    assert found == wanted
    assert len(list(again)) == 4
    # Chance of the caller's own is left as it was.
    torch.manual_seed(0)
    state = torch.get_rng_state()
    evaluate("other", methods=[text], **SETTINGS)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing:Cam", "cannot import method nothing:Cam: ModuleNotFoundError: No module named 'nothing'"),
        ("plain_cam:Nothing", "cannot import method plain_cam:Nothing: AttributeError: module 'plain_cam' has no"),
        (":Noisy", "cannot import method :Noisy: ValueError: Empty module name"),
        ("plain_cam:", "cannot import method plain_cam:: AttributeError: module 'plain_cam' has no"),
        ("plain_cam:number", "plain_cam:number is no method: attribution must be a class of captum.attr.Attribution, got 3"),
        ("torch.nn:ReLU", "torch.nn:ReLU is no method: attribution must be a class of captum.attr.Attribution, got <class"),
        ("captum_cams.attr.gradient_cams:GradientCamAttribution", "got the abstract GradientCamAttribution"),
        ("captum.attr:Attribution", "has a method attribute(inputs, target), got Attribution: type object 'Attribution' has no attribute 'attribute'"),
        ("captum.attr:NeuronGradient", "has a method attribute(inputs, target), got NeuronGradient: missing a required argument: 'layer'"),
        ("plain_cam:Demanding", "built from a model and a layer and has a method attribute(inputs, target), got Demanding: missing a required argument: 'strength'"),
        ("plain_cam:Noisy(m=3)", "plain_cam:Noisy has no argument 'm'; the closest names are"),
        ("plain_cam:Noisy(3)", "a method's arguments must be like group-cam(groups=8), got 'plain_cam:Noisy(3)'"),
        ("plain_cam:Noisy(n=", "cannot import method plain_cam:Noisy(n=: AttributeError"),
    ],
)  # fmt: skip
def test_what_is_no_method_is_one_sentence(text, words, capsys):
    with pytest.raises(ValueError, match=re.escape(words)):
        evaluate("out", methods=[text], **SETTINGS)
    for command in (["explain", "picture.png"], ["demo"], ["evaluate", "--limit", "1"]):
        assert cli.main([*command, "--methods", text]) == 2
        printed = capsys.readouterr().err
        assert words in printed and printed.count("\n") == 1


def test_maps_that_do_not_fit_are_one_sentence(capsys):
    words = "plain_cam:Wide must give a map of each of 1 pictures, (1, 1, h, w), got (1, 48, 8, 8)"
    arguments = ["explain", "picture.png", *SHAPES, "--layer", "block4", "--methods"]
    assert cli.main([*arguments, "plain_cam:Wide"]) == 2
    assert capsys.readouterr().err == f"captum-cams: {words}\n"
    with pytest.raises(
        ValueError,
        match="no picture could be explained; of the first: plain_cam:Wide must give a map of",
    ):
        evaluate("out", methods=["plain_cam:Wide"], **SETTINGS)
    assert cli.main([*arguments, "plain_cam:Broken"]) == 2
    words = "plain_cam:Broken fails: KeyError: 'no such thing'"
    assert capsys.readouterr().err == f"captum-cams: {words}\n"
    first = parse_method("plain_cam:First").method.attribution
    METHODS["first"] = Method(first, several_layers=True)
    words = (
        "first must give a list of maps for a list of 2 layers, as it is declared with "
        "several_layers, got Tensor"
    )
    with pytest.raises(ValueError, match=words):
        evaluate("other", methods=["first"], **SETTINGS)


class Tokens(nn.Sequential):
    def __init__(self):
        tokens = Function(lambda x: x.flatten(2).transpose(1, 2))
        super().__init__(
            nn.Conv2d(3, 6, 8, stride=8), nn.GELU(), tokens,
            Function(lambda x: x.mean(1)), nn.Linear(6, 4),
        )  # fmt: skip


def test_a_layer_that_needs_a_transform_is_for_classes_that_take_one(capsys):
    Path("user_net.py").write_text("from tests.test_registry import Tokens\n")
    words = (
        "plain_cam:Noisy cannot explain layer 2, whose output needs the "
        "reshape_transform vit_tokens(prefix_tokens=0), which Noisy does not take; "
        "give it that argument, or name a layer that gives feature maps (N, K, h, w)"
    )
    settings = SETTINGS | {
        "model": Tokens(),
        "layers": ["2"],
        "metrics": ["heatmap_mean"],
    }
    with pytest.raises(ValueError, match=re.escape(words)):
        evaluate("out", methods=["grad-cam", "plain_cam:Noisy"], **settings)
    assert not Path("out/run.json").exists()
    options = ["--model", "user_net:Tokens", "--size", "64", "--overwrite"]
    options += ["--layer", "2"]
    arguments = ["explain", "picture.png", *options, "--methods"]
    assert cli.main([*arguments, "plain_cam:Noisy"]) == 2
    assert capsys.readouterr().err == f"captum-cams: {words}\n"
    assert (
        cli.main(
            [*arguments, "user_cam:LayerAbsoluteGradCam", "captum.attr:LayerGradCam"]
        )
        == 0
    )
    # One that needs none is explained, and so is a method without a layer.
    assert (
        cli.main(
            [*arguments[:-2], "1", "--methods", "plain_cam:Noisy", "rise(n_masks=2)"]
        )
        == 0
    )


@pytest.mark.parametrize(
    "name",
    ["My-Cam", "my cam", "my_cam", "-cam", "cam-", "my--cam", "a:b", "", "all", 3],
)
def test_names_that_commands_cannot_spell(name):
    words = (
        f"name must be of lower-case letters and digits, .* got {re.escape(repr(name))}"
    )
    with pytest.raises(ValueError, match=words):
        register(name)(LayerHiResCam)
    with pytest.raises(ValueError, match=words):
        METHODS[name] = Method(LayerHiResCam)


class OfWholeModel(Attribution):
    def attribute(self, inputs, target=None, **more):
        return inputs


@pytest.mark.parametrize(
    ("kind", "declaration", "error", "words"),
    [
        (nn.ReLU, {}, TypeError, "attribution must be a class of captum.attr.Attribution"),
        (3, {}, TypeError, "attribution must be a class of captum.attr.Attribution, got 3"),
        (GradientCamAttribution, {}, TypeError, "got the abstract GradientCamAttribution"),
        (LayerAttribution, {}, TypeError, "has a method attribute(inputs, target), got LayerAttribution"),
        (LayerHiResCam, {"defaults": {"groups": 3}}, ValueError, "LayerHiResCam.attribute must take what is declared of it, got 'groups', which is none of its arguments"),
        (LayerHiResCam, {"test_arguments": {"n_masks": 3}}, ValueError, "got 'n_masks'"),
        (LayerHiResCam, {"colors": {"baselines": "black"}}, ValueError, "got 'baselines'"),
        (LayerRSIGradCam, {"colors": {"baselines": "gray"}}, ValueError, "colors must be of black, white, got 'gray'"),
        (LayerHiResCam, {"limited_by_channels": "groups"}, ValueError, "whose default is an integer, got 'groups'"),
        (LayerHiResCam, {"limited_by_channels": "target"}, ValueError, "whose default is an integer, got 'target'"),
        (LayerHiResCam, {"axioms": {"dumy"}}, ValueError, "axioms must be of dummy, symmetry, "),
        (LayerHiResCam, {"explains_log": "no"}, TypeError, "explains_log must be True or False, got 'no'"),
        (LayerHiResCam, {"several_layers": 1}, TypeError, "several_layers must be True or False, got 1"),
        (LayerHiResCam, {"homogeneity": "one"}, TypeError, "homogeneity must be an integer of at least 0, got 'one'"),
        (LayerHiResCam, {"seed_arguments": 3}, TypeError, "seed_arguments must be a function, or None, got 3"),
        (LayerHiResCam, {"layers": 2}, TypeError, "unexpected keyword argument 'layers'"),
    ],
)  # fmt: skip
def test_declarations_that_do_not_fit(kind, declaration, error, words):
    with pytest.raises(error, match=re.escape(words)):
        register("my-cam", **declaration)(kind)
    assert "my-cam" not in METHODS


def test_other_things_are_no_method():
    with pytest.raises(
        TypeError, match=re.escape("my-cam must be a Method(...), got <class")
    ):
        METHODS["my-cam"] = LayerHiResCam
    assert Method(OfWholeModel, defaults={"anything": 1}).takes("anything")
    assert not Method(Saliency).has_layer
    assert Method(LayerGradCam).has_layer


@pytest.mark.parametrize("name", tables_of_methods.OURS)
def test_what_is_printed(name):
    """The model, the layer's name in it, and the options that were given."""
    method, model = METHODS[name], network()
    kind = method.attribution.__name__
    layer = ", layer='head.0'" if method.has_layer else ""

    def shown(forward, at=model.head[0], **options):
        return repr(method.attribution(forward, *[at] * method.has_layer, **options))

    assert shown(model) == f"{kind}(TwoPart{layer})"
    assert shown(model.forward) == f"{kind}(TwoPart.forward{layer})"
    assert shown(lambda x: model(x)) == f"{kind}(<lambda>{layer})"
    assert shown(partial(model)) == f"{kind}(partial{layer})"
    parallel = nn.DataParallel(model)
    assert shown(parallel) == f"{kind}(DataParallel{layer})".replace(
        "head", "module.head"
    )
    if not method.has_layer:
        return
    assert shown(model, nn.Sequential()) == f"{kind}(TwoPart, layer=Sequential)"
    assert shown(model, model) == f"{kind}(TwoPart, layer=TwoPart)"
    options = {"device_ids": [0], "reshape_transform": vit_tokens}
    assert shown(model, model.layer, **options) == (
        f"{kind}(TwoPart, layer='layer', device_ids=[0], reshape_transform=vit_tokens)"
    )


def test_what_is_printed_of_lists_stays_short():
    blocks = nn.Sequential(*[nn.Sequential(nn.ReLU()) for _ in range(300)])
    cam = LayerRSIGradCam(blocks, [block[0] for block in blocks])
    assert repr(cam) == (
        "LayerRSIGradCam(Sequential, "
        "layer=['0.0', '1.0', '2.0', '3.0', '4.0', '5.0', ...])"
    )
    deep = nn.Sequential(nn.ReLU())
    for _ in range(100):
        deep = nn.Sequential(deep)
    assert len(repr(LayerRSIGradCam(deep, list(deep.modules())[-1]))) < 120
    integrals = LayerPathIntegrals(blocks, blocks, integrands=[ConductanceIntegrand()])
    assert repr(integrals).endswith("integrands=(ConductanceIntegrand,))")


def test_what_is_printed_of_broken_attributions():
    """Also where a class of the user's forgot to call the constructor."""

    class Forgetful(LayerRSIGradCam):
        def __init__(self, depth=3):
            self.depth = depth

    assert repr(Forgetful()) == "Forgetful(NoneType)"
    assert repr(Forgetful(4)) == "Forgetful(NoneType, depth=4)"

    class Odd:
        def __call__(self, x):
            return x

        @property
        def __dict__(self):
            raise RuntimeError

    assert repr(LayerRSIGradCam(Odd(), nn.ReLU())).startswith("<captum_cams.")
