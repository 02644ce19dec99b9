import errno
import gc
import io
import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from captum.attr import LayerGradCam
from PIL import Image
from torchvision.transforms import functional as transforms

from captum_cams import (
    LayerRSIGradCam,
    __version__,
    _cli_parser,
    _explain,
    cli,
    visualization,
)
from captum_cams._printable import printable
from captum_cams.evaluation.pictures import (
    RESIZE,
    open_picture,
    read_picture,
    resize_picture,
)
from captum_cams.evaluation.results import Records
from captum_cams.examples import CLASSES, shape_pictures, shapes_model
from captum_cams.masks import upsample
from tests.methods import WITH_LAYER

SHAPES = ["--model", "captum_cams.examples:shapes_model", "--size", "128"]
METHODS = ["grad-cam", "rsi-grad-cam", "integrated-grad-cam", "group-cam"]
USER_CODE = """
import warnings
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 5),
    )

ready = build().half().train()

def probabilities():
    return nn.Sequential(build(), nn.Softmax(1))

def labels():
    return nn.Sequential(build(), nn.Sigmoid())

def smooth():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=4), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 5),
    )

def number():
    return 3

def traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(build(), torch.rand(1, 3, 32, 32))

def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(build())

def nan():
    model = build()
    torch.nn.init.constant_(model[0].bias, torch.nan)
    return model

def broken():
    raise KeyError("no such thing")

class Pair(nn.Conv2d):
    def forward(self, x):
        return (super().forward(x), 1)

def pair():
    return Pair(3, 2, 1)

class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)

def tokens(head=lambda x: x):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 8, stride=8), nn.GELU(),
        Function(lambda x: x.flatten(2).transpose(1, 2)),
        Function(lambda x: x.mean(1)), nn.Linear(6, 8), Function(head),
    )

def with_logits():
    return tokens(lambda x: {"logits": x, "hidden": torch.zeros(1)})

def turned(x):
    return x.transpose(1, 2).unflatten(2, (int(x.shape[1] ** 0.5), -1))

def broken_transform(x):
    raise KeyError("no such thing")

class OneByOne(nn.Module):
    def __init__(self, error=None):
        super().__init__()
        self.model, self.error = build(), error

    def forward(self, x):
        if len(x) > 1 and self.error:
            raise self.error
        return self.model(x.view(1, *x.shape[1:]))

def one_by_one():
    return OneByOne()

def greedy():
    return OneByOne(MemoryError())

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder with a picture, a file of noise and code, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "user_code", raising=False)
    picture = (shape_pictures(1).images[0] * 255).byte().movedim(0, -1).numpy()
    Image.fromarray(picture).resize((90, 60)).save("picture.png")
    Path("noise.bin").write_bytes(bytes(range(1, 200)) * 9)
    Path("user_code.py").write_text(USER_CODE)
    return tmp_path


@pytest.fixture
def panels(monkeypatch):
    """What is handed to the panel, call by call."""
    calls = []
    draw = _explain.panel

    def panel(images, attributions, *rest):
        calls.append((images, attributions, *rest))
        return draw(images, attributions, *rest)

    monkeypatch.setattr(_explain, "panel", panel)
    return calls


def explain(*arguments):
    return cli.main(["explain", *map(str, arguments), "--overwrite"])


def size_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


@pytest.mark.slow
def test_demo_writes_a_figure_of_all_methods_and_says_where(panels, capsys, tmp_path):
    assert cli.main(["demo", "--out", "new/folder"]) == 0
    path = tmp_path / "new/folder/captum-cams-demo.png"
    output = capsys.readouterr()
    _, table = output.out.split(f"figure: {path}\n")
    assert all(name in table for name in ["pixel_energy", "deletion_auc", *METHODS])
    assert output.err == ""
    assert min(size_of(path)) > 500
    ((images, maps, titles, boxes),) = panels
    assert list(maps) == METHODS
    # In every map most of the mass lies in the box with half its size around it.
    for cam in maps.values():
        shares = inside(cam, boxes, images.shape[-1])
        assert (shares > 0.5).all()
    labels = [title.split("\n")[1].split()[0] for title in titles]
    assert labels == [CLASSES[i] for i in shape_pictures(4).labels]


def inside(cam, boxes, size):
    """The share of each map's mass in its box, grown by half its sides, (N,)."""
    cam = transforms.resize(cam, [size, size]).squeeze(1)  # (N, H, W)
    shares = []
    for values, (x0, y0, x1, y1) in zip(cam, boxes, strict=True):
        dx, dy = (x1 - x0) / 4, (y1 - y0) / 4
        y = slice(max(0, int(y0 - dy)), int(y1 + dy))
        x = slice(max(0, int(x0 - dx)), int(x1 + dx))
        shares.append(values[y, x].sum() / values.sum())
    return torch.stack(shares)


