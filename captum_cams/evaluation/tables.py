"""
From records to numbers: ``summary.csv``, ``summary.md`` and ``timings.md``.

One pass over the records, in their order, gives means and standard errors; equal
records give equal files, to the bit. Times differ from run to run and have a file of
their own.
"""

import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from captum_cams import metrics
from captum_cams.evaluation.records import Explained, Record, Run, Value

Array = NDArray[np.float64]

AREAS = "insertion_auc", "deletion_auc", "overall"
_MOST_CLASSES = 20  # that a table lists
_MOST_REASONS = 20
_ABSENT = math.inf  # what a record does not have, where NaN is a value without meaning
NO_VALUE = "\N{EN DASH}"


class Paper(NamedTuple):
    """What it measures, and on which pictures."""

    title: str
    pictures: str
    metrics: Sequence[str]
    by_class: Sequence[str] = ()


_LOCALIZATION = (  # Integrated Grad-CAM, Table 1, over all and by class
    "pixel_energy",
    "bbox_score",
    "average_drop(top_fraction=0.15)",
    "increase_in_confidence(top_fraction=0.15)",
)
PAPERS = {
    "rsi": Paper(
        "RSI-Grad-CAM",
        "those that the network gets right, with one box that covers less than half "
        "of the picture (section 4.3.1)",
        (
            "heatmap_mean",
            "heatmap_mean(normalize)",
            "average_drop",
            "increase_in_confidence",
            "pixel_energy",
            "box_overlap.iou",
            "box_overlap.iob",
            "box_overlap.ior",
            "dark_heatmaps",
            "dark_heatmaps.probability",
        ),
    ),
    "igc": Paper(
        "Integrated Grad-CAM",
        "those with boxes",
        _LOCALIZATION,
        by_class=_LOCALIZATION,
    ),
    "group-cam": Paper(
        "Group-CAM",
        "all",
        (
            "insertion_auc",
            "deletion_auc",
            "overall",
            "pointing_game",
            "insertion_curve",
            "deletion_curve",
            "randomization_check.spearman",
            "randomization_check.ssim",
        ),
        ("pointing_game",),
    ),
}


class Style(NamedTuple):
    """A metric's name in a table, and how its numbers are written."""

    label: str
    form: str = ".2f"
    scale: float = 100
    unit: str = "%"

    @property
    def text(self) -> str:
        """Name and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


STYLES = {
    "heatmap_mean": Style("heat-map mean before normalizing", ".3g", 1, ""),
    "heatmap_mean(normalize)": Style("heat-map mean after normalizing", ".3f", 1, ""),
    "average_drop": Style("average drop"),
    "increase_in_confidence": Style("increase in confidence"),
    "pixel_energy": Style("EBPG"),
    "box_overlap.iou": Style("IoU"),
    "box_overlap.iob": Style("IoB"),
    "box_overlap.ior": Style("IoR"),
    "dark_heatmaps": Style("dark heat maps"),
    "dark_heatmaps.probability": Style("mean probability where dark", ".3f", 1, ""),
    "bbox_score": Style("Bbox"),
    "average_drop(top_fraction=0.15)": Style("Drop"),
    "increase_in_confidence(top_fraction=0.15)": Style("Increase"),
    "insertion_auc": Style("insertion", ".1f"),
    "deletion_auc": Style("deletion", ".1f"),
    "overall": Style("over-all", ".1f"),
    "pointing_game": Style("pointing game", ".1f"),
    "randomization_check.spearman": Style("Spearman", ".3f", 1, ""),
    "randomization_check.ssim": Style("SSIM", ".3f", 1, ""),
    "seconds": Style("time", ".3g", 1, "s"),
}
_NO_DIRECTION = ("heatmap_mean(normalize)", "dark_heatmaps.probability")


def higher_is_better(metric: str) -> bool | None:
    """The direction of a record's metric; None where neither is better."""
    if metric == "seconds":
        return False
    if metric in _NO_DIRECTION:
        return None
    function = getattr(metrics, re.split(r"[.(]", metric)[0])
    better: bool = function.higher_is_better
    return better


def arrow(metric: str) -> str:
    """The direction as papers show it."""
    return {True: " ↑", False: " ↓", None: ""}[higher_is_better(metric)]


