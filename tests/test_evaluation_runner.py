"""Runs of a few pictures by a network of four outputs, too small to be right."""

import dataclasses
import inspect
import json
import operator
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from captum_cams import GroupCam, LayerRSIGradCam, cli, metrics
from captum_cams.evaluation import (
    batches,
    datasets,
    evaluate,
    plan,
    processes,
    runner,
)
from captum_cams.evaluation.methods import ExplainTask, parse_method
from captum_cams.evaluation.metrics import CURVE_STEPS, EPS, METRICS, THRESHOLDS, TOP
from captum_cams.evaluation.networks import Network
from captum_cams.evaluation.papers import (
    FINE_TUNING,
    GROUPS,
    OUR_CHOICE,
    PAPERS,
    PRESETS,
    SETTINGS,
    Candidate,
)
from captum_cams.evaluation.pictures import covered_share, read_picture
from captum_cams.evaluation.records import FORMAT
from captum_cams.evaluation.results import Records
from captum_cams.evaluation.settings import with_preset
from captum_cams.evaluation.shared_path import shares_path
from captum_cams.examples import shape_pictures, shapes_model
from tests.test_evaluation_datasets import imagenet_data

MODEL = """
import torch
from captum.attr import LayerGradCam
from torch import nn

class Noisy(LayerGradCam):
    def attribute(self, inputs, target=None, n=1):
        maps = super().attribute(inputs, target).detach()
        return maps + n * torch.rand_like(maps)

def build():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )
"""
QUICK = {
    "dataset": "folder",
    "model": "evaluated_net:build",
    "size": 32,
    "batch_size": 2,
    "layers": ["1", "3"],
    "methods": ["grad-cam", "integrated-grad-cam", "rise(n_masks=4)"],
    "metrics": ["heatmap_mean", "average_drop", "dark_heatmaps"],
}


