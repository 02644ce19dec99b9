"""Tables, figures and report from records that are made up."""

import base64
import csv
import dataclasses
import io
import json
import math
import random
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm, t

from captum_cams.evaluation import figures, report, tables
from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.intervals import Z, of_mean, wilson
from captum_cams.evaluation.metrics import METRICS
from captum_cams.evaluation.papers import FIG_2, GROUPS, PAPERS, PERCENTILES
from captum_cams.evaluation.records import FORMAT
from captum_cams.evaluation.results import Records
from captum_cams.evaluation.summary import Difference, Mean, Means, Summary
from captum_cams.visualization import panel

EPS = [1e-8, 1e-4]
DROP, OVERALL = "average_drop(eps=1e-08)", "overall"
METHODS = ["grad-cam", "rsi-grad-cam", "rise"]
ABLATIONS = ["group-cam(groups=8)", "group-cam(denoise_percentile=50)"]


def a_run(**changes):
    run = {
        "format": FORMAT,
        "settings": {"dataset": "folder", "root": "a/b", "device": "cpu", "seed": 0},
        "network": "net <b>",
        "pictures": [*"abcd"],
        "shown": [],
        "notes": ["Hidden folders were left out: .x."],
        "left_out": ["xrai needs skimage; pip install 'captum-cams[xrai]' brings it"],
        "methods": {
            "rsi": METHODS[:2],
            "igc": METHODS[:2],
            "group-cam": [*METHODS, "group-cam", *ABLATIONS],
        },
        "metrics": {protocol: [*paper.metrics] for protocol, paper in PAPERS.items()},
        "layers": ["block.4", "block.5"],
        "classes": ["cat", "dog"],
        "eps": EPS,
        "thresholds": [0.25, 0.5],
        "curve_steps": 4,
        "randomized": ["linear", "conv"],
        "versions": {"torch": "2"},
        "started": "2022-05-22T00:00:00+00:00",
    }
    return {**run, **changes}


def a_record(index=0, method="grad-cam", layer="block.4", values=None, **changes):
    record = {
        "index": index,
        "picture": f"{index}.png",
        "digest": "",
        "left_out": {},
        "target": index % 2,
        "category": ["cat", "dog"][index % 2],
        "probability": 0.5,
        "protocols": ["rsi", "igc", "group-cam"],
        "method": method,
        "layer": layer,
        "values": values or {},
        "explained_in": index // 2,
        "seconds": 0.5,
        "passes": 9.0,
    }
    return {**record, **changes}


def skipped(index, picture, why):
    return {"index": index, "picture": picture, "digest": "", "skipped": why}


def unused(index, picture, **left_out):
    facts = {"index": index, "picture": picture, "digest": "", "left_out": left_out}
    return {**facts, "protocols": []}


def all_values(draw, method):
    areas = {
        "insertion_auc": draw(),
        "deletion_auc": draw(),
        "overall": draw() - draw(),
    }
    if "(" in method:
        return areas
    return areas | {
        "heatmap_mean": draw() * 1e-3,
        "heatmap_mean(normalize)": draw(),
        "dark_heatmaps": [float(draw() < 0.3), float(draw() < 0.7)],
        "average_drop(eps=1e-08)": draw(),
        "increase_in_confidence(eps=1e-08)": float(draw() < 0.5),
        "pixel_energy(normalize)": draw() if draw() < 0.8 else None,
        "pixel_energy": draw() if draw() < 0.8 else None,
        "box_overlap.iou": [draw(), draw()],
        "box_overlap.iob": [draw(), draw()],
        "box_overlap.ior": [draw(), None],
        "bbox_score": draw(),
        "average_drop(top_fraction=0.15)": draw(),
        "increase_in_confidence(top_fraction=0.15)": float(draw() < 0.5),
        "insertion_curve": sorted(draw() for _ in range(5)),
        "deletion_curve": sorted((draw() for _ in range(5)), reverse=True),
        "pointing_game": float(draw() < 0.5),
        **{
            f"randomization_check.{mode}.{likeness}": [draw(), draw()]
            for mode in ("cascading", "independent")
            for likeness in ("spearman", "ssim")
        },
    }


def many_records(run, pictures=12, seed=0):
    draw = random.Random(seed).random
    for index in range(pictures):
        if index == 3:
            yield skipped(3, "3.png", "the file is <broken>")
            continue
        if index == 4:
            yield unused(4, "4.png")
            continue
        probability = draw()
        for layer in ["", *run["layers"]]:
            for method in [*METHODS, "group-cam", *ABLATIONS]:
                if (layer == "") == (method == "rise"):
                    values = all_values(draw, method)
                    yield a_record(
                        index, method, layer, values, probability=probability
                    )


def gallery(index, target, method, layer):
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index))
    box = torch.tensor([[4.0, 4.0, 20.0, 20.0]])
    return picture, picture.mean(0)[::8, ::8], box, f"<script>{index}</script> & co"


def randomized(index, target, method, layer, mode):
    """Maps that get brighter; the run's layers are two."""
    return [torch.full((3, 3), 0.1 * (1 + i)) + torch.eye(3) for i in range(3)]


def rows(folder):
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def the_row(folder, **wanted):
    (row,) = [
        row
        for row in rows(folder)
        if all(row[name] == value for name, value in wanted.items())
    ]
    return row