def parameters(run: Run, metric: str) -> Sequence[float | str | None]:
    """What each value of a metric belongs to; None alone where there is one value."""
    if metric.startswith("dark_heatmaps"):
        return run["eps"]
    if metric.startswith("box_overlap"):
        return run["thresholds"]
    if metric.startswith("randomization_check"):
        return run["randomized"]
    if metric.endswith("_curve"):
        steps = run["curve_steps"]
        return [step / steps for step in range(steps + 1)]  # share of the pixels
    return [None]


def besides(run: Run, protocol: str) -> list[str]:
    """Metrics that were asked for besides those of the protocol's paper."""
    asked: Any = run["settings"].get("metrics") or ()
    every = itertools.chain(*(paper.metrics for paper in PAPERS.values()))
    return [
        metric
        for metric in dict.fromkeys(every)
        if metric not in PAPERS[protocol].metrics
        and (metric in asked or metric.split(".")[0] in asked)
    ]


class Mean(NamedTuple):
    """Of the values that have a meaning; `missing` have none."""

    mean: float | None
    standard_error: float | None
    number: int
    missing: int = 0


class Means:
    """Running means of several numbers a record (Welford's recurrence)."""

    def __init__(self, size: int) -> None:
        self.count = np.zeros(size, np.int64)
        self.missing = np.zeros(size, np.int64)
        self._mean = np.zeros(size)
        self._squares = np.zeros(size)

    def add(self, values: Array) -> None:
        """Numbers, NaN where one has no meaning, infinity where there is none."""
        known = np.isfinite(values)
        self.count += known
        self.missing += np.isnan(values)
        away = np.where(known, values, self._mean) - self._mean
        self._mean += away / np.maximum(self.count, 1)
        self._squares += away * (np.where(known, values, self._mean) - self._mean)

    def __getitem__(self, place: int) -> Mean:
        """One of the numbers."""
        count, missing = int(self.count[place]), int(self.missing[place])
        if count == 0:
            return Mean(None, None, 0, missing)
        error = None
        if count > 1:
            error = math.sqrt(self._squares[place] / (count - 1) / count)
        return Mean(float(self._mean[place]), error, count, missing)


class Class(NamedTuple):
    """A class by its place in the model's output: names need not be unique."""

    target: int
    name: str