@pytest.mark.slow
def test_module_and_script_are_one_program():
    run = subprocess.run(
        [sys.executable, "-m", "captum_cams", "explain", "missing.png", *SHAPES],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert (
        run.stderr
        == "captum-cams: cannot read missing.png: No such file or directory\n"
    )


def test_maps_are_those_of_the_class_itself(panels):
    options = [*SHAPES, "--methods", "rsi-grad-cam", "--layers", "block3"]
    assert explain("picture.png", *options) == 0
    with Image.open("picture.png") as image:
        image = transforms.center_crop(transforms.resize(image, [128]), [128])
    image = transforms.to_tensor(image).unsqueeze(0)
    model = shapes_model()
    target = model(image).argmax(1)
    wanted = LayerRSIGradCam(model, model.block3).attribute(image, target=target)
    ((images, maps, titles, _),) = panels
    assert torch.equal(images, image)
    assert list(maps) == ["rsi-grad-cam"]
    torch.testing.assert_close(maps["rsi-grad-cam"], wanted)
    assert titles[0].startswith("picture.png\n")


def test_pictures_of_your_own_are_squashed_where_you_ask(panels):
    options = ["picture.png", *SHAPES, "--methods", "grad-cam"]
    assert explain(*options, "--resize", "squash") == 0
    with Image.open("picture.png") as image:
        image = transforms.to_tensor(transforms.resize(image, [128, 128]))
    assert torch.equal(panels[0][0], image.unsqueeze(0))


def test_a_torchvision_model_with_weights_of_half_precision(panels, capsys):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    torch.save(state, "weights.pt")
    model.load_state_dict(state)
    options = ["--model", "resnet18", "--weights", "weights.pt", "--size", 64]
    options += ["--methods", "rsi-grad-cam"]
    assert explain("picture.png", *options, "--target", 472) == 0
    # The last layer with more than one position is found; "canoe" needs no download.
    output = capsys.readouterr().out
    assert output.startswith("resnet18, layer layer4: 512 channels of 2 x 2\n")
    assert "picture.png: canoe 0." in output
    ((images, maps, *_),) = panels
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    wanted = LayerRSIGradCam(lambda x: model(x).softmax(1), model.layer4).attribute(
        transforms.normalize(images, mean, std),
        transforms.normalize(torch.zeros(1, 3, 64, 64), mean, std),
        target=472,
    )
    torch.testing.assert_close(maps["rsi-grad-cam"], wanted)


def test_a_model_of_the_users_own(panels, capsys):
    options = ["--size", 32, "--methods", "grad-cam", "group-cam"]
    assert explain("picture.png", "--model", "user_code:build", *options) == 0
    assert "user_code:build, layer 1: 6 channels of 8 x 8\n" in capsys.readouterr().out
    # A module that is there already, in half precision and in train mode.
    assert explain("picture.png", "--model", "user_code:ready", *options) == 0
    (_, built, *_), (_, ready, *_) = panels
    for method, maps in built.items():
        torch.testing.assert_close(ready[method], maps, rtol=0.02, atol=1e-4)


TOKENS = ["picture.png", "--model", "user_code:tokens", "--size", "32"]


@pytest.mark.parametrize(
    ("arguments", "spelled"),
    [
        ([], "vit_tokens(prefix_tokens=0)"),
        (["--model", "user_code:with_logits"], "vit_tokens(prefix_tokens=0)"),
        (["--layer", "2"], "vit_tokens(prefix_tokens=0)"),
        (
            ["--reshape", "vit_tokens(grid=(4, 4), prefix_tokens=0)"],
            "vit_tokens(grid=(4, 4), prefix_tokens=0)",
        ),
        (["--layer", "2", "--reshape", "user_code:turned"], "user_code:turned"),
    ],
)
def test_tokens_are_explained_as_the_maps_they_were(arguments, spelled, panels, capsys):
    """By all methods that look at a layer, Captum's LayerGradCam among them."""
    methods = ["--methods", "grad-cam", *WITH_LAYER]
    assert explain(*TOKENS, "--layer", "1", *methods) == 0
    before = "user_code:tokens, layer 1: 6 channels of 4 x 4\n"
    assert capsys.readouterr().out.startswith(before)
    assert explain(*TOKENS, *methods, *arguments) == 0
    assert f", layer 2: 6 channels of 4 x 4 by {spelled}\n" in capsys.readouterr().out
    (_, wanted, *_), (_, maps, *_) = panels
    assert list(maps) == ["grad-cam", *WITH_LAYER]
    for name, cam in maps.items():
        torch.testing.assert_close(cam, wanted[name])


def test_tokens_are_evaluated_as_the_maps_they_were(capsys):
    options = ["--model", "user_code:tokens", "--size", "64", "--limit", "2"]
    options += ["--methods", "grad-cam,rsi-grad-cam", "--metrics", "heatmap_mean"]
    options += ["--protocol", "group-cam", "--sanity-pictures", "0"]

    def values(*more, out):
        assert cli.main(["evaluate", *options, *more, "--out", out]) == 0
        return Records(Path(out))

    maps = values("--layers", "1", out="maps")
    assert "feature maps by" not in capsys.readouterr().out
    assert maps.run["settings"]["reshape"] is None
    chosen = values(out="tokens")
    assert "layer 2: feature maps by vit_tokens(prefix_tokens=0)\n" in (
        capsys.readouterr().out
    )
    assert chosen.run["settings"]["reshape"] == {"2": "vit_tokens(prefix_tokens=0)"}
    both = values("--layers", "1,2", out="both")
    given = values("--layers", "2", "--reshape", "user_code:turned", out="given")
    assert given.run["settings"]["reshape"] == {"2": "user_code:turned"}
    wanted = [record["values"] for record in maps]
    assert len(wanted) == 4
    for records in (chosen, given):
        for record, value in zip(records, wanted, strict=True):
            assert record["values"] == pytest.approx(value)
    of = {(r["index"], r["method"], r["layer"]): r["values"] for r in both}
    assert len(of) == 8
    for index, method, _ in of:
        assert of[index, method, "1"] == pytest.approx(of[index, method, "2"])
    # Another transform is another run.
    arguments = [*options, "--layers", "2", "--reshape", "user_code:turned"]
    assert cli.main(["evaluate", *arguments, "--out", "tokens"]) == 2
    assert "holds a run with reshape" in capsys.readouterr().err


def test_outputs_are_made_probabilities_once(panels):
    options = ["picture.png", "--size", 32, "--methods", "grad-cam"]
    assert explain(*options, "--model", "user_code:build", "--layer", "0") == 0
    model = "user_code:probabilities"
    assert explain(*options, "--model", model, "--layer", "0.0") == 0
    (_, scores, title, _), (_, probabilities, same_title, _) = panels
    assert title == same_title
    torch.testing.assert_close(scores["grad-cam"], probabilities["grad-cam"])


@pytest.mark.parametrize(
    ("model", "explained", "function"),
    [
        ("build", "probabilities", lambda y: y.softmax(1)),
        ("build", "logits", lambda y: y),
        ("build", "sigmoid", lambda y: y.sigmoid()),
        ("build", "model", lambda y: y),
        ("probabilities", "logits", lambda y: y),
        ("labels", "sigmoid", lambda y: y.sigmoid()),
        ("labels", "model", lambda y: y.sigmoid()),
        ("labels", "logits", lambda y: y),
    ],
)
def test_the_explained_output_is_chosen(model, explained, function, panels):
    options = ["picture.png", "--size", 32, "--methods", "rsi-grad-cam"]
    options += ["--model", f"user_code:{model}", "--target", 3]
    assert explain(*options, "--explain", explained) == 0
    ((images, maps, *_),) = panels
    sys.path.insert(0, str(Path.cwd()))
    try:
        import user_code
    finally:
        sys.path.pop(0)
    model = user_code.build()
    wanted = LayerRSIGradCam(lambda x: function(model(x)), model[1]).attribute(
        images, torch.zeros(1, 3, 32, 32), target=3
    )
    torch.testing.assert_close(maps["rsi-grad-cam"], wanted)


def test_no_softmax_on_top_of_a_sigmoid(capsys):
    options = ["picture.png", "--model", "user_code:labels", "--size", 32]
    assert explain(*options, "--methods", "grad-cam") == 2
    error = capsys.readouterr().err
    assert error.startswith("captum-cams: --explain probabilities needs class scores,")
    assert "choose --explain sigmoid or --explain model" in error
    assert error.count("\n") == 1
    assert explain(*options, "--explain", "scores") == 2
    assert "invalid choice: 'scores' (choose from" in capsys.readouterr().err


def test_all_methods_are_those_that_the_model_can_have(panels, capsys):
    options = ["picture.png", "--model", "user_code:smooth", "--size", 32]
    assert explain(*options, "--methods", "all", "rise(n_masks=2)", "--layer", 0) == 0
    ((_, maps, *_),) = panels
    line = "guided-backprop needs a module ReLU in the model, as it changes the gradients of such modules alone, and the model has none"
    assert f"{line}; it is left out\n" in capsys.readouterr().out
    assert "guided-backprop" not in maps
    assert {"integrated-gradients", "smooth-grad", "grad-cam"} <= {*maps}
    assert explain(*options, "--methods", "guided-backprop") == 2
    assert capsys.readouterr().err == f"captum-cams: {line}\n"


def test_outputs_are_named_by_a_file(panels, capsys):
    Path("names.txt").write_text("n01440764 tench, Tinca tinca\n" * 5)
    options = ["picture.png", "--model", "user_code:build", "--size", 32]
    options += ["--methods", "grad-cam", "--target", 3]
    assert explain(*options, "--classes", "names.txt") == 0
    assert "picture.png: tench 0." in capsys.readouterr().out
    (_, _, (title,), _) = panels[0]
    assert title.startswith("picture.png\ntench 0.")


def test_mean_and_std_are_undone_for_the_figure_alone(panels):
    options = ["picture.png", "--model", "user_code:build", "--size", 32]
    options += ["--methods", "grad-cam"]
    assert explain(*options) == 0
    assert explain(*options, "--mean", 0.5, 0.5, 0.5, "--std", 0.2, 0.2, 0.2) == 0
    (images, maps, *_), (same_images, other_maps, *_) = panels
    assert torch.equal(images, same_images)
    assert not torch.allclose(maps["grad-cam"], other_maps["grad-cam"])


def test_many_pictures_are_explained_a_few_at_a_time(panels, monkeypatch):
    monkeypatch.setattr(_explain, "_TOGETHER", 3)
    options = ["--model", "user_code:build", "--size", 32, "--methods", "grad-cam"]
    read, figures = [], []
    draw, read_picture = _explain.panel, _explain.read_picture

    def panel(*arguments):
        gc.disable()  # what the command itself does not release stays
        assert not any(figure() for figure in figures)
        figure = draw(*arguments)
        figures.append(weakref.ref(figure))
        return figure

    monkeypatch.setattr(_explain, "panel", panel)
    monkeypatch.setattr(
        _explain,
        "read_picture",
        lambda *of: read.append(len(figures)) or read_picture(*of),
    )
    try:
        assert explain(*copies(4), *options) == 0
    finally:
        gc.enable()
    assert [len(images) for images, *_ in panels] == [1] * 4
    assert read == [0, 0, 0, 3]  # the last when the others are done
    for number in range(4):
        assert min(size_of(f"copy-{number}-figure.png")) > 300


def titles_of(panels):
    return [title.split("\n")[0] for _, _, titles, _ in panels for title in titles]


def copies(number):
    names = [f"copy {i}.png" for i in range(number)]
    for name in names:
        shutil.copy("picture.png", name)
    return names


def test_a_picture_that_breaks_off_does_not_stop_the_others(panels, capsys):
    names = copies(4)
    content = Path("picture.png").read_bytes()
    for broken in names[1:3]:
        Path(broken).write_bytes(content[: len(content) // 2])
    assert explain(*names, *GRAD_CAM[1:]) == 2
    error = r"cannot read copy {}.png: not a picture, or a broken one \(.*truncated.*\)"
    errors = "; ".join(error.format(number) for number in (1, 2))
    assert re.fullmatch(f"captum-cams: {errors}\n", capsys.readouterr().err)
    assert titles_of(panels) == [names[0], names[3]]
    # Nothing but broken pictures makes no figure.
    assert explain(names[1], *GRAD_CAM[1:], "--out", "none") == 2
    assert not [*Path("none").iterdir()]


def test_a_wrong_name_is_told_before_the_work_begins(panels, capsys):
    for name in ("missing.png", "noise.bin"):
        assert explain("picture.png", name, *GRAD_CAM[1:], "--out", "new") == 2
        assert f"cannot read {name}: " in capsys.readouterr().err
    assert panels == [] and not Path("new").exists()


def test_pictures_come_from_folders_patterns_and_the_standard_input(
    panels, monkeypatch
):
    Path("pets/more").mkdir(parents=True)
    for name in ("pets/b.png", "pets/more/a.png", "pets/[x].png", "c1.png", "c2.png"):
        shutil.copy("picture.png", name)
    Path("pets/notes.txt").write_text("no picture")
    Path("c3.txt").write_text("no picture")
    picture = io.BytesIO(Path("picture.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(picture))
    words = ["-", "pets", "c[1-3]*", "pets/[x].png"]
    assert explain(*words, *GRAD_CAM[1:]) == 0
    names = ["stdin", "[x].png", "b.png", "a.png", "c1.png", "c2.png"]
    assert titles_of(panels) == names
    assert Path("stdin-figure.png").exists() and Path("x-figure.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--methods", "grad-cam,rise(n_masks=2)", "picture.png"],
        ["--methods", "grad-cam", "rise(n_masks=2)", "picture.png"],
        ["--methods", "picture.png", "grad-cam", "rise(n_masks=2)"],
        ["picture.png", "--methods", "grad-cam", "rise(n_masks=2)", "-"],
        ["picture.png", "--methods=grad-cam,rise(n_masks=2)"],
    ],
)
def test_methods_have_commas_or_spaces_and_swallow_no_picture(
    arguments, panels, monkeypatch
):
    picture = io.BytesIO(Path("picture.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(picture))
    assert explain(*arguments, "--model", "user_code:build", "--size", 32) == 0
    assert titles_of(panels) == ["picture.png", "stdin"][: 1 + ("-" in arguments)]
    for _, maps, *_ in panels:
        assert list(maps) == ["grad-cam", "rise(n_masks=2)"]


def test_layers_and_targets_stand_side_by_side(panels, capsys):
    Path("names.json").write_text('["ant", "bee", "cat", "Dog, wild", "elk"]')
    options = ["picture.png", "--model", "user_code:build", "--size", 32]
    options += ["--classes", "names.json", "--layers", "0,1"]
    options += ["--methods", "grad-cam", "rise(n_masks=2)"]
    assert explain(*options, "--target", "top2,bee,4") == 0
    (images, maps, (title,), _) = panels[0]
    targets = ["top 1", "top 2", "bee", "elk"]
    assert list(maps) == [
        f"{name}\n{target}"
        for target in targets
        for name in ("grad-cam\n0", "grad-cam\n1", "rise(n_masks=2)")
    ]
    sys.path.insert(0, str(Path.cwd()))
    try:
        import user_code
    finally:
        sys.path.pop(0)
    model = user_code.build()
    shares = model(images).softmax(1)[0]
    order = shares.argsort(descending=True)
    names = ["ant", "bee", "cat", "Dog, wild", "elk"]
    assert title.split("\n") == [
        "picture.png",
        f"top 1: {names[order[0]]} {shares[order[0]]:.3f}",
        f"top 2: {names[order[1]]} {shares[order[1]]:.3f}",
        f"bee {shares[1]:.3f}",
        f"elk {shares[4]:.3f}",
    ]
    wanted = dict(zip(targets, [int(order[0]), int(order[1]), 1, 4], strict=True))
    for i in (0, 1):
        cam = LayerGradCam(lambda x: model(x).softmax(1), model[i])
        for target, index in wanted.items():
            torch.testing.assert_close(
                maps[f"grad-cam\n{i}\n{target}"],
                cam.attribute(images, index, relu_attributions=True),
            )
    # A class whose name has a comma, in any case, and an index of it.
    assert explain(*options, "--target", "dog, WILD") == 0
    assert panels[1][2][0].startswith("picture.png\nDog, wild 0.")
    assert next(iter(panels[1][1])) == "grad-cam\n0"


def test_what_is_saved_of_a_picture(panels):
    names = copies(2)
    options = ["--model", "user_code:build", "--size", 32, "--layers", "0,1"]
    options += ["--methods", "grad-cam"]
    kinds = "figure,overlay,map,array,json"
    assert explain(*names, *options, "--save", kinds, "--out", "all") == 0
    parts = ["figure.png", "maps.npz"]
    parts += [f"{kind}-grad-cam-{i}.png" for kind in ("map", "overlay") for i in (0, 1)]
    stems = ["copy-0", "copy-1"]
    assert {path.name for path in Path("all").iterdir()} == {
        *(f"{stem}-{part}" for stem in stems for part in parts),
        *(f"{stem}.json" for stem in stems),
    }
    for stem, (images, maps, *_) in zip(stems, panels, strict=True):
        arrays = np.load(f"all/{stem}-maps.npz")
        assert list(arrays) == ["grad-cam, 0", "grad-cam, 1"]
        facts = json.loads(Path(f"all/{stem}.json").read_text())
        assert [one["name"] for one in facts["maps"]] == list(arrays)
        outputs = [one["output"] for one in facts["classes"]]
        assert len(outputs) == 5 and outputs == sorted(outputs, reverse=True)
        assert facts["picture"] == f"{stem.replace('-', ' ')}.png"
        for i, (title, cam) in enumerate(maps.items()):
            assert title == f"grad-cam\n{i}"
            torch.testing.assert_close(
                torch.tensor(arrays[f"grad-cam, {i}"]), cam[0, 0]
            )
            of = facts["maps"][i]
            assert (of["method"], of["layer"], of["shape"]) == (
                "grad-cam",
                str(i),
                [8, 8],
            )
            assert of["maximum"] == pytest.approx(cam.max().item())
            assert of["target"] == facts["classes"][0]
            with Image.open(f"all/{stem}-overlay-grad-cam-{i}.png") as file:
                pixels = transforms.to_tensor(file)
            torch.testing.assert_close(
                pixels, visualization.blend(images, cam)[0], rtol=0, atol=1 / 255
            )
            with Image.open(f"all/{stem}-map-grad-cam-{i}.png") as file:
                assert file.mode == "L"
                gray = transforms.to_tensor(file)
            wanted = upsample(cam, (32, 32))[0]
            wanted = wanted / wanted.abs().max()
            wanted = (wanted + 1) / 2 if (wanted < 0).any() else wanted
            torch.testing.assert_close(gray, wanted, rtol=0, atol=1 / 255)


def test_nothing_is_written_over_without_a_word(capsys):
    run = ["explain", *map(str, GRAD_CAM), "--save", "array,json"]
    assert cli.main([*run, "--out", "new"]) == 0
    before = {path: path.read_bytes() for path in Path("new").iterdir()}
    (later,) = copies(1)
    capsys.readouterr()
    for more in ([], [later]):  # before anything else is written
        assert cli.main([*run[:1], *more, *run[1:], "--out", "new"]) == 2
        assert (
            "picture-maps.npz and 1 more are there already; --overwrite replaces such "
            "files, and --out DIR takes another folder" in capsys.readouterr().err
        )
        assert {path: path.read_bytes() for path in Path("new").iterdir()} == before
    assert cli.main([*run, "--out", "new", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["cat.jpg", "dog.jpg"], ["cat", "dog"]),
        (["a/cat.jpg", "b/cat.jpg"], ["a-cat", "b-cat"]),
        (["cat.jpg", "cat.png", "Cat.gif"], ["cat.jpg", "cat.png", "Cat.gif"]),
        (["a/b.jpg", "a-b.jpg", "a b.png"], ["a-b.jpg", "a-b.jpg-2", "a-b.png"]),
        (["/x/-.hidden.jpg", "..", "$(rm).png"], ["x-.hidden", "picture", "rm"]),
        (["zähler 山.png", "x" * 300 + "1.png"], ["zähler-山", "x" * 79 + "1"]),
        (["山" * 80 + "1.png"], ["山" * 26 + "1"]),
    ],
)
def test_pictures_keep_their_files_apart(names, stems):
    assert _explain.file_stems(names) == stems


def test_an_old_file_stays_where_the_new_one_cannot_be_written(monkeypatch, capsys):
    options = [*GRAD_CAM, "--save", "json"]
    assert explain(*options) == 0
    before = Path("picture.json").read_bytes()

    def write(path, content):
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        assert explain(*options) == 2
    assert Path("picture.json").read_bytes() == before
    assert not [path for path in Path.cwd().iterdir() if ".part" in path.name]


def test_no_picture_to_explain_is_replaced(capsys):
    shutil.copy("picture.png", "picture-figure.png")
    before = Path("picture-figure.png").read_bytes()
    assert explain("*.png", *GRAD_CAM[1:]) == 2
    assert "picture-figure.png is one of the pictures to explain, and would be" in (
        capsys.readouterr().err
    )
    assert Path("picture-figure.png").read_bytes() == before
    assert explain("*.png", *GRAD_CAM[1:], "--out", "elsewhere") == 0


def test_classes_of_one_name_are_told_apart_by_their_index(panels):
    Path("names.txt").write_text("ant\ncrane\ncat\ncrane\nelk\n")
    options = [*GRAD_CAM, "--classes", "names.txt", "--target", "1,3"]
    assert explain(*options, "--save", "figure,map,array,json") == 0
    assert list(panels[0][1]) == ["grad-cam\ncrane 1", "grad-cam\ncrane 3"]


def test_ranks_are_other_classes_where_outputs_are_equal():
    outputs = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]] * 2)
    targets = [_explain._Target("", None, rank) for rank in range(5)]
    order = torch.stack([target.indices(outputs) for target in targets], 1)
    assert order.tolist() == [[1, 0, 2, 3, 4]] * 2
    half = outputs.to(torch.bfloat16)
    assert _explain._Target("", 281).indices(half).tolist() == [281, 281]


def test_maps_of_other_arguments_have_other_files():
    columns = ["rsi-grad-cam(tolerance=0.02)", "rsi-grad-cam(tolerance=0.01)"]
    assert _explain.file_stems(columns, suffixes=False) == [
        "rsi-grad-cam-tolerance-0.02",
        "rsi-grad-cam-tolerance-0.01",
    ]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("one_by_one", "user_code:one_by_one fails on a picture of 32 x 32: Runtime"),
        ("greedy", "not enough memory; a smaller --size takes less"),
    ],
)
def test_a_model_that_fails_on_a_batch_is_one_sentence(model, words, capsys):
    options = ["--model", f"user_code:{model}", "--size", 32, "--methods", "grad-cam"]
    assert explain(*copies(2), *options) == 2
    assert words in capsys.readouterr().err