def test_means_and_standard_errors_are_those_by_hand(tmp_path):
    numbers = [0.25, None, 0.5, 1.0]
    records = [a_record(i, values={DROP: x}) for i, x in enumerate(numbers)]
    tables.write(tmp_path, Summary(a_run(), records))
    row = the_row(tmp_path, metric=DROP, method="grad-cam")
    mean = 1.75 / 3
    squares = (0.25 - mean) ** 2 + (0.5 - mean) ** 2 + (1 - mean) ** 2
    assert float(row["mean"]) == pytest.approx(mean, rel=1e-15)
    assert float(row["standard_error"]) == pytest.approx(math.sqrt(squares / 2 / 3))
    assert (row["count"], row["missing"], row["category"]) == ("3", "1", "all")


def test_running_means_agree_with_numpy_and_keep_equal_numbers_exact():
    values = np.random.default_rng(0).lognormal(size=(50, 3))
    values[values < 0.3] = np.nan
    means = Means(3)
    for row in values:
        means.add(row)
    for place, column in enumerate(values.T):
        known = column[~np.isnan(column)]
        mean = means[place]
        assert mean.mean == pytest.approx(known.mean())
        assert mean.standard_error == pytest.approx(
            known.std(ddof=1) / math.sqrt(len(known))
        )
        assert (mean.number, mean.missing) == (len(known), 50 - len(known))
    same = Means(1)
    for _ in range(7):
        same.add(np.array([0.1]))
    assert same[0] == (0.1, 0.0, 7, 0, None)


def test_one_value_has_no_error_and_none_no_mean():
    means = Means(2)
    means.add(np.array([0.5, np.nan]))
    means.add(np.array([np.inf, np.inf]))  # not in this record
    assert means[0] == (0.5, None, 1, 0, None)
    assert means[1] == (None, None, 0, 1, None)


def test_by_class_and_mean_over_classes(tmp_path):
    hits = [1.0, 1.0, 0.0, 1.0]  # cat, dog, cat, dog
    records = [
        a_record(i, values={"pointing_game": x, "pixel_energy": x / 4})
        for i, x in enumerate(hits)
    ]
    tables.write(tmp_path, Summary(a_run(), records))
    for metric, wanted in (("pointing_game", 0.5), ("pixel_energy", 0.125)):
        row = the_row(tmp_path, metric=metric, category="cat")
        assert float(row["mean"]) == wanted and row["count"] == "2"
    row = the_row(tmp_path, category="mean of classes")
    assert row["metric"] == "pointing_game"
    assert (float(row["mean"]), row["count"]) == (0.75, "2")
    # Errors 0.5 of the cats and 0 of the dogs.
    assert float(row["standard_error"]) == pytest.approx(0.25)


def test_classes_that_share_a_name_stay_apart(tmp_path):
    records = [
        a_record(i, target=target, category="crane", values={"pointing_game": 1.0})
        for i, target in enumerate((134, 517))
    ]
    tables.write(tmp_path, Summary(a_run(), records))
    names = {row["category"] for row in rows(tmp_path)}
    assert names == {"all", "crane (134)", "crane (517)", "mean of classes"}


def test_names_that_are_not_unicode_can_be_written(tmp_path):
    records = [a_record(category="caf\udce9", values={"pointing_game": 1.0})]
    tables.write(tmp_path, Summary(a_run(), records))
    assert the_row(tmp_path, metric="pointing_game", category="caf\\udce9")


ROUGH = "a|b`c*\x1b[31m\u202ed\u200be\nf<i>\udce9"


def test_rough_names_are_spelled_out_in_tables_and_report(tmp_path):
    record = a_record(category=ROUGH, values={"pixel_energy": 1.0})
    record["picture"] = ROUGH
    other = a_record(1, category="dog", values={"pixel_energy": 0.5})
    broken = skipped(2, "x", f"cannot read {ROUGH}")
    records = [record, other, broken]
    summary = Summary(a_run(classes=[ROUGH, "dog"], network=ROUGH), records)
    tables.write(tmp_path, summary)

    def explain(*of):
        return *gallery(*of)[:3], ROUGH

    drawings = figures.write(tmp_path, summary, records, explain)
    report.write(tmp_path, summary, drawings, explain)
    page = Page()
    page.feed((tmp_path / "report.html").read_text("utf-8"))
    shown = r"a|b`c*\x1b[31m\u202ed\u200be\nf<i>\udce9"
    assert f"cannot read {shown}" in page.text
    assert shown in page.text.partition("The same picture by all methods")[2]
    assert any(f"({shown}, 1.png)" in image["alt"] for image in page.images)
    markdown = (tmp_path / "summary.md").read_text("utf-8")
    for mark in r"\|`*[<>":
        shown = shown.replace(mark, f"\\{mark}")
    assert f"| {shown} | " in markdown and f"cannot read {shown}" in markdown
    for file in ("summary.md", "summary.csv", "report.html"):
        text = (tmp_path / file).read_text("utf-8")
        assert not {*"\x1b\u202e\u200b"} & {*text}


NOISE, CLEAR, ITSELF, FEW = (
    Difference(-1, -2, 1, 9),
    Difference(-2, -3, -1, 9),
    Difference(0, 0, 0, 0),
    Difference(-2, -3, -1, 5),
)


@pytest.mark.parametrize(
    ("differences", "best"),
    [
        ([CLEAR, ITSELF, None], [1]),
        ([NOISE, ITSELF, CLEAR], [0, 1]),
        ([NOISE, ITSELF, None], []),  # no method is shown to be better than another
        ([FEW, ITSELF, FEW], []),  # five maps agree by chance, too
        ([None, None, None], []),  # nothing is ranked
    ],
)
def test_only_what_the_data_support_is_bold(differences, best):
    means = [Mean(0.5, 0.1, 9)] * 3
    row = tables.cells(means, METRICS[OVERALL], differences)
    assert [i for i, cell in enumerate(row) if cell.best] == best