@pytest.fixture(autouse=True)
def network(tmp_path, monkeypatch):
    (tmp_path / "evaluated_net.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(map(os.path.abspath, sys.path)))


@pytest.fixture
def pictures(tmp_path):
    """Five pictures of two classes, and one that is none."""
    for i in range(5):
        image = shape_pictures(1, 64, seed=i).images[0]
        path = tmp_path / f"data/{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255).byte().movedim(0, -1).numpy()).save(path)
    (tmp_path / "data/b/broken.png").write_bytes(b"no picture")
    return tmp_path / "data"


@pytest.fixture
def no_report(monkeypatch):
    """The summary alone."""
    monkeypatch.setattr(runner.figures, "write", lambda *_: [])
    monkeypatch.setattr(runner.report, "write", lambda *_: None)


def summary(folder):
    return [(folder / name).read_bytes() for name in ("summary.csv", "summary.md")]


def timeless(records):
    return [
        {key: value for key, value in record.items() if key != "seconds"}
        for record in records
    ]


def test_values_are_those_of_the_metrics_called_by_hand(tmp_path, no_report):
    arguments = {
        "limit": 2,
        "layers": ["block3", "block4"],
        "batch_size": 2,
        "size": 64,
    }
    methods = ["rsi-grad-cam", "group-cam(groups=4)"]
    chosen = [key for key, metric in METRICS.items() if metric.measure is not None]
    records = list(evaluate("out", methods=methods, metrics=chosen, **arguments))
    assert len(records) == 2 * 2 * 2
    # In the order of memory that the evaluation chooses: curves may jump by rounding.
    model = shapes_model().to(memory_format=torch.channels_last)
    for layer in ("block3", "block4"):
        drawn = [shape_pictures(1, 64, seed=10**7 + i) for i in range(2)]
        images = torch.cat([one.images for one in drawn])
        target = torch.cat([one.labels for one in drawn])
        boxes = [one.boxes for one in drawn]
        modules = [getattr(model, layer)]
        (rsi,) = LayerRSIGradCam(model, modules).attribute(images, target=target)
        group_cam = GroupCam(model, modules[0]).attribute(
            images, target=target, groups=4
        )
        for method, maps in zip(methods, (rsi, group_cam), strict=True):
            full = LayerRSIGradCam.interpolate(maps, (64, 64), "bilinear")
            of_model = (model, images, full)
            of_boxes = {"regions": boxes, "size": (64, 64)}
            curves = {"target": target, "n_steps": CURVE_STEPS}
            options = {"size": (64, 64), "eps": 1e-8}
            overlap = metrics.box_overlap(full, boxes, THRESHOLDS, **options)
            wanted = {
                "heatmap_mean": metrics.heatmap_mean(full),
                "heatmap_mean(normalize)": metrics.heatmap_mean(
                    metrics.normalize(full)
                ),
                "dark_heatmaps": torch.stack(
                    [metrics.dark_heatmaps(full, eps) for eps in EPS], 1
                ),
                "average_drop(eps=1e-08)": metrics.average_drop(
                    *of_model, target=target, eps=1e-8
                ),
                "increase_in_confidence(eps=1e-08)": metrics.increase_in_confidence(
                    *of_model, target=target, eps=1e-8
                ),
                "pixel_energy(normalize)": metrics.pixel_energy(
                    metrics.normalize(full, 1e-8), **of_boxes
                ),
                "average_drop": metrics.average_drop(*of_model, target=target),
                "increase_in_confidence": metrics.increase_in_confidence(
                    *of_model, target=target
                ),
                f"average_drop(top_fraction={TOP})": metrics.average_drop(
                    *of_model, target=target, top_fraction=TOP
                ),
                f"increase_in_confidence(top_fraction={TOP})": metrics.increase_in_confidence(
                    *of_model, target=target, top_fraction=TOP
                ),
                "pixel_energy": metrics.pixel_energy(full, **of_boxes),
                "bbox_score": metrics.bbox_score(full, **of_boxes),
                "pointing_game": metrics.pointing_game(full, **of_boxes),
                "pointing_game(tolerance=15)": metrics.pointing_game(
                    full, tolerance=15 * 64 / 224, **of_boxes
                ),
                "insertion_curve": metrics.insertion_curve(*of_model, **curves),
                "deletion_curve": metrics.deletion_curve(*of_model, **curves),
                "insertion_auc": metrics.insertion_auc(*of_model, **curves),
                "deletion_auc": metrics.deletion_auc(*of_model, **curves),
                "overall": metrics.overall(*of_model, **curves),
                "road": metrics.road(*of_model, target=target),
                "complexity": metrics.complexity(full),
                "sparseness": metrics.sparseness(full),
                **{
                    f"box_overlap.{part}": value
                    for part, value in overlap._asdict().items()
                },
            }
            for i in range(2):
                (record,) = [
                    r
                    for r in records
                    if (r["index"], r["method"], r["layer"]) == (i, method, layer)
                ]
                assert record["target"] == target[i]
                assert record["values"].keys() == wanted.keys()
                for name, value in record["values"].items():
                    nan = float("nan")
                    value = (
                        [nan if v is None else v for v in value]
                        if isinstance(value, list)
                        else nan
                        if value is None
                        else value
                    )
                    torch.testing.assert_close(
                        torch.tensor(value),
                        wanted[name][i],
                        equal_nan=True,
                        rtol=1e-4,
                        atol=1e-6,
                    )


def test_all_counts_and_nothing_is_silent(pictures, no_report):
    records = list(evaluate("out", root=pictures, protocol="group-cam", **QUICK))
    (skipped,) = [record for record in records if "skipped" in record]
    assert skipped["picture"] == "b/broken.png"
    assert "not a picture of a format" in skipped["skipped"]
    explained = [record for record in records if "method" in record]
    # Two layers for two methods, none for RISE.
    assert len(explained) == 5 * 5
    assert [r["index"] for r in records] == sorted(r["index"] for r in records)
    assert {(r["method"], r["layer"]) for r in explained if r["index"] == 0} == {
        ("grad-cam", "1"),
        ("grad-cam", "3"),
        ("integrated-grad-cam", "1"),
        ("integrated-grad-cam", "3"),
        ("rise(n_masks=4)", ""),
    }
    # Without boxes nothing passes the other filters, and that is said too.
    unused = list(evaluate("other", root=pictures, protocol="igc", **QUICK))
    assert sum(record.get("protocols") == [] for record in unused) == 5


@pytest.mark.parametrize(
    ("candidate", "passed"),
    [
        (Candidate(True, 1, 0.4), ["rsi", "igc", "group-cam"]),
        (Candidate(True, 1, 0.5), ["igc", "group-cam"]),
        (Candidate(True, 2, 0.4), ["igc", "group-cam"]),
        (Candidate(False, 1, 0.4), ["igc", "group-cam"]),
        (Candidate(True, 0, 0.0), ["group-cam"]),
        (Candidate(True, 1, 0.0), ["group-cam"]),  # the box of another class
    ],
)
def test_filters_of_the_papers(candidate, passed):
    assert [name for name, of in PAPERS.items() if of.wants(candidate)] == passed


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fill_what_is_not_given(preset, monkeypatch):
    """And are of arguments that the function has."""
    settings = PRESETS[preset].settings
    parameters = inspect.signature(evaluate).parameters
    given = {key: parameters[key].default for key in parameters}
    assert settings.keys() <= given.keys()
    keys = ("dataset", "split", "limit", "model", "weights", "layers", "protocol")
    given = {key: given[key] for key in (*keys, "explain", "target")}
    filled = dict(zip(given, with_preset(preset, given), strict=True))
    assert settings.items() <= filled.items()
    own = given | {"model": "my:net", "dataset": "folder"}
    filled = dict(zip(own, with_preset(preset, own), strict=True))
    assert filled == own | {
        key: settings[key] for key in ("protocol", "explain", "target")
    }
    # What is given counts, though it is what there is without a preset.
    own = given | {"explain": "probabilities", "target": "label", "dataset": "shapes"}
    filled = dict(zip(own, with_preset(preset, own), strict=True))
    assert all(filled[key] == value for key, value in own.items() if value is not None)


def test_a_preset_is_said_with_what_differs(pictures, no_report, tmp_path):
    evaluate("out", root=pictures, preset="group-cam", **QUICK | {"limit": 2})
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["settings"]["explain"] == "logits"
    assert list(run["methods"]) == ["group-cam"]
    text = (tmp_path / "out/summary.md").read_text()
    assert "Preset group-cam; what differs from the paper: " in text
    assert "limit 2 instead of 10000" in text
    with pytest.raises(ValueError, match="preset must be one of 'rsi-grad-cam'"):
        evaluate("out", preset="score-cam")


def test_the_papers_settings_have_a_source():
    """Each number is printed somewhere, or said to be our choice."""
    places = r"(section|sections|eq\.|Table|Fig\.|footnote|its method's section)"
    for setting in SETTINGS:
        assert setting.paper in {*PAPERS, FINE_TUNING}
        source = setting.source
        assert source.startswith(f"{OUR_CHOICE}: ") or re.match(places, source), setting


def test_the_papers_compare_what_they_print():
    methods = {name: paper.methods for name, paper in PAPERS.items()}
    selected = "rsi-grad-cam(weighting='selected')"
    assert methods["rsi"] == ("positive-grad-cam", "integrated-grad-cam", selected)
    assert methods["igc"] == ("grad-cam", "grad-cam-plus-plus", "integrated-grad-cam")
    for paper in PAPERS.values():
        assert all(parse_method(text).label == text for text in paper.methods)
        assert {*paper.metrics} <= METRICS.keys()
        for table in paper.tables:
            for rows in (table.printed or {}).values():
                assert rows.keys() == {*table.metrics}
                swept = table.sweep.labels().values() if table.sweep else None
                columns = {*(swept or paper.methods)}
                assert all({*row} == columns for row in rows.values())
    assert (CURVE_STEPS, max(GROUPS.values)) == (100, 256)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A finished run, to be cut at any place."""
    place = tmp_path_factory.mktemp("unbroken")
    (place / "evaluated_net.py").write_text(MODEL)
    for i in range(3):
        image = shape_pictures(1, 64, seed=i).images[0]
        path = place / f"data/{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255).byte().movedim(0, -1).numpy()).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(runner.figures, "write", lambda *_: [])
        patch.setattr(runner.report, "write", lambda *_: None)
        evaluate("out", root="data", protocol="group-cam", **CUT)
    return place


CUT = QUICK | {
    "methods": ["grad-cam", "rise(n_masks=2)"],
    "metrics": ["heatmap_mean", "average_drop"],
    "layers": ["3"],
    "batch_size": 1,
}


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(share=st.floats(0, 1), ranks=st.sampled_from([0, 3]))
def test_a_run_killed_anywhere_goes_on(unbroken, no_report, monkeypatch, share, ranks):
    monkeypatch.chdir(unbroken)
    whole, cut = unbroken / "out", unbroken / "cut"
    shutil.rmtree(cut, ignore_errors=True)
    shutil.copytree(whole, cut)
    content = (whole / "results-0.jsonl").read_bytes()
    (cut / "results-0.jsonl").unlink()
    (cut / f"results-{ranks}.jsonl").write_bytes(content[: round(share * len(content))])
    for name in ("summary.csv", "summary.md"):
        (cut / name).unlink()
    records = evaluate("cut", root="data", protocol="group-cam", **CUT)
    assert timeless(records) == timeless(Records(whole))
    assert summary(cut) == summary(whole)


def test_a_finished_run_is_not_done_again(unbroken, no_report, monkeypatch):
    monkeypatch.chdir(unbroken)
    monkeypatch.setattr(runner, "explain_batch", None)
    before = (unbroken / "out/results-0.jsonl").read_bytes()
    evaluate("out", root="data", protocol="group-cam", **CUT)
    assert (unbroken / "out/results-0.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, "a run with seed 0, which now is 3; give what it was, or write"),
        ({"batch_size": 2}, "batch_size 1, which now is 2"),
        (
            {"methods": ["grad-cam"]},
            r'methods \["grad-cam", "rise\(n_masks=2\)"\], which now is \["grad-cam"\]',
        ),
        ({"limit": 2}, "limit none, which now is 2"),
        ({"size": 40}, "size 32, which now is 40"),
        ({"resize": "crop"}, 'resize "squash", which now is "crop"'),
        ({"classes": "names.txt"}, r'classes \[\], which now is \["a", "b"\]'),
        ({"layers": ["1"]}, r'layers \["3"\], which now is \["1"\]'),
    ],
)
def test_other_settings_are_refused(unbroken, monkeypatch, change, words):
    monkeypatch.chdir(unbroken)
    Path("names.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=words):
        evaluate("out", root="data", protocol="group-cam", **CUT | change)


def test_other_weights_are_refused(unbroken, monkeypatch):
    monkeypatch.chdir(unbroken)
    monkeypatch.setattr(
        runner,
        "load_network",
        lambda *_, load=runner.load_network, **more: changed(load(*_, **more)),
    )
    with pytest.raises(ValueError, match="a run with digest of the parameters "):
        evaluate("out", root="data", protocol="group-cam", **CUT)


def repainted(folder):
    Image.new("RGB", (64, 64)).save(folder / "a/0.png")


def swapped(folder):
    (folder / "a/0.png").unlink()
    Image.new("RGB", (64, 64)).save(folder / "a/9.png")


def added(folder):
    shutil.copy(folder / "a/0.png", folder / "a/5.png")


def renamed(folder):
    (folder / "b").rename(folder / "c")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (repainted, "results of a/0.png, whose file or annotation has changed since"),
        (swapped, r'pictures \(number 1\) "a/0.png", which now is "a/2.png"'),
        (added, r'pictures \(number \d\) "b/\w+.png", which now is "a/5.png"'),
        (renamed, r'pictures \(number \d\) "b/\w+.png", which now is "c/\w+.png"'),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_pictures_are_refused(
    unbroken, monkeypatch, tmp_path, change, words, finished
):
    """To go on with, and to draw beside the numbers of a finished run."""
    shutil.copytree(unbroken, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(
        runner, "resolved", lambda _, path: path and str(unbroken / path)
    )
    if not finished:
        path = Path("out/results-0.jsonl")
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: len(lines) // 2]))
    change(Path("data"))
    with pytest.raises(ValueError, match=words):
        evaluate("out", root="data", protocol="group-cam", **CUT)


def test_a_folder_that_grew_is_no_longer_the_same_draw(pictures, no_report):
    chosen = CUT | {"limit": 3}
    records = evaluate("out", root=pictures, protocol="group-cam", **chosen)
    assert len(records.run["pictures"]) == 3
    for name in "678":
        shutil.copy(pictures / "a/0.png", pictures / f"a/{name}.png")
    with pytest.raises(ValueError, match=r"holds a run with pictures \(number "):
        evaluate("out", root=pictures, protocol="group-cam", **chosen)


def test_changed_annotations_are_refused(tmp_path, no_report):
    imagenet_data(tmp_path / "data", (40, 20), ("dog", (2, 4, 6, 12)))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    chosen = {"dataset": "imagenet", "root": tmp_path / "data", "model": model}
    chosen |= {"methods": ["grad-cam"], "metrics": ["pixel_energy"], "size": 32}
    chosen |= {"labels": tmp_path / "data/labels.csv", "layers": ["0"]}
    evaluate("out", **chosen)
    evaluate("out", **chosen)
    imagenet_data(tmp_path / "data", (40, 20), ("dog", (2, 4, 6, 13)))
    with pytest.raises(ValueError, match=r"0001.JPEG, whose file or annotation has"):
        evaluate("out", **chosen)


@pytest.mark.parametrize(
    ("gain", "remembered"), [(1.0, True), (1 + 1e-5, True), (1.3, False)]
)
def test_another_model_of_the_same_weights_is_refused(
    unbroken, no_report, monkeypatch, gain, remembered
):
    """But not one that rounds otherwise, as on other threads and machines."""
    monkeypatch.chdir(unbroken)

    def build(*_, load=runner.load_network, **more):
        network = load(*_, **more)
        network.model[0].register_forward_hook(lambda _, __, found: gain * found)
        return network

    monkeypatch.setattr(runner, "load_network", build)
    arguments = {"root": "data", "protocol": "group-cam", **CUT}
    if remembered:
        evaluate("out", **arguments)
        return
    words = r"out holds a run of a model that computes something else: its first outputs for noise were \[0"
    with pytest.raises(ValueError, match=words):
        evaluate("out", **arguments)


def changed(network):
    with torch.no_grad():
        next(network.model.parameters()).add_(1)
    return network


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "results-0.jsonl",
            bytes(range(256)),
            "line 1 of .*results-0.jsonl was not written",
        ),
        (
            "results-0.jsonl",
            b"\x93\x00\xff",
            "line 1 of .*results-0.jsonl was not written",
        ),
        (
            "results-5.jsonl",
            b'{"index": 1}\n',
            "line 1 of .*results-5.jsonl was not written",
        ),
        ("results-5.jsonl", b"[1]\n", "line 1 of .*results-5.jsonl was not written"),
        ("results-5.jsonl", b'{"batch": "x"}\n', "line 1 of .*results-5.jsonl was not"),
        ("run.json", bytes(range(256)), "run.json was not written by an evaluation"),
        ("run.json", b"{}", "run.json was not written by an evaluation"),
        (
            "run.json",
            b'{"settings": {}}',
            f"run.json has format 1 of results and .* reads format {FORMAT}; write to",
        ),
        ("run.json", None, "results-0.jsonl is there without run.json"),
    ],
)
def test_broken_files_are_one_sentence(
    unbroken, tmp_path, monkeypatch, name, content, words
):
    monkeypatch.chdir(unbroken)
    out = tmp_path / "out"
    shutil.copytree(unbroken / "out", out)
    if content is None:
        (out / name).unlink()
    else:
        (out / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        evaluate(out, root="data", protocol="group-cam", **CUT)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_processes_share_a_run_exactly(pictures, tmp_path):
    """Started as torchrun starts them."""
    methods = ["grad-cam", "rise(n_masks=2)", "evaluated_net:Noisy(n=2)"]
    chosen = CUT | {"batch_size": 2, "protocol": "group-cam", "methods": methods}
    whole = evaluate("out", root=pictures, **chosen)
    options = ["--dataset", "folder", "--root", pictures, "--protocol", "group-cam"]
    options += ["--model", "evaluated_net:build", "--size", 32, "--batch-size", 2]
    options += ["--layers", 3, "--methods", ",".join(methods)]
    options += ["--metrics", "heatmap_mean,average_drop", "--device", "cpu"]
    for size in (2, 3):
        out = tmp_path / f"out{size}"
        command = ["-m", "captum_cams", "evaluate", "--out", out, *options]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        shared["PYTHONPATH"] = os.pathsep.join(sys.path)
        group = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=os.environ
                | {name: str(value) for name, value in shared.items()}
                | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        errors = [process.communicate()[1] for process in group]
        assert [process.returncode for process in group] == [0] * size, errors
        assert len(list(out.glob("results-*.jsonl"))) == size
        assert timeless(Records(out)) == timeless(whole)
        assert summary(out) == summary(tmp_path / "out")
        maps = "figures/group-cam-maps.png"
        assert (out / maps).read_bytes() == (tmp_path / "out" / maps).read_bytes()


def test_a_picture_that_cannot_be_explained_is_skipped_alone(
    pictures, no_report, monkeypatch
):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    explain = ExplainTask.explain

    def broken(task, *arguments):
        mean = task.inputs.mean((1, 2, 3))
        if torch.isclose(mean, darkest, rtol=1e-5).any():
            raise ValueError("it is too dark")
        return explain(task, *arguments)

    data = runner.open_dataset("folder", pictures)
    means = [data.load(i, 32).picture.mean() for i in range(5)]
    darkest = min(means)
    monkeypatch.setattr(ExplainTask, "explain", broken)
    chosen = QUICK | {
        "model": model,
        "layers": ["1"],
        "methods": ["grad-cam"],
        "batch_size": 6,
    }
    records = list(evaluate("out", root=pictures, protocol="group-cam", **chosen))
    reasons = {r["index"]: r["skipped"] for r in records if "skipped" in r}
    assert reasons[means.index(darkest)] == "ValueError: it is too dark"
    assert len(reasons) == 2
    assert len(records) == 6


def test_a_fault_of_the_machine_is_no_fault_of_a_picture(
    pictures, no_report, monkeypatch, tmp_path
):
    monkeypatch.setattr(batches, "_clock", raises(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate("out", root=pictures, protocol="group-cam", **QUICK)
    assert not (tmp_path / "out/results-0.jsonl").read_text()


def raises(error):
    def function(*_):
        raise error

    return function


def test_names_that_are_no_unicode_are_spelled_out(pictures, no_report, tmp_path):
    broken = pictures / os.fsdecode(b"a/\xff.png")
    broken.write_bytes(b"no picture")
    evaluate("out", root=pictures, protocol="group-cam", **QUICK)
    assert r"\udcff.png" in (tmp_path / "out/summary.md").read_text("utf-8")


def test_labels_that_are_no_output(pictures, no_report, monkeypatch):
    sample = runner.open_dataset("folder", pictures).load(0, 32)
    data = runner.open_dataset("folder", pictures)
    labels = [-1, 2, 0, 0, 0, 0]

    def load(index, size):
        return sample._replace(boxes={labels[index]: torch.zeros(0, 4)})

    data = data._replace(load=load, classes=())
    monkeypatch.setattr(runner, "open_dataset", lambda *_, **__: data)
    records = list(evaluate("out", root=pictures, protocol="group-cam", **QUICK))
    skipped = [record["index"] for record in records if "skipped" in record]
    assert skipped == [0, 1]


def test_each_layer_has_its_own_time_but_where_a_walk_is_shared(
    pictures, no_report, monkeypatch
):
    asked, explain = [], ExplainTask.explain

    def watched(task, spec, layers, *rest):
        if len(task.inputs) > 1:  # the warm-up's is one
            asked.append((spec.name, len(layers)))
        return explain(task, spec, layers, *rest)

    monkeypatch.setattr(ExplainTask, "explain", watched)
    evaluate("out", root=pictures, protocol="group-cam", **QUICK | {"batch_size": 6})
    shared = [("integrated-grad-cam", 2), ("rise", 2)]
    assert asked == [("grad-cam", 1), ("grad-cam", 1), *shared]


def test_every_method_is_warm_and_none_is_always_the_first(
    pictures, no_report, monkeypatch
):
    """Each explains a picture untimed, then a batch at a time, in turns."""
    asked, explain = [], ExplainTask.explain

    def watched(task, spec, layers, *rest):
        asked.append((spec.name, len(task.inputs)))
        return explain(task, spec, layers, *rest)

    monkeypatch.setattr(ExplainTask, "explain", watched)
    chosen = CUT | {"methods": ["grad-cam", "rise(n_masks=2)", "hi-res-cam"]}
    chosen |= {"batch_size": 2, "root": pictures, "protocol": "group-cam"}
    (pictures / "a/0.png").write_bytes(b"broken")  # which the warm-up passes over
    records = list(evaluate("out", **chosen))
    a, b, c = "grad-cam", "rise", "hi-res-cam"
    first, second, third = ([p for p in records if p["index"] // 2 == i] for i in range(3))  # fmt: skip
    sizes = [len({r["index"] for r in of if "values" in r}) for of in (first, second, third)]  # fmt: skip
    wanted = [(name, 1) for name in (a, b, c)]
    for names, size in zip(((a, b, c), (b, c, a), (c, a, b)), sizes, strict=True):
        wanted += [(name, size) for name in names]
    assert asked == wanted
    for i, of in enumerate((first, second, third)):
        explained = [r for r in of if "values" in r]
        assert {r["explained_in"] for r in explained} == {i}
        assert len({(r["method"], r["seconds"]) for r in explained}) == 3


def test_methods_along_a_path_share_its_points(pictures, no_report):
    """And their maps are those that each of them makes alone."""
    methods = ["rsi-grad-cam(weighting='selected')", "rsi-grad-cam", "integrated-grad-cam"]  # fmt: skip
    chosen = QUICK | {"root": pictures, "protocol": "group-cam", "metrics": "heatmap_mean"}  # fmt: skip
    found = []
    for labels in (methods, *([label] for label in methods)):
        records = evaluate("-".join(labels), **chosen | {"methods": labels})
        new = [r for r in timeless(records) if "method" in r]
        # Each of so many methods and two layers has its share.
        assert {r.pop("passes") for r in new} == {51 / len(labels) / 2}
        found += new
    together, alone = found[: len(found) // 2], found[len(found) // 2 :]
    key = operator.itemgetter("index", "method", "layer")
    for one, other in zip(
        sorted(together, key=key), sorted(alone, key=key), strict=True
    ):
        assert key(one) == key(other)
        mean, of_other = (r["values"]["heatmap_mean"] for r in (one, other))
        assert mean == pytest.approx(of_other, rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "sharing"),
    [
        (["rsi-grad-cam", "integrated-grad-cam"], 2),
        (["rsi-grad-cam(n_steps=9)", "integrated-grad-cam(n_steps=9)"], 2),
        (["rsi-grad-cam(n_steps=9)", "integrated-grad-cam"], 0),
        (["rsi-grad-cam(tolerance=0.1)", "integrated-grad-cam(tolerance=0.1)"], 0),
        (["rsi-grad-cam", "integrated-grad-cam(method='gausslegendre')"], 0),
        (["rsi-grad-cam", "grad-cam"], 0),
    ],
)
def test_only_equal_paths_are_shared(labels, sharing):
    assert len(shares_path([parse_method(label) for label in labels])) == sharing


def test_no_picture_at_all_is_an_error(pictures, no_report):
    shutil.rmtree(pictures / "a")
    for path in (pictures / "b").iterdir():
        path.write_bytes(b"no picture")
    (pictures / "a").mkdir()
    (pictures / "a/1.png").write_bytes(b"")
    words = "no picture could be explained; of the first: .*1.png: it is empty"
    with pytest.raises(ValueError, match=words):
        evaluate("out", root=pictures, protocol="group-cam", **QUICK)


def test_small_pictures_are_blurred_in_proportion(pictures, no_report, tmp_path):
    chosen = {"size": 20, "methods": ["group-cam"], "layers": ["1"]}
    arguments = QUICK | chosen | {"metrics": ["overall", "insertion_auc"]}
    records = evaluate("out", root=pictures, protocol="group-cam", **arguments)
    assert sum("values" in record for record in records) == 5
    words = "Pictures of 20 pixels are blurred by 39 taps and a sigma of 38.2, as the"
    assert words in (tmp_path / "out/summary.md").read_text()


def test_what_needs_another_library_is_not_left_out_silently(monkeypatch, no_report):
    monkeypatch.setattr(
        "captum_cams.evaluation.methods.util.find_spec", lambda name: None
    )
    arguments = {"limit": 1, "size": 64, "protocol": "group-cam"}
    with pytest.raises(ValueError, match=r"^xrai needs skimage; pip install 'captum-"):
        evaluate("out", methods=["xrai"], **arguments)
    words = "xrai needs skimage; .* brings it, and without it is left out"
    with pytest.warns(UserWarning, match=words):
        records = evaluate("out", metrics=["overall", "insertion_auc"], **arguments)
    assert "xrai" not in records.run["methods"]["group-cam"]
    assert "captum-cams[xrai]" in "".join(records.run["left_out"])
    left_out = Path("out/summary.md").read_text("utf-8").partition("## Left out")[2]
    assert "xrai needs skimage; pip install 'captum-cams\\[xrai\\]'" in left_out
    with pytest.raises(ValueError, match=r"^xrai needs skimage; pip install 'captum-"):
        evaluate("out", methods=["xrai(mode='fast')"], **arguments)
    chosen = arguments | {"protocol": "igc", "metrics": ["pixel_energy"]}
    evaluate("other", methods=["grad-cam"], **chosen)  # nothing to warn of


def test_what_is_left_out_is_said_in_a_line_at_the_start(monkeypatch, capsys):
    monkeypatch.setattr(
        "captum_cams.evaluation.methods.util.find_spec", lambda name: None
    )
    monkeypatch.setattr(runner, "explain_batch", raises(KeyboardInterrupt))
    options = ["evaluate", "--limit", "1", "--size", "64", "--protocol", "group-cam"]
    assert cli.main([*options, "--out", "here"]) == 130
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "skimage" in x]
    assert line.startswith("captum-cams: xrai needs skimage; pip install 'captum-cams[")
    assert "randomization_check needs skimage" in line
    assert "captum-cams[sanity]" in line


def test_what_cannot_lose_its_weights_is_not_checked_for_sanity(pictures, no_report):
    pytest.importorskip("skimage")
    scale = nn.Conv2d(3, 4, 3, stride=4)
    scale.bare = nn.ParameterList([nn.Parameter(torch.ones(1))])
    model = network_of(scale)
    chosen = {"root": pictures, "protocol": "group-cam", "size": 32, "layers": ["1"]}
    chosen |= {"dataset": "folder", "model": model, "methods": ["grad-cam"]}
    with pytest.raises(
        ValueError, match=r"reset_parameters\(\); ParameterList \(0.bare"
    ):
        evaluate("out", metrics=["randomization_check"], **chosen)
    with pytest.warns(UserWarning, match="lacks it, and without it is left out"):
        records = list(evaluate("out", **chosen))
    assert sum("skipped" in record for record in records) == 1  # the broken file


def test_a_parameter_outside_of_all_layers_does_not_forbid_the_check():
    model = network_of(nn.Conv2d(3, 4, 3, stride=4))
    model.scale = nn.Parameter(torch.ones(1))
    assert all(
        name != "randomization_check" for name, _ in plan._missing_requirements(model)
    )


def network_of(convolution):
    return nn.Sequential(
        convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def test_more_groups_than_channels_are_seen_before_the_first_picture(pictures):
    chosen = QUICK | {"methods": ["group-cam(groups=5)"], "root": pictures}
    with pytest.raises(ValueError, match=r"^group-cam\(groups=5\) needs .* got 4; ask"):
        evaluate("out", **chosen)
    assert plan._swept(GROUPS, 24) == []
    assert "group-cam(groups=16)" in plan._swept(GROUPS, 32)
    assert "group-cam(groups=32)" not in plan._swept(GROUPS, 64)
    assert "group-cam(groups=64)" in plan._swept(GROUPS, 64)


def test_one_score_is_no_choice_of_classes():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    with pytest.raises(
        ValueError, match="must give two or more class scores a picture"
    ):
        evaluate("out", model=model, limit=1, size=64)


LABELS = """
import torch
from evaluated_net import build as scores
from torch import nn

def build():
    return nn.Sequential(scores(), nn.Sigmoid())
"""


@pytest.mark.parametrize(
    ("explain", "explained", "measured"),
    [
        ("probabilities", lambda y: y.softmax(1), lambda y: y.softmax(1)),
        ("logits", lambda y: y, lambda y: y.softmax(1)),
        ("sigmoid", torch.sigmoid, torch.sigmoid),
        ("model", lambda y: y, lambda y: y),
    ],
)
def test_the_explained_output_and_the_measured_one(
    tmp_path, no_report, pictures, explain, explained, measured
):
    chosen = QUICK | {"methods": ["rsi-grad-cam"], "layers": ["1"], "root": pictures}
    chosen["protocol"] = "group-cam"
    records = evaluate("out", explain=explain, **chosen)
    assert records.run["settings"]["explain"] == explain
    model = runner.load_network("evaluated_net:build").model
    records = [record for record in records if "values" in record]
    assert len(records) == 5
    for record in records:
        x = read_picture(tmp_path / "data" / record["picture"], 32, "squash")[None]
        target = record["target"]
        maps = LayerRSIGradCam(
            lambda x: explained(model(x)), model.get_submodule("1")
        ).attribute(x, target=target)
        full = LayerRSIGradCam.interpolate(maps, (32, 32), "bilinear")
        values = record["values"]
        wanted = metrics.average_drop(lambda x: measured(model(x)), x, full, target=target)  # fmt: skip
        assert record["probability"] == pytest.approx(
            measured(model(x))[0, target].item(), abs=1e-6
        )
        assert values["heatmap_mean"] == pytest.approx(full.mean().item(), rel=1e-4)
        drop = torch.nan if values["average_drop"] is None else values["average_drop"]
        assert drop == pytest.approx(wanted.item(), abs=1e-4, nan_ok=True)
    # Another output is another run.
    other = "logits" if explain == "probabilities" else "probabilities"
    with pytest.raises(
        ValueError, match=f'holds a run with explain "{explain}", which'
    ):
        evaluate("out", explain=other, **chosen)


def test_a_network_of_several_labels(tmp_path, no_report, pictures):
    """A softmax of its sigmoid is refused, and the sigmoid is taken once."""
    (tmp_path / "labels_net.py").write_text(LABELS)
    chosen = QUICK | {"methods": ["grad-cam"], "protocol": "group-cam"}
    chosen |= {"root": pictures, "model": "labels_net:build", "layers": ["0.1"]}
    with pytest.raises(ValueError, match="choose --explain sigmoid or --explain model"):
        evaluate("refused", **chosen)
    assert not Path("refused/run.json").exists()
    scores = chosen | {"model": "evaluated_net:build", "layers": ["1"]}
    wanted = [r["values"] for r in evaluate("s", explain="sigmoid", **scores) if "values" in r]  # fmt: skip
    for explain in ("sigmoid", "model"):
        found = evaluate(explain, explain=explain, **chosen)
        assert [r["values"] for r in found if "values" in r] == wanted


ODD = """
from evaluated_net import build as trained, nn, torch

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = trained()

    def forward(self, x):
        y = self.part(x)
        low, high = torch.aminmax(x.flatten(1), dim=1, keepdim=True)
        bright = (low > 0.5) & (high <= 1)
        return torch.where(bright, y, y.softmax(1))
"""


def test_a_misread_model_ends_the_run(tmp_path, no_report, pictures):
    """And is no reason to skip the pictures that tell of it."""
    (tmp_path / "odd_net.py").write_text(ODD)
    Image.new("RGB", (64, 64), (250, 200, 180)).save(pictures / "b/white.png")
    chosen = QUICK | {"methods": ["grad-cam"], "protocol": "group-cam"}
    chosen |= {"root": pictures, "model": "odd_net:Odd", "layers": ["part.1"]}
    words = "odd_net:Odd's outputs for noise are probabilities that add up to 1, but"
    with pytest.raises(ValueError, match=words):
        evaluate("out", **chosen)
    assert "white.png" not in Path("out/results-0.jsonl").read_text()
    records = evaluate("model", explain="model", **chosen)
    assert records.run["settings"]["model gives"] == "shares"
    assert "b/white.png" in {r["picture"] for r in records if "values" in r}


def test_outputs_are_named_by_a_file(tmp_path, no_report, pictures):
    """The names match those of the data set's folders, and are told apart."""
    Path("names.txt").write_text("b\na\n")
    (tmp_path / "three.py").write_text(MODEL.replace("Linear(4, 2)", "Linear(4, 3)"))
    chosen = QUICK | {"methods": ["grad-cam"], "protocol": "group-cam"}
    chosen |= {"root": pictures, "model": "three:build", "classes": "names.txt"}
    with pytest.raises(ValueError, match="of the 3 outputs of three:build"):
        evaluate("out", **chosen)
    Path("names.txt").write_text("b\nnone\na\n")
    records = evaluate("out", **chosen)
    assert records.run["classes"] == ["b", "none", "a"]
    of = {(r["category"], r["target"]) for r in records if "values" in r}
    assert of == {("a", 2), ("b", 0)}
    Path("names.txt").write_text('["b", "none", "a"]')
    with pytest.raises(ValueError, match="a run with digest of the classes"):
        evaluate("out", **chosen)


def test_the_predicted_class_is_explained(tmp_path, no_report, pictures):
    chosen = QUICK | {
        "methods": ["grad-cam"],
        "protocol": "group-cam",
        "root": pictures,
    }
    labels = [r for r in evaluate("labels", **chosen) if "values" in r]
    records = [
        r for r in evaluate("out", target="predicted", **chosen) if "values" in r
    ]
    model = runner.load_network("evaluated_net:build").model
    assert len(records) == len(labels) == 2 * 5
    for record, label in zip(records, labels, strict=True):
        x = read_picture(tmp_path / "data" / record["picture"], 32, "squash")[None]
        probabilities = model(x).softmax(1)[0]
        assert record["target"] == int(probabilities.argmax())
        assert record["probability"] == pytest.approx(probabilities.max().item())
        assert record["category"] == "ab"[record["target"]]
        if record["target"] == label["target"]:
            assert timeless([record]) == timeless([label])
    assert {r["target"] for r in labels} == {0, 1} != {r["target"] for r in records}


BOXES = {
    # Labels with their boxes, the predicted class, its boxes, whether it is a label.
    "right": ({0: [[0, 0, 4, 4]]}, 0, [[0, 0, 4, 4]], True),
    "wrong": ({0: [[0, 0, 4, 4]]}, 1, [], False),
    "one of two": ({0: [[0, 0, 4, 4]], 1: [[1, 1, 3, 3], [2, 2, 5, 5]]}, 1, [[1, 1, 3, 3], [2, 2, 5, 5]], True),
    "right without boxes": ({1: []}, 1, [], True),
    "a class that the data set lacks": ({0: [[0, 0, 4, 4]]}, 2, [], False),
    "labels that the network lacks": ({2: [[0, 0, 4, 4]]}, 1, [], False),
}  # fmt: skip


@pytest.mark.parametrize("name", BOXES)
def test_boxes_and_filters_of_the_predicted_class(name, monkeypatch):
    """Boxes are those of the predicted class; "right" is about the labels."""
    labels, predicted, boxes, right = BOXES[name]
    candidates = []
    everything = dataclasses.replace(
        PAPERS["group-cam"],
        wants=lambda candidate: candidates.append(candidate) or True,
    )
    monkeypatch.setitem(PAPERS, "group-cam", everything)
    scores = torch.zeros(3).index_fill(0, torch.tensor(predicted), 2.0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.register_forward_hook(lambda _, __, y: 0 * y + scores)
    shown = {key: torch.tensor(value).view(-1, 4).float() for key, value in labels.items()}  # fmt: skip
    data = datasets.DataSet(["one.png"], ["cat", "dog", "owl"], None, None)
    made = SimpleNamespace(
        network=Network("the model", model.eval(), size=8),
        device=torch.device("cpu"),
        data=data,
        targets=[0, 1, None],
        asked={"group-cam": {}},
        target="predicted",
        run={"classes": ["cat", "dog", "owl"]},
    )
    shares = {key: covered_share(value, (8, 8)) for key, value in shown.items()}
    stored = sum(map(len, shown.values())), shares
    sample = datasets.Sample(torch.rand(3, 8, 8), shown, *stored, "")
    (example,), others = batches._examples(made, [(0, sample)])
    assert not others
    assert example.target == predicted
    assert example.boxes.tolist() == boxes
    assert [candidate.right for candidate in candidates] == [right]
    assert batches._category(made, predicted) == ["cat", "dog", "owl"][predicted]


def test_a_users_model_is_left_as_it_is(tmp_path, no_report, pictures):
    (tmp_path / "evaluated_nets.py").write_text(MODEL + "net = build()\n")
    chosen = QUICK | {"model": "evaluated_nets:net", "methods": ["grad-cam"]}
    paths = list(sys.path)
    for out in ("one", "two"):
        evaluate(out, root=pictures, protocol="group-cam", **chosen)
    assert sys.modules["evaluated_nets"].net.training
    assert len(sys.path) <= len(paths) + 1


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("grad-cam", "grad-cam"),
        ("group-cam()", "group-cam"),
        (
            " group-cam( groups = 8,denoise_percentile=None)",
            "group-cam(groups=8, denoise_percentile=None)",
        ),
    ],
)
def test_methods_with_arguments(text, label):
    spec = parse_method(text)
    assert spec.label == label
    assert parse_method(spec.label) == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gradcam", "there is no method 'gradcam'; the closest names are grad-cam"),
        ("group-cam(8)", "must be like group-cam"),
        ("group-cam(groups=open('x'))", "must be like group-cam"),
        ("group-cam(", "there is no method"),
        ("group-cam(**{'groups': 2})", "must be like group-cam"),
        ("group-cam(groups=8)(x=1)", "must be like group-cam"),
        ("group-cam(grops=8)", "no argument 'grops'; the closest names are groups"),
    ],
)
def test_methods_that_are_none(text, words):
    with pytest.raises(ValueError, match=words):
        parse_method(text)