def test_the_standard_input_is_read_once_and_has_a_name(monkeypatch, capsys):
    picture = io.BytesIO(Path("picture.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(picture))
    assert explain("-", "-", *GRAD_CAM[1:], "--save", "json") == 0
    assert json.loads(Path("stdin.json").read_text())["picture"] == "stdin"
    monkeypatch.setattr(sys, "stdin", None)
    assert explain("-", *GRAD_CAM[1:]) == 2
    assert "the standard input is closed" in capsys.readouterr().err


def test_quiet_prints_nothing_but_errors(capsys):
    assert explain(*GRAD_CAM, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert explain("missing.png", *GRAD_CAM[1:], "--quiet") == 2
    assert "missing.png" in capsys.readouterr().err
    options = ["--limit", "1", "--methods", "grad-cam", "--metrics", "heatmap_mean"]
    assert cli.main(["evaluate", *options, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_methods_that_lack_a_library_stop_before_the_work(monkeypatch, capsys, panels):
    monkeypatch.setattr(
        "captum_cams.evaluation.methods.util.find_spec",
        lambda name: None if name == "skimage" else name,
    )
    assert explain(*GRAD_CAM, "xrai") == 2
    need = "xrai needs skimage; pip install 'captum-cams[xrai]' brings it"
    assert capsys.readouterr().err == f"captum-cams: {need}\n"
    assert panels == []
    assert "xrai" not in [s.name for s in _explain.find_specs(["all"], shapes_model())]
    assert f"{need}; it is left out\n" in capsys.readouterr().out


def test_a_head_of_another_number_of_classes(panels, capsys):
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=3)
    torch.save({"state_dict": model.state_dict()}, "tuned.pt")
    options = ["picture.png", "--model", "squeezenet1_1", "--size", 64]
    options += ["--weights", "tuned.pt", "--methods", "grad-cam"]
    assert explain(*options) == 2
    assert "has classifier.1.weight of shape (3, 512, 1, 1)" in (
        error := capsys.readouterr().err
    )
    assert "give it as --num-classes" in error
    Path("names.txt").write_text("ant\nbee\ncat\n")
    assert explain(*options, "--num-classes", 3, "--classes", "names.txt") == 0
    assert panels[0][2][0].split("\n")[1].split()[0] in ("ant", "bee", "cat")


def test_a_file_is_explained_once(panels):
    Path("link.png").symlink_to("picture.png")
    (other,) = copies(1)
    given = ["picture.png", other, "./picture.png", "link.png", Path.cwd() / other]
    assert explain(*given, *GRAD_CAM[1:]) == 0
    assert titles_of(panels) == ["picture.png", other]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/cat.jpg", "x/dog.jpg"], ["cat.jpg", "dog.jpg"]),
        (["a/cat.jpg", "b/cat.jpg"], ["a/cat.jpg", "b/cat.jpg"]),
        (["cat.jpg", "./a/cat.jpg", "b/d.jpg"], ["cat.jpg", "a/cat.jpg", "d.jpg"]),
        (
            ["x/a/cat.jpg", "x/b/cat.jpg", "y/b/cat.jpg"],
            ["a/cat.jpg", "x/b/cat.jpg", "y/b/cat.jpg"],
        ),
        (["/cat.jpg", "/d/cat.jpg", "cat.jpg"], ["/cat.jpg", "d/cat.jpg", "cat.jpg"]),
        (["a\x1b/c.jpg", "b/c.jpg"], [r"a\x1b/c.jpg", "b/c.jpg"]),
    ],
)
def test_names_have_the_folders_that_tell_them_apart(paths, names):
    assert _explain.names_apart(paths) == names


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("zähler 山 a\u202f\u3000$x$.png", "zähler 山 a\u202f\u3000$x$.png"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x1b[31m\b\a\x7f\x9b", r"\x1b[31m\x08\x07\x7f\x9b"),
        ("\u202agpj\u202e\u2066\u2069", r"\u202agpj\u202e\u2066\u2069"),
        ("\u200b\u200d\ufeff\u00ad", r"\u200b\u200d\ufeff\xad"),
        ("\u2028\u2029\udcff", r"\u2028\u2029\udcff"),
    ],
)
def test_what_is_printed_is_one_line_that_commands_nothing(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_names_command_no_terminal(panels, capsys):
    name, shown = "\x1b[31m\u202e\nx.png", r"\x1b[31m\u202e\nx.png"
    assert explain(name, *SHAPES) == 2
    assert capsys.readouterr().err == (
        f"captum-cams: cannot read {shown}: no such file, and no picture matches it\n"
    )
    shutil.copy("picture.png", name)
    assert explain(name, *GRAD_CAM[1:], "--out", "\x1b[0m") == 0
    output = capsys.readouterr().out
    assert f"\n{shown}: class" in output
    assert r"/\x1b[0m/x1b-31m-u202e-nx-figure.png" in output
    assert "\x1b" not in output
    assert panels[0][2][0].startswith(f"{shown}\n")


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_pictures_of_any_kind_are_read(mode, resize):
    name = "other.tif"
    Image.open("picture.png").convert(mode).save(name)
    assert read_picture(name, 40, resize).shape == (3, 40, 40)


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("name", ["gray.png", "gray.tif"])
def test_sixteen_bits_of_gray_are_no_white(name, resize):
    values = np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16)
    Image.fromarray(values).save(name)
    wanted = torch.from_numpy(values.astype(np.float32)) / 65535
    read = read_picture(name, 40, resize)
    torch.testing.assert_close(read, wanted.expand(3, 40, 40), rtol=0, atol=1 / 255)


def test_names_that_are_no_unicode_are_spelled_out(tmp_path, capsys):
    name = os.fsdecode(b"\xff.png")
    shutil.copy("picture.png", name)
    options = ["--model", "user_code:build", "--size", 32, "--methods", "grad-cam"]
    assert explain(name, *options) == 0
    assert r"\udcff.png: class" in capsys.readouterr().out


def test_commas_within_brackets_part_nothing():
    text = "grad-cam, rise(n_masks=5,grid_size=(7,7)),xrai"
    assert _cli_parser._names(text) == [
        "grad-cam",
        "rise(n_masks=5,grid_size=(7,7))",
        "xrai",
    ]


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "I;16"])
def test_a_photograph_is_turned_upright(mode, resize):
    image = Image.open("picture.png")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    name = "turned.jpg" if mode == "CMYK" else "turned.png"
    image.convert(mode).save(name, exif=exif)
    plain = f"plain.{name.partition('.')[2]}"
    image.convert(mode).save(plain)
    upright = open_picture(plain).image.transpose(Image.Transpose.ROTATE_270)
    wanted = resize_picture(upright, 50, resize)
    assert torch.equal(read_picture(name, 50, resize), wanted)


RESNET = ["picture.png", "--model", "resnet18", "--size", "64"]
USER = ["picture.png", "--size", "32", "--model"]
GRAD_CAM = [*USER, "user_code:build", "--methods", "grad-cam"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["explian"], "invalid choice: 'explian'"),
        (["explain", "picture.png"], "explain needs --model, the network to look into"),
        (["explain"], "`captum-cams demo` explains example pictures"),
        (["explain", *SHAPES], "explain needs pictures: files, folders, patterns"),
        (
            ["explain", "no*.png", *SHAPES],
            "cannot read no*.png: no such file, and no picture",
        ),
        (["explain", *GRAD_CAM, "--speed"], "arguments: --speed (see captum-cams expl"),
        (["evaluate", "a", "b"], "arguments: a b (see captum-cams evaluate --help)"),
        (["demo", "--out"], "expected one argument (see captum-cams demo --help)"),
        (["explain", "empty", *SHAPES], "the folder empty holds no pictures"),
        (["explain", "missing.png", *SHAPES], "cannot read missing.png: No such file"),
        (["explain", "noise.bin", *SHAPES], "cannot read noise.bin: not a picture"),
        (["explain", "picture.png", "noise.bin", *SHAPES], "cannot read noise.bin"),
        (
            ["explain", "picture.png", "--model", "resnet19"],
            "no classifier 'resnet19'; the closest names are resnet18,",
        ),
        (["explain", *RESNET, "--weights", "missing.pt"], "missing.pt: No such file"),
        (["explain", *RESNET, "--weights", "noise.bin"], "noise.bin: not a state dict"),
        (
            ["explain", *RESNET, "--weights", "list.pt"],
            "must hold a state dict, alone or under",
        ),
        (
            ["explain", *RESNET, "--weights", "other.pt"],
            "do not fit resnet18: the state dict lacks conv1.weight and 121 more, adds "
            "weight",
        ),
        (
            ["explain", "picture.png", *SHAPES, "--weights", "DEFAULT"],
            "weights DEFAULT is for torchvision's models",
        ),
        (
            ["explain", *RESNET, "--layer", "layer5"],
            "resnet18 has no layer 'layer5'; the closest names are layer4, layer3",
        ),
        (
            ["explain", *RESNET, "--layer", "fc"],
            "layer fc must have spatial output (N, K, h, w), got (1, 1000); the last "
            "that has is layer4",
        ),
        (
            ["explain", *RESNET, "--target", "1000"],
            "--target must lie in [0, 999] for resnet18, got 1000",
        ),
        (
            ["explain", *GRAD_CAM, "--classes", "twice.txt", "--target", "Crane"],
            "user_code:build has several classes 'Crane', 1 and 3; give the index of",
        ),
        (["explain", *RESNET, "--target", "canoo"], "no class 'canoo'; the closest"),
        (["explain", *GRAD_CAM, "--target", "cat"], "its classes have no names; give"),
        (["explain", *GRAD_CAM, "--target", "top6"], "must ask for 1 to 5 classes of"),
        (["explain", *GRAD_CAM, "--target", "1,,2"], "--target must be names with"),
        (["evaluate", "--methods", "all"], "--methods: there is no method 'all'"),
        (["demo", "--methods", "grad-cam(x={[]: 1})"], "arguments must be like group"),
        (
            ["explain", *GRAD_CAM, "--methods", "a:b.png"],
            "at least one method, got 'a:",
        ),
        (
            ["explain", "picture.png", "--methods", "gradcam"],
            "--methods: there is no method 'gradcam'; the closest names are grad-cam",
        ),
        (["explain", "--methods", "picture.png"], "at least one method, got 'picture"),
        (["evaluate", "--methods", "grad-cam", "picture.png"], "no method 'picture."),
        (["explain", *GRAD_CAM, "--save", "figure,film"], "of figure, overlay, map, "),
        (["explain", *GRAD_CAM, "--device", "nonsense"], "cannot use device nonsense"),
        (["explain", *GRAD_CAM, "--num-classes", "3"], "unexpected keyword argument"),
        (
            ["explain", *RESNET, "--weights", "DEFAULT", "--num-classes", "3"],
            "weights DEFAULT of resnet18 have 1000 classes, not 3; num_classes is for",
        ),
        (["evaluate", "--num-classes", "3"], "num_classes is for models that are"),
        (
            ["explain", *USER, "user_code:ready", "--num-classes", "3"],
            "it is a model already, which num_classes does not change",
        ),
        (
            ["explain", *GRAD_CAM, "--out", "noise.bin"],
            "the folder noise.bin: File exists",
        ),
        (
            ["explain", *GRAD_CAM, "--out", "blocked"],
            "blocked/picture-figure.png is there already; --overwrite replaces such",
        ),
        (["explain", "picture.png", "--size", "0"], "must be an integer of at least 1"),
        (
            ["explain", "picture.png", *SHAPES, "--size", "20"],
            "fails on a picture of 20 x 20",
        ),
        (["explain", "picture.png", "--std", "0", "1", "1"], "above 0, got '0'"),
        (["explain", "picture.png", "--std", "inf", "1", "1"], "must be a finite"),
        (["explain", "picture.png", "--mean", "nan", "0", "0"], "must be a finite"),
        (["fine-tune", "--learning-rate", "1e300"], "must be a finite number above 0"),
        (["explain", *GRAD_CAM, "--std", "1e-300", "1", "1"], "gives NaN or infinity"),
        (["explain", "picture.png", "--size", "100000"], "at most 8192, got '100000'"),
        (["explain", "picture.png", "--size", "9" * 5000], "at most 8192, got '999"),
        (["explain", *GRAD_CAM, "--target", "9" * 5000], "has no class '9999"),
        (["explain", "picture.png", "--layer", ""], "got an empty one in ''"),
        (["fine-tune", "--layer", " "], "--layer: must be a name, got an empty one"),
        (["evaluate", "--layers", "block4,"], "got an empty one in 'block4,'"),
        (["evaluate", "--methods", ",grad-cam"], "got an empty one in ',grad-cam'"),
        (["evaluate", "--metrics", ""], "--metrics: must be names with commas"),
        (["evaluate", "--seed", "9" * 20], "--seed: must be an integer of at least -9"),
        (["fine-tune", "--seed", "x"], "--seed: must be an integer of at least -9"),
        (["evaluate", "--batch-size", f"{10**30}"], "at most 10000000, got '1000"),
        (["evaluate", "--limit", "1000000000000"], "at most 10000000, got '1000"),
        (["evaluate", "--device", "nonsense"], "cannot use device nonsense: "),
        (["evaluate", "--device", "meta"], "cannot use device meta: RuntimeError"),
        (["evaluate", "--out", "noise.bin/x"], "the folder noise.bin/x: Not a dir"),
        (["demo", "--out", "noise.bin/x"], "the folder noise.bin/x: Not a directory"),
        (["fine-tune", "--out", "noise.bin"], "the folder noise.bin: File exists"),
        (["explain", *USER, "nothing:at_all"], "No module named 'nothing'"),
        (["explain", *USER, "user_code:nothing"], "has no attribute 'nothing'"),
        (["explain", *USER, "user_code:number"], "must be or return a torch.nn.Module"),
        (["explain", *USER, "user_code:broken"], "KeyError: 'no such thing'"),
        (["explain", *USER, "user_code:traced"], "that torch.jit traced or scripted;"),
        (["explain", *USER, "user_code:scripted"], "give the module that it was made"),
        (["explain", *USER, "user_code:nan"], "must be finite, got NaN or infinity in"),
        (
            ["explain", *GRAD_CAM, "--classes", "missing.txt"],
            "cannot read classes missing.txt: No such file",
        ),
        (
            ["explain", *GRAD_CAM, "--classes", "two.txt"],
            "classes two.txt must hold a name for each of the 5 outputs of "
            "user_code:build, in their order, got 2",
        ),
        (["evaluate", "--classes", "two.txt"], "of the 8 outputs of the example net"),
        (["explain", *USER, "user_code:pair"], "one row of class scores a picture"),
        (["explain", *USER, "user_code:flat"], "no layer with spatial output"),
        (
            ["explain", *GRAD_CAM, "--reshape", "vit_tokens"],
            "no layer with spatial output by --reshape vit_tokens",
        ),
        (
            ["explain", *GRAD_CAM, "--layer", "0", "--reshape", "vit_tokens"],
            "--reshape vit_tokens fails on what layer 0 gives, (1, 6, 8, 8): "
            "ValueError: vit_tokens takes",
        ),
        (
            ["explain", *TOKENS, "--layer", "2", "--reshape", "vit_tokens"],
            "prefix_tokens = 0 leaves a grid",
        ),
        (
            [
                "explain",
                *TOKENS,
                "--layer",
                "2",
                "--reshape",
                "user_code:broken_transform",
            ],
            "fails on what layer 2 gives, (1, 16, 6): KeyError: 'no such thing'",
        ),
        (["explain", *GRAD_CAM, "--reshape", "vit"], "--reshape must be vit_tokens,"),
        (["evaluate", "--reshape", "no:thing"], "cannot import --reshape no:thing"),
        (
            [
                *["explain", "picture.png", "--model", "user_code:build"],
                *["--methods", "group-cam(groups=7)"],
            ],
            "group-cam(groups=7) fails: ValueError: groups must be at most",
        ),
    ],
)
def test_what_the_user_can_put_right_is_one_sentence(arguments, words, capsys):
    torch.save([torch.ones(1)], "list.pt")
    torch.save({"weight": torch.ones(1)}, "other.pt")
    Path("two.txt").write_text("cat\ndog\n")
    Path("twice.txt").write_text("ant\ncrane\ncat\ncrane\nelk\n")
    Path("blocked/picture-figure.png").mkdir(parents=True)
    Path("empty").mkdir()
    shutil.copy("picture.png", "a:b.png")
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("captum-cams: ")
    assert words in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