class _Layout:
    """How the values of some metrics stand in a row."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self.start: dict[str, int] = {}
        self.texts: list[str] = []
        for metric in names:
            self.start[metric] = len(self.texts)
            self.texts += [
                metric if at is None else f"{metric}[{at}]"
                for at in parameters(run, metric)
            ]

    def row(self, record: Explained) -> Array:
        """Numbers, as :meth:`Means.add` takes them."""
        row = np.full(len(self.texts), _ABSENT)
        for metric, start in self.start.items():
            value = value_of(record, metric)
            values = value if isinstance(value, list) else [value]
            if value != _ABSENT:
                row[start : start + len(values)] = np.array(values, dtype=float)
        return row


_Key: TypeAlias = tuple[str, str, str, Class | None]  # protocol, method, layer, class


class Summary:
    """
    All means of an evaluation, and what became of its pictures.

    Memory grows with methods, layers, classes and skipped pictures, no others.
    """

    def __init__(self, run: Run, records: Iterable[Record]) -> None:
        self.run = run
        self.read = 0
        self.skipped: Counter[str] = Counter()
        self.pictures = dict.fromkeys(run["methods"], 0)
        self.targets = dict.fromkeys(run["methods"], 0)
        self._layouts = {
            protocol: (
                _Layout(run, [*paper.metrics, *besides(run, protocol)]),
                _Layout(run, paper.by_class),
            )
            for protocol, paper in PAPERS.items()
        }
        self._means: dict[_Key, Means] = {}
        self._seconds: dict[tuple[str, str], Means] = {}
        last = -1
        last_used: dict[str, tuple[int, int]] = {}
        for record in records:
            if "skipped" in record:
                self.skipped[record["skipped"]] += 1
                continue
            index = record["index"]
            self.read += index != last
            last = index
            if "method" not in record:
                continue
            for protocol in used_by(run, record):
                before = last_used.get(protocol, (-1, -1))
                last_used[protocol] = now = index, record["target"]
                self.pictures[protocol] += before[0] != index
                self.targets[protocol] += before != now
                self._add(protocol, record)
            of = record["method"], record["layer"]
            self._seconds.setdefault(of, Means(1)).add(np.array([record["seconds"]]))
        present = {of_class for *_, of_class in self._means}
        self.classes = sorted(of_class for of_class in present if of_class)
        self._named = Counter(name for _, name in self.classes)

    def _add(self, protocol: str, record: Explained) -> None:
        of_class = Class(record["target"], record["category"])
        for layout, of in zip(self._layouts[protocol], (None, of_class), strict=True):
            if layout.texts:
                key = protocol, record["method"], record["layer"], of
                row = layout.row(record)
                self._means.setdefault(key, Means(len(row))).add(row)

    def label(self, of_class: Class) -> str:
        """Its name, with its place where two classes share one."""
        shared = self._named[of_class.name] > 1
        return f"{of_class.name} ({of_class.target})" if shared else of_class.name

    def layers(self, protocol: str) -> list[str]:
        """Those with results; ``""`` alone if only methods without a layer have any."""
        found = {layer for name, _, layer, _ in self._means if name == protocol}
        named = [layer for layer in self.run["layers"] if layer in found]
        return named or [layer for layer in found if not layer]

    def mean(
        self,
        protocol: str,
        method: str,
        layer: str,
        metric: str,
        place: int = 0,
        of_class: Class | None = None,
    ) -> Mean:
        """At a layer, or without one for a method that knows none."""
        for name in (layer, ""):
            means = self._means.get((protocol, method, name, of_class))
            if means is not None:
                layout = self._layouts[protocol][of_class is not None]
                return means[layout.start[metric] + place]
        return Mean(None, None, 0)

    def across(
        self,
        protocol: str,
        methods: Sequence[str],
        layer: str,
        metric: str,
        place: int = 0,
        of_class: Class | None = None,
    ) -> list[Mean]:
        """Of several methods."""
        return [
            self.mean(protocol, method, layer, metric, place, of_class)
            for method in methods
        ]

    def curve(self, protocol: str, method: str, layer: str, metric: str) -> list[Mean]:
        """The means of a metric with several values."""
        return [
            self.mean(protocol, method, layer, metric, place)
            for place, _ in enumerate(parameters(self.run, metric))
        ]

    def seconds(self, method: str, layer: str) -> Mean:
        """Time a picture."""
        means = self._seconds.get((method, layer)) or self._seconds.get((method, ""))
        return means[0] if means else Mean(None, None, 0)

    def pointing(self, method: str, layer: str) -> Mean:
        """Mean of the classes' accuracies: each class counts alike."""
        each = [
            self.mean("group-cam", method, layer, "pointing_game", of_class=of_class)
            for of_class in self.classes
        ]
        each = [mean for mean in each if mean.number]
        if not each:
            return Mean(None, None, 0)
        errors = [mean.standard_error for mean in each]
        known = [error for error in errors if error is not None]
        squares = math.fsum(error * error for error in known)
        return Mean(
            math.fsum(mean.mean or 0 for mean in each) / len(each),
            math.sqrt(squares) / len(each) if len(known) == len(each) else None,
            len(each),
        )

    def rows(self) -> Iterator[list[object]]:
        """The long form: protocol, method, layer, category, metric and its mean."""
        layers = ["", *self.run["layers"]]
        for protocol, methods in self.run["methods"].items():
            for method, layer in itertools.product(methods, layers):
                of = protocol, method, layer
                for of_class in (None, *self.classes):
                    if (means := self._means.get((*of, of_class))) is None:
                        continue
                    category = self.label(of_class) if of_class else "all"
                    texts = self._layouts[protocol][of_class is not None].texts
                    for place, text in enumerate(texts):
                        mean = means[place]
                        if mean.number or mean.missing:
                            yield [*of, category, text, *mean]
                if protocol == "group-cam" and (*of, None) in self._means:
                    mean = self.pointing(method, layer)
                    if mean.number:
                        yield [*of, "all", "pointing_accuracy", *mean]


def used_by(run: Run, record: Explained) -> list[str]:
    """The protocols to which a record counts."""
    return [
        protocol
        for protocol, methods in run["methods"].items()
        if protocol in record["protocols"] and record["method"] in methods
    ]


def value_of(record: Explained, metric: str) -> Value:
    """A value of a record, infinity where it does not have it."""
    values = record["values"]
    if metric != "dark_heatmaps.probability":
        return values.get(metric, _ABSENT)
    dark = values.get("dark_heatmaps")
    if not isinstance(dark, list):
        return _ABSENT
    return [record["probability"] if each else _ABSENT for each in dark]


class Cell(NamedTuple):
    """A mean with its standard error as text."""

    mean: str
    error: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        """Both."""
        return f"{self.mean} ± {self.error}" if self.error else self.mean