def test_paired_differences_are_those_by_hand():
    """Of maps that both methods have; the interval is the bootstrap's."""
    draw = np.random.default_rng(0)
    easy = draw.random(40)  # what makes a picture easy is common to all methods
    rows = {
        "grad-cam": easy,
        "rsi-grad-cam": easy + 0.1 + 0.01 * draw.standard_normal(40),
        "rise": easy + 0.1 + 0.01 * draw.standard_normal(40),
    }
    rows["rise"][7] = math.nan
    records = [
        a_record(i, method, "" if method == "rise" else "block.4", {OVERALL: values[i]})
        for i in range(40)
        for method, values in rows.items()
    ]
    for record in records:
        value = record["values"][OVERALL]
        record["values"][OVERALL] = None if math.isnan(value) else value
    summary = Summary(a_run(), records)
    found = summary.differences("group-cam", METHODS, "block.4", OVERALL)
    means = {method: np.nanmean(values) for method, values in rows.items()}
    best = max(means, key=means.get)
    for method, difference in zip(METHODS, found, strict=True):
        known = ~np.isnan(rows[method]) & ~np.isnan(rows[best])
        d = rows[method][known] - rows[best][known]
        assert difference.mean == pytest.approx(d.mean())
        resampled = draw.choice(d, (4000, len(d))).mean(1)
        wanted = np.quantile(resampled, [0.025, 0.975])
        assert difference[1:3] == pytest.approx(wanted, abs=0.002)
        assert difference.apart == np.count_nonzero(d)
        assert difference.is_noise == (method != "grad-cam")
    assert summary.differences("rsi", METHODS[:2], "block.4", "heatmap_mean") == [None, None]  # fmt: skip


def test_cells_are_written_as_in_the_papers():
    (cell,) = tables.cells([Mean(0.12345, 0.0021, 9)], METRICS["pixel_energy"])
    assert cell.text == "12.35 ± 0.21"
    (cell,) = tables.cells([Mean(-1e-9, None, 1)], METRICS[OVERALL])
    assert cell.text == "0.0"
    (cell,) = tables.cells([Mean(None, None, 0, 3)], METRICS[OVERALL])
    assert cell.text == "undefined"
    (cell,) = tables.cells([Mean(None, None, 0, 0)], METRICS[OVERALL])
    assert cell.text == "not run"
    dark = METRICS["dark_heatmaps.probability"]
    assert tables.cells([Mean(None, None, 0, 0)], dark)[0].text == "none dark"
    (cell,) = tables.cells([Mean(1.0, 0.0, 7, 2)], METRICS["pixel_energy"])
    assert cell.text == "100.00 (7 alike) (7 of 9)"


def test_markdown_holds_the_papers_tables(tmp_path):
    records = [
        a_record(i, method, values={"insertion_auc": x, "pixel_energy": x})
        for i in range(6)
        for method, x in (("grad-cam", 0.5), ("rsi-grad-cam", 0.625), ("group-cam", 0))
    ]
    records += [
        a_record(9, ABLATIONS[0], values={"insertion_auc": 0.75}),
        a_record(9, "rise", "", values={"insertion_auc": 0.25}),
    ]
    tables.write(tmp_path, Summary(a_run(), records))
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "# net \\<b\\> on folder" in text
    assert "| EBPG, % ↑ | 50.00 (6 alike) | **62.50** (6 alike) |" in text
    row = "50.0 (6 alike) | **62.5** (6 alike) | 25.0 | 0.0 (6 alike) |"
    assert f"| insertion, % ↑ | {row}" in text
    assert "| 8 | 75.0 |" in text and "| 32 | 0.0 (6 alike) |" in text
    assert "xrai needs skimage; pip install 'captum-cams\\[xrai\\]' brings it" in text
    assert "nan" not in text.lower()


def test_a_method_without_a_layer_stands_beside_every_layer(tmp_path):
    records = [
        a_record(0, "rise", "", values={"overall": 0.25}),
        a_record(0, "grad-cam", "block.4", values={"overall": 0.5}),
        a_record(0, "grad-cam", "block.5", values={"overall": 0.125}),
    ]
    tables.write(tmp_path, Summary(a_run(), records))
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert text.partition("### ")[2].count("25.0") == 2
    assert "Insertion and deletion (Table 1): `block.4`" in text


def test_probability_of_dark_maps_is_of_the_dark_ones_alone(tmp_path):
    records = [
        a_record(i, probability=p, values={"dark_heatmaps": [dark, 0.0]})
        for i, (p, dark) in enumerate([(0.5, 1.0), (0.75, 1.0), (0.1, 0.0)])
    ]
    tables.write(tmp_path, Summary(a_run(), records))
    row = the_row(tmp_path, metric="dark_heatmaps.probability[1e-08]")
    assert (float(row["mean"]), row["count"]) == (0.625, "2")
    names = [row["metric"] for row in rows(tmp_path)]
    assert "dark_heatmaps.probability[0.0001]" not in names