NO_MEMORY = "not enough memory; a smaller --size or --batch-size takes less"
TORCH_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


@pytest.mark.parametrize("command", ["evaluate", "fine_tune"])
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FULL, "cannot read or write: No space left on device"),
        (
            OSError(errno.EROFS, "Read-only", "a\x1b"),
            r"cannot read or write a\x1b: Read-only",
        ),
        (OSError("no number"), "cannot read or write: no number"),
        (MemoryError(), NO_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), NO_MEMORY),
        (TORCH_MEMORY, NO_MEMORY),
    ],
)
def test_what_fails_around_a_run_is_one_sentence(
    command, error, sentence, monkeypatch, capsys
):
    def fail(**_):
        raise error

    module = {"evaluate": "runner", "fine_tune": "fine_tuning"}[command]
    monkeypatch.setattr(f"captum_cams.evaluation.{module}.{command}", fail)
    assert cli.main([command.replace("_", "-")]) == 2
    again = "the same command goes on from here"
    assert capsys.readouterr().err == f"captum-cams: {sentence}; {again}\n"


@pytest.mark.parametrize("error", [ValueError, TypeError, RuntimeError, KeyError])
def test_a_fault_of_the_program_keeps_its_traceback(error, monkeypatch):
    def fail(**_):
        raise error("ours")

    monkeypatch.setattr("captum_cams.evaluation.runner.evaluate", fail)
    with pytest.raises(error, match="ours"):
        cli.main(["evaluate"])