class Table(NamedTuple):
    """Texts, for Markdown and HTML alike."""

    title: str
    layer: str
    heads: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[tuple[Sequence[str], Sequence[Cell]]]
    note: str


def cells(means: Sequence[Mean], metric: str) -> list[Cell]:
    """
    A metric of several methods.

    All that look best are marked, but none where all look alike.
    """
    style = STYLES[metric]

    def text(value: float | None) -> str:
        if value is None:
            return ""
        shown = format(value * style.scale, style.form)
        return format(0.0, style.form) if float(shown) == 0 else shown  # no -0.0

    shown = [text(mean.mean) for mean in means]
    numbers = [float(number) for number in shown if number]
    direction = higher_is_better(metric)
    best = None
    if direction is not None and len(set(numbers)) > 1:
        best = max(numbers) if direction else min(numbers)
    return [
        Cell(number, text(mean.standard_error), float(number) == best)
        if number
        else Cell(NO_VALUE)
        for number, mean in zip(shown, means, strict=True)
    ]


def tables(summary: Summary, protocol: str) -> list[Table]:
    """The tables of a paper, layer by layer."""
    make = {"rsi": _rsi, "igc": _igc, "group-cam": _group_cam}[protocol]
    rows = [
        (STYLES[metric].label + ("" if at is None else f" at {at}"), metric, place)
        for metric in besides(summary.run, protocol)
        if metric in STYLES  # curves are figures
        for place, at in enumerate(parameters(summary.run, metric))
    ]
    return [
        table
        for layer in summary.layers(protocol)
        for table in itertools.chain(
            make(summary, layer),
            _down(summary, protocol, layer, "Other metrics", "", rows),
        )
    ]


def timings(summary: Summary) -> Table:
    """Time a picture by layer and method."""
    run = summary.run
    methods = list(dict.fromkeys(itertools.chain(*run["methods"].values())))
    sides = [
        cells([summary.seconds(method, layer) for method in methods], "seconds")
        for layer in run["layers"]
    ]
    rows = [
        ((method,), row)
        for method, row in zip(methods, zip(*sides, strict=True), strict=True)
    ]
    settings = run["settings"]
    known = [
        f"{name.replace('_', ' ')} {settings[name]}"
        for name in ("device", "batch_size")
        if settings.get(name) is not None
    ]
    where = f" ({', '.join(known)})" if known else ""
    note = f"Seconds a picture for the map alone{where}, ± standard error."
    if len(run["layers"]) > 1:
        note += " Layers that one walk or pass explains share its time."
    title = "Time a picture by layer (Table 3), s ↓"
    return Table(title, "", ["Method"], run["layers"], rows, note)


def _rsi(summary: Summary, layer: str) -> Iterator[Table]:
    run = summary.run
    single = [name for name in PAPERS["rsi"].metrics if parameters(run, name) == [None]]
    yield from _down(
        summary,
        "rsi",
        layer,
        "Stability, faithfulness and localization (Fig. 13, 14, 16, 17)",
        "",
        [(STYLES[metric].label, metric, 0) for metric in single],
    )
    yield from _down(
        summary,
        "rsi",
        layer,
        "Overlap of the box and the map above a threshold (Fig. 19-21)",
        "",
        [
            (f"{STYLES[metric].label} above {at:g}", metric, place)
            for metric in ("box_overlap.iou", "box_overlap.iob", "box_overlap.ior")
            for place, at in enumerate(run["thresholds"])
        ],
    )
    for metric, title in (
        ("dark_heatmaps", "Dark heat maps by eps (Fig. 15)"),
        ("dark_heatmaps.probability", "Mean probability where dark, by eps (Fig. 15)"),
    ):
        rows = [(f"{eps:g}", metric, place) for place, eps in enumerate(run["eps"])]
        yield from _down(summary, "rsi", layer, title, "eps", rows)


def _igc(summary: Summary, layer: str) -> Iterator[Table]:
    methods, names = columns(summary.run, "igc"), PAPERS["igc"].metrics
    title = "Localization and faithfulness (Table 1)"
    rows = [(STYLES[metric].label, metric, 0) for metric in names]
    yield from _down(summary, "igc", layer, title, "", rows)
    by_class, every = [], []
    classes = {
        (of_class, metric): means
        for of_class in summary.classes
        for metric in names
        if _any(means := summary.across("igc", methods, layer, metric, 0, of_class))
    }
    for (of_class, metric), means in classes.items():
        heads = summary.label(of_class), STYLES[metric].text + arrow(metric)
        by_class.append((heads, cells(means, metric)))
        every += means
    if 1 < len({of_class for of_class, _ in classes}) <= _MOST_CLASSES:
        heads = "Class", "Metric"
        title = "Table 1 by class"
        yield Table(title, layer, heads, methods, by_class, _note(every))