def test_a_protocol_counts_its_own_methods_and_pictures(tmp_path):
    records = [
        a_record(0, values={DROP: 0.5}, protocols=["group-cam"]),
        a_record(0, target=1, values={DROP: 0.5}, protocols=["group-cam"]),
        a_record(1, "rise", "", values={DROP: 0.5}),
        skipped(2, "a", "is broken"),
        unused(3, "b", marked=2),
    ]
    summary = Summary(a_run(), records)
    assert (summary.read, summary.skipped.total()) == (3, 1)
    assert summary.pictures == {"rsi": 0, "igc": 0, "group-cam": 2}
    assert summary.targets["group-cam"] == 3
    lines = tables.picture_counts(summary)
    assert lines[:2] == ["3 of 4 pictures read, 1 skipped.", "Skipped, 1: is broken"]
    assert "Group-CAM uses 2 of them, with 3 explained classes: all." in lines
    assert lines[2:4] == ["Boxes left out, 2: marked.", *a_run()["notes"]]


def test_what_was_not_reached_is_told():
    lines = tables.picture_counts(Summary(a_run(), []))
    assert lines[1] == "Not reached: 4; the run is not finished."


def test_without_pictures_all_files_say_so(tmp_path):
    run, records = a_run(), [unused(0, "a")]
    tables.write(tmp_path, Summary(run, records))
    drawings = figures.write(tmp_path, Summary(run, records), records)
    report.write(tmp_path, Summary(run, records), drawings, gallery)
    for name in ("summary.md", "report.html"):
        text = (tmp_path / name).read_text("utf-8")
        assert "No picture passed the filter of RSI-Grad-CAM" in text
    assert not list((tmp_path / "figures").iterdir())


def test_times_are_apart(tmp_path):
    records = [a_record(i, explained_in=i, seconds=i + 1.0) for i in range(3)]
    tables.write(tmp_path, Summary(a_run(), records))
    text = (tmp_path / "timings.md").read_text("utf-8")
    assert "| grad-cam | 9 |" in text  # passes
    assert "| grad-cam | 2 ± 0.577 |" in text and "device cpu" in text
    assert "**" not in text and "↓" not in text
    assert "| rise | xrai | grad-cam | score-cam | group-cam |" in text  # as printed
    assert "0.577" not in (tmp_path / "summary.md").read_text("utf-8")


def test_a_batch_is_one_sample_of_the_time(tmp_path):
    """However many pictures share it, and also where one of them was done alone."""
    shares = {0: [1.0, 1.0, 1.0], 1: [3.0], 2: [4.0, 6.0, 5.0]}
    records = [
        a_record(3 * batch + i, explained_in=batch, seconds=share)
        for batch, of in shares.items()
        for i, share in enumerate(of)
    ]
    mean, error, number, *_ = Summary(a_run(), records).cost("grad-cam", "block.4")
    assert (mean, number) == (3, 3)  # of 1, 3 and 5
    assert error == pytest.approx(2 / math.sqrt(3))
    one = Summary(a_run(), records[:3]).cost("grad-cam", "block.4")
    assert one[:3] == (1, None, 1)


@pytest.mark.parametrize(
    ("yes", "number", "wanted"),
    [  # as statsmodels' proportion_confint(yes, number, method="wilson") has them
        (0, 16, (0.0, 0.193608)),
        (16, 16, (0.806392, 1.0)),
        (0, 1, (0.0, 0.793450)),
        (3, 10, (0.107791, 0.603222)),
        (50, 100, (0.403832, 0.596168)),
    ],
)
def test_intervals_of_shares_are_wilsons(yes, number, wanted):
    low, high = wilson(yes / number, number)
    assert (low, high) == pytest.approx(wanted, abs=1e-6)
    for end in {low, high} - {0.0, 1.0}:  # the score test's own equation
        error = math.sqrt(end * (1 - end) / number)
        assert abs(yes / number - end) / error == pytest.approx(Z)


def test_a_mean_of_shares_has_an_interval_of_theirs():
    ends = [wilson(1.0, 4), wilson(0.5, 6)]
    low, high = of_mean([1.0, 0.5], ends)
    below = math.sqrt((1 - ends[0][0]) ** 2 + (0.5 - ends[1][0]) ** 2) / 2
    assert (low, high) == pytest.approx((0.75 - below, 0.75 + (ends[1][1] - 0.5) / 2))
    same = wilson(0.25, 8)
    assert of_mean([0.25], [same]) == pytest.approx(same)


def test_shares_of_few_pictures_have_intervals(tmp_path):
    key = "increase_in_confidence(eps=1e-08)"
    records = [
        a_record(
            i, values={key: 0.0, "pointing_game": 1.0, "dark_heatmaps": [1.0, 0.0]}
        )
        for i in range(16)
    ]
    tables.write(tmp_path, Summary(a_run(), records))
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "| increase in confidence, % ↑ | 0.00 [0.00, 19.36] |" in text
    assert "all pictures | pointing game, % ↑ | 100.0 [80.6, 100.0] |" in text
    assert "| mean over 2 classes | pointing game, % ↑ | 100.0 [77.1, 100.0] |" in text
    assert "| 1e-08 | 100.00 [80.64, 100.00] |" in text
    assert "Wilson's interval of 95% of a share" in text
    row = the_row(tmp_path, metric=key, category="all", method="grad-cam")
    assert (float(row["low"]), float(row["high"])) == pytest.approx(wilson(0, 16))


def test_likeness_after_randomization_knows_no_sign(tmp_path):
    """A map turned over is the same map; and nothing is better for being lower."""
    key = "randomization_check.cascading"
    records = [
        a_record(
            i, values={f"{key}.spearman": [rho, None], f"{key}.ssim": [-0.5, None]}
        )
        for i, rho in enumerate([-0.9, 0.9])
    ]
    tables.write(tmp_path, Summary(a_run(), records))
    text = (tmp_path / "summary.md").read_text("utf-8")
    part = text[text.index("(Fig. 6): |Spearman|".replace("|", "\\|")) :]
    assert "| linear | 0.900 (2 alike) | not run |" in part
    assert "| conv | undefined | not run |" in part
    assert not re.search(r"(Spearman|SSIM)[^\n]*[↑↓]", part)