def test_a_figure_that_cannot_be_written_is_named(monkeypatch, capsys):
    def write(path, content):
        raise FULL

    monkeypatch.setattr(Path, "write_bytes", write)
    assert explain(*GRAD_CAM) == 2
    error = capsys.readouterr().err
    assert error == (
        "captum-cams: cannot write picture-figure.png: No space left on device\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_help_and_version_do_not_wait_for_pytorch(argument):
    code = (
        "import sys\nfrom captum_cams.cli import main\n"
        f"try: main(['{argument}'])\n"
        "except SystemExit: print({'torch', 'matplotlib', 'numpy'} & {*sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--version"], __version__),
        (["--help"], "explain pictures of your own"),
        (["explain", "--help"], "softmax"),
    ],
)
def test_help_and_version(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 0
    assert words in capsys.readouterr().out


@pytest.mark.skipif(
    "CAPTUM_CAMS_REAL" not in os.environ, reason="needs CAPTUM_CAMS_REAL"
)
def test_a_real_photograph(panels, capsys):
    real = Path(os.environ["CAPTUM_CAMS_REAL"])
    picture = real / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000361.JPEG"
    options = ["--model", "squeezenet1_1", "--layer", "features.12", "--size", 227]
    weights = real / "squeezenet1_1_fp16.pt"
    assert explain(picture, *options, "--weights", weights) == 0
    assert "tiger beetle 0.9" in capsys.readouterr().out
    ((_, maps, *_),) = panels
    for cam in maps.values():
        # The beetle's body, seen by eye.
        assert inside(cam, torch.tensor([[45, 40, 190, 140]]), 227) > 0.5