def test_sanity_is_checked_on_the_first_pictures(tmp_path, no_report):
    pytest.importorskip("skimage")
    arguments = {
        "limit": 2,
        "size": 64,
        "sanity_pictures": 1,
        "metrics": ["randomization_check"],
    }
    records = list(evaluate("out", methods=["grad-cam"], **arguments))
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["randomized"] == [
        "linear",
        "block5",
        "block4",
        "block3",
        "block2",
        "block1",
    ]
    first, second = (record["values"] for record in records if "method" in record)
    assert first.keys() == {
        f"randomization_check.{mode}.{likeness}"
        for mode in ("cascading", "independent")
        for likeness in ("spearman", "ssim")
    }
    assert all(len(values) == 6 for values in first.values())
    assert second == {}


def test_maps_of_the_sanity_check_are_those_that_were_measured(tmp_path, monkeypatch):
    """Explained again they are the same, and so are the files of figures."""
    pytest.importorskip("skimage")
    plans = []

    def noted(*arguments):
        plans.append(plan.make_plan(*arguments))
        return plans[-1]

    monkeypatch.setattr(runner, "make_plan", noted)
    wanted = {
        "limit": 2,
        "size": 64,
        "protocol": "group-cam",
        "batch_size": 1,
        "layers": ["block3", "block4"],
        "methods": ["grad-cam", "rise(n_masks=3)"],
        "metrics": ["randomization_check"],
    }
    records = list(evaluate("out", **wanted))
    for record in records[:3]:
        of = [record[key] for key in ("index", "target", "method", "layer")]
        for mode in ("cascading", "independent"):
            before, *after = batches.explain_randomized(plans[0], *of, mode)
            again = batches.explain_again(plans[0], *of)[1]
            torch.testing.assert_close(before, again, rtol=0, atol=0)
            for cam, value in zip(
                after,
                record["values"][f"randomization_check.{mode}.spearman"],
                strict=True,
            ):
                if value is not None:  # no map is constant
                    found = spearmanr(before.flatten(), cam.flatten()).statistic
                    assert found == pytest.approx(value, abs=1e-6)
    (tmp_path / "out/results-0.jsonl").unlink()
    files = [*(tmp_path / "out/figures").iterdir()]
    assert {"group-cam-sanity-cascading-maps.png", "group-cam-maps.png"} <= {
        path.name for path in files
    }
    once = [path.read_bytes() for path in files]
    evaluate("out", **wanted)
    assert [path.read_bytes() for path in files] == once


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    options = [
        "evaluate",
        "--limit",
        "2",
        "--size",
        "64",
        "--protocol",
        "rsi",
        "--methods",
    ]
    assert cli.main([*options, "grad-cam", "--out", "here"]) == 0
    out = capsys.readouterr().out
    assert f"report: {tmp_path / 'here/report.html'}" in out
    for name in (
        "summary.csv",
        "summary.md",
        "report.html",
        "run.json",
        "results-0.jsonl",
    ):
        assert (tmp_path / "here" / name).stat().st_size > 0
    assert list((tmp_path / "here/figures").glob("*.png"))
    assert cli.main([*options, "hi-res-cam", "--out", "here"]) == 2
    assert "holds a run with methods" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "explain_batch", stop)
    options = ["evaluate", "--limit", "1", "--size", "64", "--methods", "grad-cam"]
    assert cli.main([*options, "--out", "here"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize("there", [True, False])
def test_freed_memory_is_kept_where_glibc_can(monkeypatch, there):
    calls = []
    library = SimpleNamespace(mallopt=lambda *of: calls.append(of)) if there else None
    monkeypatch.setattr(processes.ctypes, "CDLL", lambda _: library)
    processes.keep_freed_memory()
    # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    assert calls == ([(-4, 0), (-1, 2**31 - 1)] if there else [])