def verdict_of(pictures, methods=METHODS[:2], **values):
    run = a_run(methods={"group-cam": methods}, metrics={"group-cam": [OVERALL]})
    run["layers"] = ["block.4"]
    records = [
        a_record(i, method, values={OVERALL: values[method][i % 9]})
        for i in range(pictures)
        for method in methods
        if method in values
    ]
    return tables.verdict(Summary(run, records))


def test_the_verdict_says_what_the_data_support():
    up = [0.5 + 0.01 * i for i in range(9)]
    wide = [0.1 + 0.1 * (i % 2) for i in range(9)]
    first, second, third = METHODS
    values = {first: up, second: [x - 0.2 for x in up], third: [0.51, *up[1:]]}
    (line,) = verdict_of(9, METHODS, **values)
    assert line == "Group-CAM, over-all: rise is best with 54.1%; grad-cam is within noise of it."  # fmt: skip
    (line,) = verdict_of(9, **values)
    assert line.endswith("grad-cam is best with 54.0%, ahead of all others.")
    for pictures in (1, 2, 5):  # all agree, and might by chance
        (line,) = verdict_of(pictures, **values)
        assert line.endswith("and no other method can be told from it.")
    (line,) = verdict_of(9, **{first: wide, second: wide})
    assert line.endswith("all have 14.4%, and no method can be told from another.")
    (line,) = verdict_of(9, **{first: wide})
    assert line.endswith(
        "grad-cam alone has values, so that there is nothing to compare."
    )
    (line,) = verdict_of(9)
    assert line.startswith("Nothing was measured")
    rounded = [x + 1e-7 * x for x in up]  # the same map, computed in another order
    (line,) = verdict_of(9, **{first: up, second: rounded})
    assert "best" not in line and "ahead" not in line


def summary_of(maps, protocol="group-cam", pictures=None):
    """A summary of values by method, None where a map has no value."""
    run = a_run(methods={protocol: [*maps]}, metrics={protocol: [OVERALL]})
    run["layers"] = ["block.4"]
    number = len(next(iter(maps.values())))
    records = [
        a_record(
            i if pictures is None else pictures[i],
            method,
            values={OVERALL: values[i]},
            target=i,
        )
        for i in range(number)
        for method, values in maps.items()
    ]
    return Summary(run, records)


def test_the_best_mean_is_not_best_where_another_is_ahead_on_the_maps_of_both():
    easy = [0.8 + 0.001 * i for i in range(10)]
    maps = {
        "grad-cam": [0.6] * 10 + [None] * 30,
        "rise": [*easy, *[0.4] * 30],
        "score-cam": [None] * 40,
    }
    summary = summary_of(maps)
    (line,) = tables.verdict(summary)
    assert line == (
        "Group-CAM, over-all: grad-cam has the best mean, 60.0%, but on the maps that "
        "both have rise is ahead of it. Without a value: score-cam."
    )
    means = summary.across("group-cam", [*maps], "block.4", OVERALL)
    found = summary.differences("group-cam", [*maps], "block.4", OVERALL)
    assert not any(c.best for c in tables.cells(means, METRICS[OVERALL], found))


def test_what_cannot_be_compared_is_named():
    nothing, up = [None] * 10, [0.5 + 0.01 * i for i in range(10)]
    maps = {
        "grad-cam": up + nothing,
        "rise": nothing + [0.4] * 10,
        "score-cam": [x - 0.2 for x in up] + [0.1] * 10,
    }
    (line,) = tables.verdict(summary_of(maps))
    assert line == (
        "Group-CAM, over-all: grad-cam is best with 54.5%, ahead of score-cam. Not "
        "comparable, for lack of common maps: rise."
    )


