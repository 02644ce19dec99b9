"""What README, the measured tables and CONTRIBUTING show runs."""

import re
from pathlib import Path

import torch

from captum_cams.attr.registry import METHODS
from tests.models import network, random

# Tuples that functions return.
RESULTS = {"BoxOverlap", "PointingAccuracy"}
ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MEASURED = ROOT / "tutorials/MEASURED.md"


def run(file):
    """The names that the file's examples of Python define together."""
    names = {}
    for code in re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL):
        exec(code, names)
    return names


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(README)["rsi"].shape == (4, 1, 4, 4)
    assert (tmp_path / "rsi.png").exists()


def test_the_measured_tables_tell_their_commands():
    run(MEASURED)
    sections = MEASURED.read_text().split("\n## ")[1:]
    command = re.compile(r"python -m\s+tests\.benchmarks\s+(\w+)|captum-cams evaluate")
    for section in sections:
        found = list(command.finditer(section))
        assert found, section[:40]
        for name in filter(None, (match[1] for match in found)):
            assert (ROOT / f"tests/benchmarks/{name}.py").exists()


def test_the_method_that_contributors_are_shown():
    try:
        cam = run(ROOT / ".github/CONTRIBUTING.md")["LayerMyCam"]
        assert METHODS["my-cam"].attribution is cam
    finally:
        METHODS.pop("my-cam", None)
    model, x = network(), random(2, 2, 6, 6)
    activations = model.layer(x)  # (2, 6, 3, 3)
    (gradients,) = torch.autograd.grad(model.head(activations)[:, 0].sum(), activations)
    expected = (gradients.abs() * activations).sum(1, keepdim=True).relu()
    maps = cam(model, model.layer).attribute(x, target=0)
    torch.testing.assert_close(maps, expected.detach())


def test_every_name_is_listed():
    import captum_cams

    text = README.read_text()
    names = {*captum_cams.__all__, *captum_cams.metrics.__all__} - RESULTS
    assert not [name for name in names if not re.search(rf"[`.]{name}\b", text)]