def _group_cam(summary: Summary, layer: str) -> Iterator[Table]:
    title = "Insertion and deletion (Table 1)"
    rows = [(STYLES[metric].label, metric, 0) for metric in AREAS]
    yield from _down(summary, "group-cam", layer, title, "", rows)
    for argument, title, head in (
        ("groups", "Group-CAM by number of groups (Table 2)", "Groups"),
        (
            "denoise_percentile",
            "Group-CAM by de-noising percentile theta (Fig. 5)",
            "Theta",
        ),
    ):
        points = ablation(summary.run, argument)
        names = list(points.values())
        means = [summary.across("group-cam", names, layer, of) for of in AREAS]
        every = list(itertools.chain(*means))
        if _any(every):
            heads = [STYLES[metric].text + arrow(metric) for metric in AREAS]
            sides = [cells(of, metric) for of, metric in zip(means, AREAS, strict=True)]
            body = [
                ((f"{value:g}",), row)
                for value, row in zip(points, zip(*sides, strict=True), strict=True)
            ]
            yield Table(title, layer, [head], heads, body, _note(every))
    yield from _pointing(summary, layer)
    for metric in ("randomization_check.spearman", "randomization_check.ssim"):
        title = (
            f"Sanity check, randomized down to a layer (Fig. 6): {STYLES[metric].label}"
        )
        rows = [(at, metric, i) for i, at in enumerate(summary.run["randomized"])]
        yield from _down(summary, "group-cam", layer, title, "Layer", rows)


def ablation(run: Run, argument: str) -> dict[float, str]:
    """Group-CAM's names by the value of an argument, ascending; two at least."""
    found: dict[float, str] = {}
    default = {"groups": 32, "denoise_percentile": 70}[argument]
    for method in run["methods"].get("group-cam", ()):
        if match := re.fullmatch(rf"group-cam\({argument}=([\d.]+)\)", method):
            found[float(match[1])] = method
        elif method == "group-cam":
            found.setdefault(default, method)
    return dict(sorted(found.items())) if len(found) > 1 else {}


def columns(run: Run, protocol: str) -> list[str]:
    """Methods that are compared with each other: all but ablations."""
    compared = run["methods"][protocol]
    if protocol == "group-cam":
        points = [ablation(run, name) for name in ("groups", "denoise_percentile")]
        ablated = {name for of in points for name in of.values()} - {"group-cam"}
        compared = [name for name in compared if name not in ablated]
    return compared


def _pointing(summary: Summary, layer: str) -> Iterator[Table]:
    """Accuracy of each class where they are few, and the mean over the classes."""
    metric, rows = "pointing_game", []
    methods = columns(summary.run, "group-cam")
    found = {
        of_class: means
        for of_class in summary.classes
        if _any(
            means := summary.across("group-cam", methods, layer, metric, 0, of_class)
        )
    }
    over_all = summary.across("group-cam", methods, layer, metric)
    if not _any(over_all):
        return
    for of_class, means in found.items() if len(found) <= _MOST_CLASSES else ():
        count = max(mean.number for mean in means)
        rows.append(((summary.label(of_class), f"{count}"), cells(means, metric)))
    over_classes = [summary.pointing(method, layer) for method in methods]
    name = f"mean over {max(mean.number for mean in over_classes)} classes"
    rows.append(((name, ""), cells(over_classes, metric)))
    count = max(mean.number for mean in over_all)
    rows.append((("all", f"{count}"), cells(over_all, metric)))
    title = f"Pointing game by class (Table 4), %{arrow(metric)}"
    note = _note(over_all)
    yield Table(title, layer, ["Class", "Maps"], methods, rows, note)


def _down(
    summary: Summary,
    protocol: str,
    layer: str,
    title: str,
    head: str,
    rows: Sequence[tuple[str, str, int]],
) -> Iterator[Table]:
    """
    Rows of label, metric and place; methods across. No table without values.

    Rows of one metric are headed by what they differ in, `head`.
    """
    methods = columns(summary.run, protocol)
    body, every, unit = [], [], ""
    for label, metric, place in rows:
        means = summary.across(protocol, methods, layer, metric, place)
        if _any(means):
            style = STYLES[metric]
            unit = (f", {style.unit}" if style.unit else "") + arrow(metric)
            text = label if head else label + unit
            body.append(((text,), cells(means, metric)))
            every += means
    if body:
        title += unit if head else ""
        yield Table(title, layer, [head], methods, body, _note(every))


