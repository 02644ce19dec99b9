"""Fine-tuning on blended pictures, against a literal loop of the paper's recipe."""

import copy
import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from captum_cams import cli
from captum_cams.augmentation import GroupCamBlend
from captum_cams.evaluation import evaluate, fine_tune, fine_tuning
from captum_cams.evaluation.networks import load_network
from captum_cams.evaluation.papers import FINE_TUNING, SETTINGS
from captum_cams.examples import shape_pictures
from tests.models import Function

COUNTS = {"train": 7, "val": 5}
QUICK = {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
QUICK |= {
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 0.05,
    "groups": 3,
    "seed": 5,
    "device": "cpu",
}
PAPER = {one.what: one.value for one in SETTINGS if one.paper == FINE_TUNING}


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Pictures of two classes that are not square, to be trained on and tested."""
    monkeypatch.chdir(tmp_path)
    for number, (part, count) in enumerate(COUNTS.items()):
        images = shape_pictures(count, 64, seed=number).images
        for i, image in enumerate(images):
            path = Path("data", part, "ab"[i % 2], f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            functional.to_pil_image(image).resize((56, 40 + i)).save(path)
    return tmp_path


def network():
    """Dropout draws, and BatchNorm remembers what it has seen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(24, 2),
        )  # fmt: skip


def run(out, model=None, root="data", **settings):
    model = network() if model is None else model
    return fine_tune(out, root, model, **{"layer": "2"} | QUICK | settings)


def read(part):
    """Files and classes in the order of their names."""
    pairs = []
    for path in sorted(Path("data", part).glob("*/*.png")):
        with Image.open(path) as image:
            pairs.append((image.convert("RGB"), "ab".index(path.parent.name)))
    return pairs


def as_input(picture):
    pixels = functional.pil_to_tensor(picture) / 255
    return functional.normalize(pixels, QUICK["mean"], QUICK["std"])


def literal(blended):
    """The recipe in a loop without Captum, loaders or optimizers of torch."""
    model, seed = network().train(), QUICK["seed"]
    blend = GroupCamBlend(model, model[2], QUICK["groups"])
    augment = v2.Compose([v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()])
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    top1 = [measured(model)]
    for epoch in (1, 2):
        rate = QUICK["learning_rate"] * 0.1 ** (
            (epoch - 1) // PAPER["epochs at a learning rate"]
        )
        order = torch.randperm(
            7, generator=torch.Generator().manual_seed(hash((seed, epoch)))
        )
        torch.manual_seed(hash((seed, epoch)))
        for batch in (order[:4], order[4:]):
            pictures, labels = [], []
            for index in batch.tolist():
                picture, label = read("train")[index]
                with torch.random.fork_rng():
                    torch.manual_seed(hash((seed, epoch, index)))
                    pictures.append(as_input(augment(picture)))
                labels.append(label)
            inputs, labels = torch.stack(pictures), torch.tensor(labels)
            if blended:
                inputs, _ = blend(inputs, labels)
            log = model(inputs).log_softmax(1)
            loss = -log[range(len(labels)), labels].mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, v, gradient in zip(
                    model.parameters(), velocity, gradients, strict=True
                ):
                    v.mul_(0.9).add_(gradient + 1e-4 * p)
                    p.sub_(rate * v)
        top1.append(measured(model))
    return model, top1


def measured(model):
    right = []
    model.eval()
    for picture, label in read("val"):
        picture = functional.resize(picture, [round(32 * 256 / 224)])
        picture = functional.center_crop(picture, [32])
        with torch.no_grad():
            right.append(int(model(as_input(picture)[None]).argmax()) == label)
    model.train()
    return sum(right) / len(right)


@pytest.mark.parametrize("step", [15, 1])
def test_it_is_the_papers_recipe(step, monkeypatch):
    """Also where the learning rate is divided after each epoch."""
    monkeypatch.setitem(PAPER, "epochs at a learning rate", step)
    monkeypatch.setitem(fine_tuning.PAPER, "epochs at a learning rate", step)
    top1 = run("out")
    weights = {}
    with torch.random.fork_rng():
        for name in ("blend", "control"):
            model, wanted = literal(name == "blend")
            assert top1[name] == pytest.approx(wanted)
            weights[name] = torch.load(f"out/weights-{name}.pt", weights_only=True)
            for key, value in model.state_dict().items():
                torch.testing.assert_close(weights[name][key], value)
    assert not torch.allclose(
        weights["blend"]["0.weight"], weights["control"]["0.weight"]
    )


@pytest.mark.parametrize("end", [nn.Softmax(1), Function(lambda x: {"logits": x})])
def test_what_the_model_gives_may_be_probabilities_or_hold_the_logits(end):
    wanted = run("out", epochs=1)
    assert run("other", nn.Sequential(*network(), end), epochs=1) == wanted
    for name in ("blend", "control"):
        ours, theirs = (
            torch.load(f"{out}/weights-{name}.pt", weights_only=True)
            for out in ("other", "out")
        )
        assert all(map(torch.equal, ours.values(), theirs.values()))