def test_maps_of_one_picture_are_not_independent():
    up = [0.5 + 0.01 * i for i in range(12)]
    maps = {
        "grad-cam": up,
        "rise": [x - 0.1 - 0.01 * (i % 3) for i, x in enumerate(up)],
    }
    apart = summary_of(maps).differences("group-cam", [*maps], "block.4", OVERALL)[1]
    together = summary_of(maps, pictures=[i // 6 for i in range(12)])
    close = together.differences("group-cam", [*maps], "block.4", OVERALL)[1]
    assert (apart.apart, close.apart) == (12, 2)
    assert apart.mean == pytest.approx(close.mean)
    assert not apart.is_noise and close.is_noise


def test_intervals_of_few_pictures_are_wider():
    """By the quantiles of the expanded percentile bootstrap: 7% errors for 14%."""
    draw = np.random.default_rng(0)
    changes = draw.standard_normal(6)
    maps = {"grad-cam": [10.0] * 6, "rise": [*(9 + changes)]}
    found = summary_of(maps).differences("group-cam", [*maps], "block.4", OVERALL)[1]
    tail = norm.cdf(-math.sqrt(6 / 5) * t.ppf(0.975, 5))
    assert 0.002 < tail < 0.003
    resampled = draw.choice(changes - 1, (40000, 6)).mean(1)
    wanted = np.quantile(resampled, [tail, 1 - tail])
    assert found[1:3] == pytest.approx(wanted, abs=0.1)
    plain = np.quantile(resampled, [0.025, 0.975])
    assert found.low < plain[0] - 0.1 and found.high > plain[1] + 0.1


def test_files_of_any_ranks_give_the_same_bits(tmp_path):
    run = a_run(pictures=[*"abcdefghijkl"])
    records = list(many_records(run))
    batches = [[r for r in records if r["index"] // 2 == b] for b in range(6)]
    texts = []
    for world in (1, 2, 3):
        folder = tmp_path / f"{world}"
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(run))
        shuffled = random.Random(world).sample(range(6), 6)
        for rank in range(world):
            lines = [
                line
                for batch in shuffled[rank::world]
                for line in [*batches[batch], {"batch": batch}]
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"results-{rank}.jsonl").write_text(text)
        tables.write(folder, Summary(run, Records(folder)))
        texts.append([(folder / f"summary.{e}").read_bytes() for e in ("csv", "md")])
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("window", [1, 4, 20])
def test_rolling_means_are_those_of_a_loop(window):
    values = np.random.default_rng(0).random(20)
    values[[3, 4, 5, 6, 12]] = np.nan
    slow = []
    for start in range(len(values) - window + 1):
        known = [x for x in values[start : start + window] if not math.isnan(x)]
        slow.append(sum(known) / len(known) if known else math.nan)
    np.testing.assert_allclose(figures.rolling_mean(values, window), slow)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A folder with all files, and what the report asked the gallery for."""
    folder, asked = tmp_path_factory.mktemp("evaluated"), []
    run = a_run(pictures=[*"abcdefghijklmnopqrstuvwx"], layers=["block.4"])
    records = list(many_records(run, 24))

    def noted(*key):
        asked.append(key)
        return gallery(*key)

    summary = Summary(run, records)
    tables.write(folder, summary)
    drawings = figures.write(folder, summary, records, gallery, randomized)
    report.write(folder, summary, drawings, noted)
    return folder, asked, drawings


def test_figures_are_pictures_with_captions(evaluated):
    folder, _, drawings = evaluated
    files = {path.name: path for path in (folder / "figures").iterdir()}
    assert set(files) == {
        "rsi-maps.png",
        "igc-maps.png",
        "group-cam-maps.png",
        "group-cam-sanity-cascading-maps.png",
        "group-cam-sanity-independent-maps.png",
        "rsi-heatmap-means-before.png",
        "rsi-heatmap-means-after.png",
        "rsi-dark-heatmaps.png",
        "rsi-confidence-last.png",
        "rsi-energy.png",
        "rsi-overlap-last.png",
        "group-cam-curves.png",
        "group-cam-groups.png",
        "group-cam-theta.png",
        "group-cam-sanity-cascading-spearman.png",
        "group-cam-sanity-cascading-ssim.png",
        "group-cam-sanity-independent-spearman.png",
        "group-cam-sanity-independent-ssim.png",
    }
    for path in files.values():
        with Image.open(path) as image:
            assert image.format == "PNG"
    assert [drawing.path for drawing in drawings] == [
        files[d.path.name] for d in drawings
    ]
    for drawing in drawings:
        assert drawing.path.name.startswith(drawing.protocol)
        assert re.match(r"(Fig\.|Table) \d+((-|, )\d+)?: ", drawing.caption)
        assert drawing.caption.endswith(".")


def test_figures_that_say_nothing_are_not_drawn(tmp_path):
    """A rolling mean of single pictures, quartiles of one value, no dark map at all."""
    run = a_run(methods={"rsi": METHODS[:1]}, layers=["block.4"])
    values = {DROP: 0.5, "heatmap_mean": 0.5, "dark_heatmaps": [0.0, 0.0]}
    drawn = {}
    for pictures, dark in ((1, 0.0), (19, 1.0), (20, 0.0)):
        of = values | {"dark_heatmaps": [0.0, dark]}
        records = [a_record(i, values=of) for i in range(pictures)]
        found = figures.write(tmp_path, Summary(run, records), records)
        drawn[pictures] = [one.path.stem for one in found]
    assert drawn == {
        1: [],
        19: ["rsi-heatmap-means-before", "rsi-dark-heatmaps"],
        20: ["rsi-heatmap-means-before", "rsi-confidence-last"],
    }
    (caption,) = [one.caption for one in found if "confidence" in one.path.stem]
    assert caption.endswith(": rolling means over 2 pictures sorted by probability.")


@pytest.fixture
def panels(monkeypatch):
    """What is laid over which pictures, by calls of `panel`."""
    calls = []

    def noted(pictures, maps, titles, boxes, eps=None):
        calls.append((pictures, maps, titles, boxes, eps))
        return panel(pictures, maps, titles, boxes, eps=eps)

    monkeypatch.setattr(figures, "panel", noted)
    return calls


def test_maps_of_all_methods_stand_side_by_side(tmp_path, panels):
    """A row for each layer of the first pictures, for two classes at most."""
    run = a_run(methods={"rsi": METHODS})
    examples = [(0, 5), (0, 6), (0, 7), (2, 1), (4, 0), (5, 0), (6, 0)]
    records = [
        a_record(index, method, layer, target=target, category=f"class {target}")
        for index, target in examples
        for layer in ["", *run["layers"]]
        for method in METHODS
        if (method == "rise") == (layer == "")
    ]

    def explain(index, target, method, layer):
        picture, _, box, caption = gallery(index, target, method, layer)
        place = ["", *run["layers"]].index(layer)
        cam = torch.arange(4.0).view(2, 2) + 100 * index + 10 * target + place
        return picture, cam + METHODS.index(method), box, caption

    summary = Summary(run, records)
    drawings = figures.write(tmp_path, summary, records, explain)
    ((pictures, maps, titles, boxes, eps),) = panels
    shown = [of for of in examples if of not in ((0, 7), (6, 0))]
    lines = [(*of, layer) for of in shown for layer in run["layers"]]
    assert titles == [f"class {target} 0.500\n{layer}" for _, target, layer in lines]
    assert (eps, len(boxes)) == (1e-8, len(lines))
    assert list(maps) == METHODS
    for i, (index, target, layer) in enumerate(lines):
        for method in METHODS:
            at = "" if method == "rise" else layer
            picture, cam, *_ = explain(index, target, method, at)
            torch.testing.assert_close(pictures[i], picture)
            torch.testing.assert_close(maps[method][i, 0, ::31, ::31], cam)
    names = "0.png, 2.png, 4.png, 5.png"
    (caption,) = [d.caption for d in drawings if d.path.stem == "rsi-maps"]
    assert caption.startswith(f"Fig. 8-11: Maps of the first pictures ({names}), each ")


def test_group_cams_figure_has_methods_of_its_own(tmp_path, panels):
    def explain(index, target, method, layer):
        if method == "guided-backprop":
            raise UserError("the network has no ReLU")
        if method == "xrai":
            raise ImportError("xrai needs saliency")
        return gallery(index, target, method, layer)

    records = [a_record(0)]
    run = a_run(methods={"group-cam": METHODS}, layers=["block.4"])
    (drawing,) = figures.write(tmp_path, Summary(run, records), records, explain)
    wanted = [name for name in FIG_2 if name not in ("guided-backprop", "xrai")]
    assert [name.replace("\n", "") for name in panels[0][1]] == wanted
    assert drawing.caption.endswith(
        "; guided-backprop is left out: the network has no ReLU; xrai is left out: "
        "ImportError: xrai needs saliency."
    )
    # Of the package's own pictures it is done with fewer masks.
    run["settings"]["dataset"] = "shapes"
    figures.write(tmp_path, Summary(run, records), records, explain)
    assert "rise(n_masks=200)" in panels[1][1]
    # Those that were asked for are all.
    run["settings"]["methods"] = METHODS
    figures.write(tmp_path, Summary(run, records), records, explain)
    assert list(panels[2][1]) == METHODS


def test_maps_of_the_sanity_check_are_shown_from_the_output_down(tmp_path, panels):
    layers = [f"layer{i}" for i in range(15)]
    run = a_run(methods={"group-cam": METHODS[:2]}, randomized=layers)
    keys = [f"randomization_check.{mode}.ssim" for mode in ("cascading", "independent")]
    values = dict.fromkeys(keys, [0.5] * 15)
    records = [
        a_record(i, method, values=values) for i in (3, 4) for method in METHODS[:2]
    ]
    records.insert(0, a_record(2))  # not checked

    def explain(index, target, method, layer, mode):
        assert index == 3
        place = 100 * METHODS.index(method) + 1000 * (mode == "independent")
        return [torch.eye(2) + place + i for i in range(16)]

    summary = Summary(run, records)
    drawings = figures.write(tmp_path, summary, records, gallery, explain)
    (drawing,) = [d for d in drawings if d.path.stem.endswith("cascading-maps")]
    _, maps, titles, *_ = panels[-2]
    assert titles == [f"dog 0.500\n{method}\nblock.4" for method in METHODS[:2]]
    chosen = [0, 2, 4, 6, 8, 10, 12, 14]
    assert list(maps) == ["original", *(f"layer{i}" for i in chosen)]
    for column, at in zip(maps.values(), [0, *(i + 1 for i in chosen)], strict=True):
        assert column[:, 0, 0, 0].tolist() == [at + 1, at + 101]
    assert drawing.caption.endswith(
        "(3.png), from the output down, each together with all before it; 8 of 15 "
        "layers are shown; each map scaled by its own maximum."
    )
    (curve,) = [d for d in drawings if d.path.stem.endswith("cascading-ssim")]
    assert "means over 2 pictures with bands of two standard errors" in curve.caption


def test_the_best_typical_and_worst_are_chosen_by_the_main_metric():
    """By all methods' mean, of the pictures that all have; each with its values."""
    drops = [0.5, 0.1, 0.9, None, 0.3, 0.6]  # lower is better
    records = [
        a_record(i, method, values={DROP: x, OVERALL: x})
        for i, x in enumerate(drops)
        for method in METHODS[:2]
    ]
    summary = Summary(a_run(), records)
    chosen = report.cases(summary, "rsi", "block.4")
    assert [case.picture for case in chosen] == [1, 0, 2]
    values = dict.fromkeys(METHODS[:2], 0.1)
    assert chosen[0] == ("best", 1, 1, values)
    chosen = report.cases(summary, "group-cam", "block.4")
    assert [case.picture for case in chosen] == [2, 0, 1]
    of_one = report.cases(Summary(a_run(), records[:2]), "rsi", "block.4")
    assert [(case.rank, case.picture) for case in of_one] == [("best", 0)]
    # A picture counts where all methods have a value.
    del records[2]
    chosen = report.cases(Summary(a_run(), records), "rsi", "block.4")
    assert [case.picture for case in chosen] == [4, 0, 2]


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.text = [], [], [], [], ""

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        assert tag != "script" and not any(name.startswith("on") for name in of)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.ids += [of["id"]] if "id" in of else []
        self.links += [of["href"]] if "href" in of else []
        if tag == "img":
            self.images.append(of)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_is_one_sound_file_that_shows_all(evaluated):
    folder, asked, _ = evaluated
    page = Page()
    page.feed((folder / "report.html").read_text("utf-8"))
    assert page.open == []
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    kinds = [image["src"].split(",")[0] for image in page.images]
    drawn = len(list((folder / "figures").iterdir()))
    assert kinds.count("data:image/png;base64") == drawn
    # Three pictures of each paper, by 2, 2 and 4 methods, ablations left out.
    assert kinds.count("data:image/jpeg;base64") == 3 * (3 + 3 + 5)
    content = base64.b64decode(page.images[0]["src"].split(",")[1])
    assert Image.open(io.BytesIO(content)).format == "JPEG"
    assert all(image["alt"] for image in page.images)
    captions = [i["alt"] for i in page.images if "image/png" in i["src"]]
    numbers = [caption.partition(":")[0] for caption in captions]
    of_rsi = [f"Fig. {n}" for n in ("8-11", 13, 14, 15, 16, 19, 20)]
    of_group_cam = ["Fig. 2-3", "Fig. 4", "Table 2", "Fig. 5", *["Fig. 6"] * 6]
    assert numbers == [*of_rsi, "Fig. 1, 3", *of_group_cam]
    assert len(asked) == len(set(asked))  # nothing is explained twice
    for text in ("<script>", "net <b>", "<broken>"):  # as it is, not as HTML
        assert text in page.text
    places = ["What the data support", "The same picture by", "Numerical stability"]
    assert sorted(places, key=page.text.index) == places
    assert "Left out:xrai needs skimage" in page.text
    assert METRICS["pixel_energy"].meaning in page.text


def test_a_report_has_no_empty_parts(tmp_path):
    records = [a_record(i, values={"pixel_energy": 0.5}) for i in range(3)]
    run = a_run(left_out=[], methods={"rsi": METHODS[:1]})
    summary = Summary(run, records)
    report.write(tmp_path, summary, figures.write(tmp_path, summary, records), gallery)
    text = (tmp_path / "report.html").read_text("utf-8")
    for absent in ("Left out", "Figures of", "None.", 'id="gallery"', "<ul></ul>"):
        assert absent not in text


def test_metrics_that_were_not_asked_for_have_no_rows(tmp_path):
    values = {"pixel_energy": 0.5, "bbox_score": None}
    tables.write(tmp_path, Summary(a_run(), [a_record(values=values)]))
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "| EBPG, % ↑ | 50.00 | not run |" in text
    assert "| Bbox, % ↑ | undefined | not run |" in text
    assert "undefined: no map has a value" in text and "not run: not asked" in text
    measured = text[text.index("### ") : text.index("as printed")]
    for absent in ("Increase", "IoU", "insertion", "Pointing", "Sanity", "groups"):
        assert absent not in measured


def test_metrics_of_other_papers_have_a_table_where_they_are_asked_for(tmp_path):
    keys = ["bbox_score", "box_overlap.iou", "overall"]
    run = a_run(methods={"igc": METHODS[:2]}, metrics={"igc": keys})
    values = {"bbox_score": 0.25, "box_overlap.iou": [0.5, 0.75], "overall": 0.125}
    tables.write(tmp_path, Summary(run, [a_record(values=values, protocols=["igc"])]))
    text = (tmp_path / "summary.md").read_text("utf-8")
    table = text[text.index("### Other metrics") :]
    table = table[: table.index("as printed")]
    assert "| Bbox, % ↑ | 25.00 |" in text
    assert "| Bbox" not in table
    for row in ("IoU, % ↑ at 0.25 | 50.00", "IoU, % ↑ at 0.5 | 75.00", "over-all"):
        assert f"| {row}" in table
    assert "box_overlap.iou" in (tmp_path / "summary.csv").read_text("utf-8")


def test_a_metric_of_the_users_own_is_in_the_tables(tmp_path, monkeypatch):
    mine = dataclasses.replace(METRICS["overall"], label="mine", higher_is_better=None)
    monkeypatch.setitem(METRICS, "my_metric", mine)
    run = a_run(methods={"igc": METHODS[:2]}, metrics={"igc": ["my_metric"]})
    records = [a_record(values={"my_metric": 0.25}, protocols=["igc"])]
    tables.write(tmp_path, Summary(run, records))
    assert "| mine, % | 25.0 |" in (tmp_path / "summary.md").read_text("utf-8")
    assert the_row(tmp_path, metric="my_metric", method="grad-cam")["mean"] == "0.25"


def test_what_the_papers_print_stands_beside_what_was_measured(tmp_path):
    records = [a_record(values={"pixel_energy": 0.5})]
    tables.write(tmp_path, Summary(a_run(), records))
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "| EBPG, % ↑ | 55.44 | 46.29 | 55.94 |" in text
    assert "Printed in the paper, of ResNet-50 on the 4,952 test pictures" in text
    assert "The tables above are of net \\<b\\> on folder, 1 pictures." in text


def test_sweeps_are_apart_and_other_arguments_are_not():
    names = ["group-cam", *ABLATIONS, "group-cam(use_gradients=False)", "rise"]
    run = a_run(methods={"group-cam": names})
    assert GROUPS.labels()[8] == ABLATIONS[0] and GROUPS.labels()[32] == "group-cam"
    assert max(GROUPS.labels(64)) == 64
    assert PERCENTILES.labels()[50] == ABLATIONS[1]
    assert tables.compared_methods(run, "group-cam") == [names[0], *names[3:]]
    run = a_run(methods={"group-cam": ABLATIONS[:1]})
    assert tables.compared_methods(run, "group-cam") == ABLATIONS[:1]
    # What was asked for by name is compared with all others.
    run = a_run(methods={"group-cam": names})
    run["settings"] = {**run["settings"], "methods": names}
    assert tables.compared_methods(run, "group-cam") == names