def _any(means: Iterable[Mean]) -> bool:
    """Whether a record holds any of them, be they without a value."""
    return any(mean.number or mean.missing for mean in means)


def _note(means: Sequence[Mean]) -> str:
    """Of how many maps the numbers are, and how many had no value."""
    counts = [mean.number for mean in means if mean.number] or [0]
    low, high = min(counts), max(counts)
    text = f"{low}" if low == high else f"{low} to {high}"
    note = f"Means of {text} maps each, ± standard error."
    if high == 1:
        note = "Of one map each."
    missing = sum(mean.missing for mean in means)
    return f"{note} Without a value and left out: {missing}." if missing else note


def write(out: Path, summary: Summary) -> None:
    """
    Writes ``summary.csv``, ``summary.md`` and ``timings.md``.

    Args:
        out (Path): The folder of results.
        summary (Summary): Of all records.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    keys = ["protocol", "method", "layer", "category", "metric"]
    writer.writerow([*keys, "mean", "standard_error", "count", "missing"])
    writer.writerows(summary.rows())
    write_text(out / "summary.csv", file.getvalue())
    write_text(out / "summary.md", _markdown(summary))
    table = timings(summary)
    time = "\n".join([f"# {table.title}", "", *_table_lines(table)])
    write_text(out / "timings.md", time)


def write_text(path: Path, text: str) -> None:
    """The same bytes everywhere, whatever bytes the names of files hold."""
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def counts(summary: Summary) -> list[str]:
    """What became of the pictures, in sentences."""
    run = summary.run
    skipped = summary.skipped.total()
    lines = [f"{summary.read} of {run['pictures']} pictures read, {skipped} skipped."]
    left = run["pictures"] - summary.read - skipped
    if left:
        lines.append(f"Not reached: {left}; the run is not finished.")
    # The most frequent first, then by the alphabet.
    reasons = sorted(summary.skipped.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"Skipped, {number}: {why}" for why, number in reasons[:_MOST_REASONS]]
    if len(reasons) > _MOST_REASONS:
        others = sum(number for _, number in reasons[_MOST_REASONS:])
        lines.append(f"Skipped, {others}: other reasons, in results-*.jsonl.")
    for protocol, number in summary.pictures.items():
        paper, targets = PAPERS[protocol], summary.targets[protocol]
        several = f", with {targets} explained classes" if targets != number else ""
        lines.append(f"{paper.title} uses {number} of them{several}: {paper.pictures}.")
    return lines


def title(run: Run) -> str:
    """What was evaluated on what."""
    data = run["settings"].get("dataset")
    return f"{run['network']} on {data}" if data else run["network"]


def empty(protocol: str) -> str:
    """What stands instead of tables."""
    return (
        f"No picture passed the filter of {PAPERS[protocol].title}: "
        f"{PAPERS[protocol].pictures}."
    )


def _markdown(summary: Summary) -> str:
    lines = [f"# {_plain(title(summary.run))}", ""]
    lines += [f"- {_plain(line)}" for line in counts(summary)]
    for protocol in summary.run["methods"]:
        lines += ["", f"## {PAPERS[protocol].title}", ""]
        if not summary.pictures[protocol]:
            lines += [_plain(empty(protocol))]
        for table in tables(summary, protocol):
            where = f": `{table.layer}`" if table.layer else ""
            lines += [f"### {_plain(table.title)}{where}", "", *_table_lines(table), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _table_lines(table: Table) -> list[str]:
    heads = [_plain(text) for text in [*table.heads, *table.columns]]
    align = ["---"] * len(table.heads) + ["---:"] * len(table.columns)
    lines = [_line(heads), _line(align)]
    for names, row in table.rows:
        bold = [
            cell.text.replace(cell.mean, f"**{cell.mean}**", 1)
            if cell.best
            else cell.text
            for cell in row
        ]
        lines.append(_line([*map(_plain, names), *bold]))
    return [*lines, "", _plain(table.note), ""]


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _plain(text: str) -> str:
    """A text from a file as Markdown that shows it as it is."""
    escaped = re.sub(r"([\\`*_|\[\]<>])", r"\\\1", text)
    return " ".join(escaped.split())