def test_nothing_changes_but_what_is_written():
    model = network()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    run("out", model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert model.training


def files(folder):
    return {
        path.name: path.read_bytes()
        for path in Path(folder).iterdir()
        if path.suffix != ".pt"
    }


def check_same(one, other):
    assert files(one) == files(other)
    for name in ("blend", "control"):
        ours, theirs = (
            torch.load(f"{folder}/weights-{name}.pt", weights_only=True)
            for folder in (one, other)
        )
        assert all(map(torch.equal, ours.values(), theirs.values()))


# Python warns of processes that are forked beside threads.
FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@FORKS
@pytest.mark.parametrize("stop", range(1, 6))
def test_a_stopped_run_goes_on_to_the_same_end(stop, monkeypatch):
    """Wherever it stops, with any number of processes that read pictures."""
    whole = run("whole", epochs=2)
    train, left = fine_tuning._Training._train, [stop]

    def stopped(*arguments):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        train(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning._Training, "_train", stopped)
        if stop < 5:
            with pytest.raises(KeyboardInterrupt):
                run("cut")
            assert not Path("cut/summary.md").exists()
        else:
            run("cut")
    assert run("cut", workers=stop % 2) == whole
    check_same("whole", "cut")


def test_what_is_written():
    top1 = run("out", epochs=6)
    assert [len(values) for values in top1.values()] == [7, 7]
    lines = Path("out/top1.csv").read_text().splitlines()
    assert lines[0] == "epoch,blend,control"
    assert lines[7] == f"6,{top1['blend'][6]},{top1['control'][6]}"
    text = Path("out/summary.md").read_text()
    assert (
        f"| 0 | {100 * top1['blend'][0]:.2f} | {100 * top1['control'][0]:.2f} | 76.15 |\n"
        in text
    )
    assert (
        f"| 6 | {100 * top1['blend'][6]:.2f} | {100 * top1['control'][6]:.2f} | 76.74 |\n"
        in text
    )
    difference = 100 * (top1["blend"][6] - top1["control"][6])
    assert f"With the blend less the control run: {difference:+.2f} points" in text
    assert "The paper has no control run" in text
    assert (
        "model Sequential for resnet50, weights none for IMAGENET1K_V1, epochs 6 for 20"
        in text
    )
    kept = torch.load("out/blend.pt", weights_only=True)
    assert list(kept["maps"]) == [0, 5, 6]
    assert kept["maps"][5].shape == (2, 1, 32, 32)
    load_network(network(), "out/weights-blend.pt")
    with Image.open("out/maps.png") as image:
        assert image.format == "PNG"


def test_defaults_are_the_papers():
    parameters = inspect.signature(fine_tune).parameters
    for name in ("epochs", "batch_size", "learning_rate", "groups"):
        assert parameters[name].default == PAPER[name]
    # Of torchvision's weights those whose top-1 the paper prints.
    from torchvision.models import ResNet50_Weights

    weights = ResNet50_Weights[PAPER["weights"]]
    metrics = weights.meta["_metrics"]["ImageNet-1K"]
    assert metrics["acc@1"] == pytest.approx(PAPER["top-1 in %"][0], abs=0.03)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 0.01}, "holds a run with learning_rate 0.05, which now is 0.01; give what it was"),
        ({"epochs": 3}, "holds a run with epochs 2, which now is 3"),
        ({"model": nn.Sequential(*network()[:6], nn.Linear(24, 2))}, "with digest of the parameters"),
    ],
)  # fmt: skip
def test_another_run_is_refused(change, words):
    run("out")
    before = files("out")
    with pytest.raises(ValueError, match=words):
        run("out", **change)
    assert files("out") == before


def test_a_folder_of_something_else_is_refused():
    evaluate("out", limit=1, metrics=["heatmap_mean"], methods=["grad-cam"], size=64)
    with pytest.raises(ValueError, match="was not written by a fine-tuning"):
        run("out")
    run("other")
    with pytest.raises(ValueError, match="was not written by an evaluation"):
        evaluate("other", limit=1)


def without(part):
    shutil.rmtree(f"data/{part}")


