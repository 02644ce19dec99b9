"""
From records to numbers: ``summary.csv``, ``summary.md`` and ``timings.md``.

One pass over the records, in their order, gives means and standard errors; equal
records give equal files, to the bit. Times differ from run to run and have a file of
their own.
"""

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captum_cams import metrics
from captum_cams.evaluation.records import Explained, Record, Run, Value

Array = NDArray[np.float64]

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


PAPERS = {
    "rsi": Paper(
        "RSI-Grad-CAM",
        "the network gets them right, and their one box covers less than half of them "
        "(section 4.3.1)",
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
        "they have boxes",
        (
            "pixel_energy",
            "bbox_score",
            "average_drop(top_fraction=0.15)",
            "increase_in_confidence(top_fraction=0.15)",
        ),
        (
            "pixel_energy",
            "bbox_score",
            "average_drop(top_fraction=0.15)",
            "increase_in_confidence(top_fraction=0.15)",
        ),
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


class Summary:
    """
    All means of an evaluation, and what became of its pictures.

    Memory grows with methods, layers and classes, not with pictures.
    """

    def __init__(self, run: Run, records: Iterable[Record]) -> None:
        self.run = run
        self.read = 0
        self.skipped: Counter[str] = Counter()
        self.pictures = dict.fromkeys(run["methods"], 0)
        self.targets = dict.fromkeys(run["methods"], 0)
        self._layout: dict[str, dict[str, Sequence[float | str | None]]] = {
            protocol: {
                metric: parameters(run, metric) for metric in PAPERS[protocol].metrics
            }
            for protocol in run["methods"]
        }
        self._places = {
            protocol: _starts({name: len(at) for name, at in layout.items()})
            for protocol, layout in self._layout.items()
        }
        self._means: dict[tuple[str, str, str, Class | None], Means] = {}
        self._seconds: dict[tuple[str, str], Means] = {}
        last: dict[str | None, tuple[int, int]] = {}
        for record in records:
            if "skipped" in record:
                self.skipped[record["skipped"]] += 1
                continue
            index = record["index"]
            if last.get(None, (-1, 0))[0] != index:
                self.read += 1
                last[None] = index, 0
            if "method" not in record:
                continue
            for protocol in used_by(run, record):
                picture, target = last.get(protocol, (-1, -1))
                self.pictures[protocol] += picture != index
                self.targets[protocol] += (picture, target) != (index, record["target"])
                last[protocol] = index, record["target"]
                self._add(protocol, record)
            key = record["method"], record["layer"]
            self._seconds.setdefault(key, Means(1)).add(np.array([record["seconds"]]))
        present = {key[3] for key in self._means} - {None}
        self.classes: list[Class] = sorted(name for name in present if name)
        self._named = Counter(name for _, name in self.classes)

    def _add(self, protocol: str, record: Explained) -> None:
        layout, by_class = self._layout[protocol], PAPERS[protocol].by_class
        key = protocol, record["method"], record["layer"]
        self._add_row(
            (*key, None), {name: len(at) for name, at in layout.items()}, record
        )
        if by_class:
            of_class = Class(record["target"], record["category"])
            self._add_row((*key, of_class), dict.fromkeys(by_class, 1), record)

    def _add_row(
        self,
        key: tuple[str, str, str, Class | None],
        sizes: Mapping[str, int],
        record: Explained,
    ) -> None:
        row: list[float | None] = []
        for name, size in sizes.items():
            value = value_of(record, name)
            row += value if isinstance(value, list) else [value] * size
        if key not in self._means:
            self._means[key] = Means(len(row))
        self._means[key].add(np.array(row, dtype=float))

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
        if of_class is None:
            place += self._places[protocol][metric]
        else:
            place = list(PAPERS[protocol].by_class).index(metric)
        for name in (layer, ""):
            means = self._means.get((protocol, method, name, of_class))
            if means is not None:
                return means[place]
        return Mean(None, None, 0)

    def curve(self, protocol: str, method: str, layer: str, metric: str) -> list[Mean]:
        """The means of a metric with several values."""
        size = len(self._layout[protocol][metric])
        return [
            self.mean(protocol, method, layer, metric, place) for place in range(size)
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
        for protocol, methods in self.run["methods"].items():
            layout = self._layout[protocol]
            for method in methods:
                for layer in ["", *self.run["layers"]]:
                    key = protocol, method, layer
                    if (*key, None) not in self._means:
                        continue
                    names = [
                        metric if at is None else f"{metric}[{at}]"
                        for metric, values in layout.items()
                        for at in values
                    ]
                    yield from self._rows(key, None, names)
                    for of_class in self.classes:
                        names = list(PAPERS[protocol].by_class)
                        yield from self._rows(key, of_class, names)
                    if protocol == "group-cam":
                        mean = self.pointing(method, layer)
                        if mean.number:
                            yield [*key, "all", "pointing_accuracy", *mean]

    def _rows(
        self, key: tuple[str, str, str], of_class: Class | None, names: Sequence[str]
    ) -> Iterator[list[object]]:
        means = self._means.get((*key, of_class))
        if means is None:
            return
        category = "all" if of_class is None else self.label(of_class)
        for place, name in enumerate(names):
            mean = means[place]
            if mean.number or mean.missing:
                yield [*key, category, name, *mean]


def _starts(sizes: Mapping[str, int]) -> dict[str, int]:
    """Where each name's values begin when all stand in a row."""
    ends = itertools.accumulate(sizes.values(), initial=0)
    return dict(zip(sizes, ends, strict=False))


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
    """A metric of several methods; those that look best are marked, all of them."""
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
    if direction is not None and len(numbers) > 1:
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
    return [
        table
        for layer in summary.layers(protocol)
        for table in make(summary, layer)
        if any(cell.mean != NO_VALUE for _, row in table.rows for cell in row)
    ]


def timings(summary: Summary) -> Table:
    """Time a picture by layer and method."""
    methods = list(dict.fromkeys(name for name, _ in _all_methods(summary)))
    rows = []
    for layer in summary.run["layers"]:
        means = [summary.seconds(method, layer) for method in methods]
        rows.append(((layer,), cells(means, "seconds")))
    settings = summary.run["settings"]
    known = [
        f"{name.replace('_', ' ')} {settings[name]}"
        for name in ("device", "batch_size")
        if settings.get(name) is not None
    ]
    where = f" ({', '.join(known)})" if known else ""
    note = f"Seconds a picture for the map alone{where}, ± standard error."
    return Table("Time a picture (Table 3), s ↓", "", ["Layer"], methods, rows, note)


def _all_methods(summary: Summary) -> Iterator[tuple[str, str]]:
    for protocol, methods in summary.run["methods"].items():
        for method in methods:
            yield method, protocol


def _rsi(summary: Summary, layer: str) -> Iterator[Table]:
    run, methods = summary.run, summary.run["methods"]["rsi"]
    rows: list[tuple[str, str, int]] = []
    for metric in PAPERS["rsi"].metrics:
        if metric.startswith("dark_heatmaps"):
            continue
        for place, at in enumerate(parameters(run, metric)):
            above = "" if at is None else f" above {at:g}"
            label = f"{STYLES[metric].label}{above}"
            rows.append((metric, label, place))
    yield _across(
        summary,
        "rsi",
        layer,
        "Stability, faithfulness and localization (Fig. 13, 14, 16, 17, 19-21)",
        methods,
        rows,
    )
    for metric, title in (
        ("dark_heatmaps", "Dark heat maps by eps (Fig. 15)"),
        ("dark_heatmaps.probability", "Mean probability where dark, by eps (Fig. 15)"),
    ):
        at_eps = [(metric, f"eps {eps:g}", i) for i, eps in enumerate(run["eps"])]
        yield _across(summary, "rsi", layer, title, methods, at_eps)


def _igc(summary: Summary, layer: str) -> Iterator[Table]:
    methods, names = summary.run["methods"]["igc"], PAPERS["igc"].metrics
    rows = [(metric, STYLES[metric].label, 0) for metric in names]
    title = "Localization and faithfulness (Table 1)"
    yield _across(summary, "igc", layer, title, methods, rows)
    classes = _classes(summary, "igc", methods, layer)
    if not 1 < len(classes) <= _MOST_CLASSES:
        return
    by_class = []
    every: list[Mean] = []
    for of_class in classes:
        for metric in names:
            means = [
                summary.mean("igc", method, layer, metric, of_class=of_class)
                for method in methods
            ]
            every += means
            heads = summary.label(of_class), STYLES[metric].text + arrow(metric)
            by_class.append((heads, cells(means, metric)))
    yield Table(
        "Table 1 by class", layer, ["Class", "Metric"], methods, by_class, _note(every)
    )


def _group_cam(summary: Summary, layer: str) -> Iterator[Table]:
    methods = [name for name in summary.run["methods"]["group-cam"] if "(" not in name]
    areas = ("insertion_auc", "deletion_auc", "overall")
    rows = [(metric, STYLES[metric].label, 0) for metric in areas]
    title = "Insertion and deletion (Table 1)"
    yield _across(summary, "group-cam", layer, title, methods, rows)
    for argument, title in (
        ("groups", "Group-CAM by number of groups (Table 2)"),
        ("denoise_percentile", "Group-CAM by de-noising percentile theta (Fig. 5)"),
    ):
        points = ablation(summary.run, argument)
        if len(points) < 2:
            continue
        columns, every = [], []
        for metric in areas:
            means = [
                summary.mean("group-cam", method, layer, metric)
                for method in points.values()
            ]
            every += means
            columns.append(cells(means, metric))
        yield Table(
            title,
            layer,
            [{"groups": "Groups", "denoise_percentile": "Theta"}[argument]],
            [STYLES[metric].text + arrow(metric) for metric in areas],
            [
                ((f"{value:g}",), row)
                for value, row in zip(points, zip(*columns, strict=True), strict=True)
            ],
            _note(every),
        )
    yield _pointing(summary, layer, methods)
    for metric in ("randomization_check.spearman", "randomization_check.ssim"):
        name = STYLES[metric].label
        rows = [(metric, at, i) for i, at in enumerate(summary.run["randomized"])]
        title = f"Sanity check: {name} after randomizing down to a layer (Fig. 6)"
        yield _across(summary, "group-cam", layer, title, methods, rows)


def ablation(run: Run, argument: str) -> dict[float, str]:
    """Group-CAM's records by the value of an argument, ascending."""
    found: dict[float, str] = {}
    default = {"groups": 32, "denoise_percentile": 70}[argument]
    for method in run["methods"].get("group-cam", ()):
        if method == "group-cam":
            value = run["settings"].get(argument) or default
            found.setdefault(float(str(value)), method)
        elif method.startswith(f"group-cam({argument}="):
            found[float(method.split("=")[1].rstrip(")"))] = method
    return dict(sorted(found.items()))


def _pointing(summary: Summary, layer: str, methods: Sequence[str]) -> Table:
    """Accuracy of each class where they are few, and the mean over the classes."""
    metric, rows = "pointing_game", []
    classes = _classes(summary, "group-cam", methods, layer, metric)
    if len(classes) <= _MOST_CLASSES:
        for of_class in classes:
            means = [
                summary.mean("group-cam", method, layer, metric, of_class=of_class)
                for method in methods
            ]
            count = max(mean.number for mean in means)
            rows.append(((summary.label(of_class), f"{count}"), cells(means, metric)))
    over_all = [summary.mean("group-cam", name, layer, metric) for name in methods]
    over_classes = [summary.pointing(method, layer) for method in methods]
    count = max((mean.number for mean in over_all), default=0)
    rows.append(
        ((f"mean over {len(classes)} classes", ""), cells(over_classes, metric))
    )
    rows.append((("all maps", f"{count}"), cells(over_all, metric)))
    title = f"Pointing game by class (Table 4), %{arrow(metric)}"
    return Table(
        title, layer, ["Class", "Maps"], methods, rows, _note(over_all, of_maps=False)
    )


def _classes(
    summary: Summary,
    protocol: str,
    methods: Sequence[str],
    layer: str,
    metric: str = "pixel_energy",
) -> list[Class]:
    return [
        of_class
        for of_class in summary.classes
        if any(
            summary.mean(protocol, method, layer, metric, of_class=of_class).number
            for method in methods
        )
    ]


def _across(
    summary: Summary,
    protocol: str,
    layer: str,
    title: str,
    methods: Sequence[str],
    rows: Sequence[tuple[str, str, int]],
) -> Table:
    """Metrics down, methods across."""
    every: list[Mean] = []
    body = []
    for metric, label, place in rows:
        means = [
            summary.mean(protocol, method, layer, metric, place) for method in methods
        ]
        every += means
        unit = f", {STYLES[metric].unit}" if STYLES[metric].unit else ""
        body.append(((f"{label}{unit}{arrow(metric)}",), cells(means, metric)))
    return Table(title, layer, [""], methods, body, _note(every))


def _note(means: Sequence[Mean], of_maps: bool = True) -> str:
    """Of how many maps the numbers are, and how many had no value."""
    counts = [mean.number for mean in means if mean.number] or [0]
    low, high = min(counts), max(counts)
    text = f"{low}" if low == high else f"{low} to {high}"
    note = f"Means of {text} maps each" if of_maps else "Shares of hits"
    note += ", ± standard error."
    missing = sum(mean.missing for mean in means)
    return f"{note} Without a value and left out: {missing}." if missing else note


def write(out: Path, run: Run, records: Iterable[Record]) -> None:
    """
    Writes ``summary.csv``, ``summary.md`` and ``timings.md``.

    Args:
        out (Path): The folder of results.
        run (Run): What ``run.json`` holds.
        records (iterable of Record): In the order of :class:`Records`.
    """
    summary = Summary(run, records)
    with (out / "summary.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        keys = ["protocol", "method", "layer", "category", "metric"]
        writer.writerow([*keys, "mean", "standard_error", "count", "missing"])
        writer.writerows(summary.rows())
    (out / "summary.md").write_text(_markdown(summary), encoding="utf-8")
    time = "\n".join(["# Time a picture", "", *_table_lines(timings(summary))])
    (out / "timings.md").write_text(time, encoding="utf-8")


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
        title, pictures, *_ = PAPERS[protocol]
        targets = summary.targets[protocol]
        several = f" with {targets} explained classes" if targets != number else ""
        lines.append(f"Used for {title}: {number}{several} ({pictures}).")
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