@FORKS
@pytest.mark.parametrize(
    ("spoil", "settings", "words"),
    [
        (lambda: without("train"), {}, "root must hold the folders train and val, each with .* No such file"),
        (lambda: without("val"), {}, "root must hold the folders train and val"),
        (lambda: without("val/a"), {}, "data/val must hold the same classes, but only one of them has a"),
        (lambda: Path("data/val/a/0.png").write_text("x"), {}, "cannot read data/val/a/0.png: not a picture"),
        (lambda: Path("data/train/a/0.png").write_text("x"), {"workers": 1}, "^cannot read data/train/a/0.png: not a picture of a format that Pillow knows, or a broken one$"),
        (None, {"model": network()[:6]}, "Sequential has 24 outputs, whose names are not known, the data set 2 classes such as 'a', and no name in common; give the names"),
        (None, {"groups": 7}, "the blend does not fit Sequential: groups must be at most .* 6, got 7"),
        (None, {"learning_rate": 1e30}, "epoch 1 with the blend fails: the layer's activations must be finite.* a smaller learning rate may help"),
        (None, {"learning_rate": 0.0}, "learning_rate must be above 0, got 0"),
        (None, {"workers": -1}, "workers must be an integer of at least 0"),
        (None, {"root": None}, "size must be at least 64 pixels, got 32"),
        (None, {"root": None, "size": 64}, "Sequential has 2 outputs, whose names are not known, the data set 8 classes"),
        (None, {"model": nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.GELU(), Function(lambda x: x.flatten(2).transpose(1, 2)), Function(lambda x: x.mean(1)), nn.Linear(6, 2))}, "the blend needs a layer that gives feature maps .* name another layer"),
    ],
)  # fmt: skip
def test_what_the_user_can_put_right(spoil, settings, words):
    if spoil is not None:
        spoil()
    with pytest.raises(ValueError, match=words) as raised:
        run("out", **settings)
    assert "\n" not in str(raised.value)


def test_a_layer_is_named():
    model = network()
    with pytest.raises(
        TypeError, match="layer must be a layer's dotted name, got ReLU"
    ):
        fine_tune("out", "data", model, layer=model[2])


def test_the_command_line(capsys):
    options = ["--epochs", "1", "--batch-size", "4", "--groups", "3", "--device", "cpu"]
    Path("tuned.py").write_text("from tests.test_fine_tuning import network")
    options += [
        "--root",
        "data",
        "--model",
        "tuned:network",
        "--size",
        "32",
        "--layer",
        "2",
    ]
    assert cli.main(["fine-tune", *options, "--out", "out"]) == 0
    output = capsys.readouterr().out
    assert "blend, epoch 0: top-1 " in output
    assert "control, epoch 1: top-1 " in output
    assert f"tables: {Path('out/summary.md').resolve()}\n" in output
    assert json.loads(Path("out/run.json").read_text())["learning_rate"] == 1e-3
    assert cli.main(["fine-tune", *options, "--seed", "1", "--out", "out"]) == 2
    error = "captum-cams: out holds a run with seed 0, which now is 1; give what it was, or write to another folder\n"
    assert capsys.readouterr().err.endswith(error)
    with pytest.raises(SystemExit):
        cli.main(["fine-tune", "--help"])
    assert "--weights IMAGENET1K_V1" in capsys.readouterr().out


def test_a_stopped_command_says_that_it_goes_on(monkeypatch, capsys):
    def stopped(**arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("captum_cams.evaluation.fine_tuning.fine_tune", stopped)
    assert cli.main(["fine-tune"]) == 130
    assert "stopped; the same command goes on from here" in capsys.readouterr().err


def test_the_preset_names_the_command(capsys):
    assert cli.main(["evaluate", "--preset", FINE_TUNING, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert "run `captum-cams fine-tune`" in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_classes_are_the_outputs_of_their_names():
    """In a network whose outputs are in another order, and more."""
    Path("names.txt").write_text("c\nb\na\n")
    torch.manual_seed(0)
    model = nn.Sequential(network()[:6], nn.Linear(24, 3))
    top1 = run("out", model=model, classes="names.txt", layer="0.2")
    with torch.no_grad():
        model[1].weight.copy_(model[1].weight[[1, 2, 0]])
        model[1].bias.copy_(model[1].bias[[1, 2, 0]])
    Path("names.txt").write_text("b\na\nc\n")
    assert run("other", model=model, classes="names.txt", layer="0.2") == top1
    Path("names.txt").write_text("c\nd\na\n")
    with pytest.raises(ValueError, match="Sequential has no output for the class 'b'"):
        run("third", model=model, classes="names.txt", layer="0.2")


def test_inputs_that_are_not_finite_are_named_before_the_training(tmp_path):
    with pytest.raises(
        ValueError, match=r"epoch 0 with the blend fails: .* or another"
    ):
        fine_tune(tmp_path, epochs=1, groups=2, std=(1e-300, 1, 1))


def test_a_full_disk_keeps_what_was_written_before(tmp_path, monkeypatch):
    """And is an error of the system, which torch.save would hide."""
    path = tmp_path / "blend.pt"
    fine_tuning._save({"a": torch.ones(2)}, path)

    def write(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match="No space left"):
        fine_tuning._save({"a": torch.zeros(2)}, path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [1, 1]
