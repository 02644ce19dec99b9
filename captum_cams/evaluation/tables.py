"""
From means to the papers' tables: ``summary.csv``, ``summary.md`` and ``timings.md``.

Equal means give equal files. Times differ from run to run and have a file of their own.
"""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from captum_cams.evaluation.papers import (
    AREAS,
    PAPERS,
    STYLES,
    ablation_methods,
    arrow,
    compared_methods,
    extra_metrics,
    higher_is_better,
    metric_parameters,
)
from captum_cams.evaluation.records import Run
from captum_cams.evaluation.summary import Mean, Summary

_MOST_CLASSES = 20  # that a table lists
_MOST_REASONS = 20
NO_VALUE = "\N{EN DASH}"


class Cell(NamedTuple):
    """A mean with its standard error as text."""

    mean: str
    error: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        """Mean and standard error."""
        return f"{self.mean} ± {self.error}" if self.error else self.mean


class Table(NamedTuple):
    """A table of texts, for Markdown and HTML alike."""

    title: str
    layer: str
    heads: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[tuple[Sequence[str], Sequence[Cell]]]
    note: str


def cells(means: Sequence[Mean], metric: str) -> list[Cell]:
    """
    The means of several methods as texts.

    Those that read as the best are marked, but none where all read alike.
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
        (STYLES[metric].label + ("" if at is None else f" at {at}"), metric, position)
        for metric in extra_metrics(summary.run, protocol)
        if metric in STYLES  # curves are figures
        for position, at in enumerate(metric_parameters(summary.run, metric))
    ]
    return [
        table
        for layer in summary.layers(protocol)
        for table in itertools.chain(
            make(summary, layer),
            _metric_table(summary, protocol, layer, "Other metrics", "", rows),
        )
    ]


def timings(summary: Summary) -> Table:
    """The table of seconds a picture by method and layer."""
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
    single = [
        name for name in PAPERS["rsi"].metrics if metric_parameters(run, name) == [None]
    ]
    yield from _metric_table(
        summary,
        "rsi",
        layer,
        "Stability, faithfulness and localization (Fig. 13, 14, 16, 17)",
        "",
        [(STYLES[metric].label, metric, 0) for metric in single],
    )
    yield from _metric_table(
        summary,
        "rsi",
        layer,
        "Overlap of the box and the map above a threshold (Fig. 19-21)",
        "",
        [
            (f"{STYLES[metric].label} above {at:g}", metric, position)
            for metric in ("box_overlap.iou", "box_overlap.iob", "box_overlap.ior")
            for position, at in enumerate(run["thresholds"])
        ],
    )
    for metric, title in (
        ("dark_heatmaps", "Dark heat maps by eps (Fig. 15)"),
        ("dark_heatmaps.probability", "Mean probability where dark, by eps (Fig. 15)"),
    ):
        rows = [
            (f"{eps:g}", metric, position) for position, eps in enumerate(run["eps"])
        ]
        yield from _metric_table(summary, "rsi", layer, title, "eps", rows)


def _igc(summary: Summary, layer: str) -> Iterator[Table]:
    methods, names = compared_methods(summary.run, "igc"), PAPERS["igc"].metrics
    title = "Localization and faithfulness (Table 1)"
    rows = [(STYLES[metric].label, metric, 0) for metric in names]
    yield from _metric_table(summary, "igc", layer, title, "", rows)
    by_class, every = [], []
    classes = {
        (of_class, metric): means
        for of_class in summary.classes
        for metric in names
        if _has_values(
            means := summary.across("igc", methods, layer, metric, 0, of_class)
        )
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
    yield from _metric_table(summary, "group-cam", layer, title, "", rows)
    for argument, title, head in (
        ("groups", "Group-CAM by number of groups (Table 2)", "Groups"),
        (
            "denoise_percentile",
            "Group-CAM by de-noising percentile theta (Fig. 5)",
            "Theta",
        ),
    ):
        points = ablation_methods(summary.run, argument)
        names = list(points.values())
        means = [summary.across("group-cam", names, layer, of) for of in AREAS]
        every = list(itertools.chain(*means))
        if _has_values(every):
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
        yield from _metric_table(summary, "group-cam", layer, title, "Layer", rows)


def _pointing(summary: Summary, layer: str) -> Iterator[Table]:
    """The pointing game of each class where they are few, and their mean."""
    metric, rows = "pointing_game", []
    methods = compared_methods(summary.run, "group-cam")
    found = {
        of_class: means
        for of_class in summary.classes
        if _has_values(
            means := summary.across("group-cam", methods, layer, metric, 0, of_class)
        )
    }
    over_all = summary.across("group-cam", methods, layer, metric)
    if not _has_values(over_all):
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


def _metric_table(
    summary: Summary,
    protocol: str,
    layer: str,
    title: str,
    head: str,
    rows: Sequence[tuple[str, str, int]],
) -> Iterator[Table]:
    """
    Rows of label, metric and position; methods across. No table without values.

    Rows of one metric are headed by what they differ in, `head`.
    """
    methods = compared_methods(summary.run, protocol)
    body, every, unit = [], [], ""
    for label, metric, position in rows:
        means = summary.across(protocol, methods, layer, metric, position)
        if _has_values(means):
            style = STYLES[metric]
            unit = (f", {style.unit}" if style.unit else "") + arrow(metric)
            text = label if head else label + unit
            body.append(((text,), cells(means, metric)))
            every += means
    if body:
        title += unit if head else ""
        yield Table(title, layer, [head], methods, body, _note(every))


def _has_values(means: Iterable[Mean]) -> bool:
    """Whether any record has these metrics, be it without a value."""
    return any(mean.number or mean.missing for mean in means)


def _note(means: Sequence[Mean]) -> str:
    """Says how many maps the means are of, and how many had no value."""
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
    """Writes UTF-8, with what is no Unicode, as names of files may have it, escaped."""
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def picture_counts(summary: Summary) -> list[str]:
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


def run_title(run: Run) -> str:
    """What was evaluated on what."""
    data = run["settings"].get("dataset")
    return f"{run['network']} on {data}" if data else run["network"]


def empty_message(protocol: str) -> str:
    """What a report says where a paper has no tables."""
    return (
        f"No picture passed the filter of {PAPERS[protocol].title}: "
        f"{PAPERS[protocol].pictures}."
    )


def _markdown(summary: Summary) -> str:
    lines = [f"# {_escape_markdown(run_title(summary.run))}", ""]
    lines += [f"- {_escape_markdown(line)}" for line in picture_counts(summary)]
    for protocol in summary.run["methods"]:
        lines += ["", f"## {PAPERS[protocol].title}", ""]
        if not summary.pictures[protocol]:
            lines += [_escape_markdown(empty_message(protocol))]
        for table in tables(summary, protocol):
            where = f": `{table.layer}`" if table.layer else ""
            lines += [
                f"### {_escape_markdown(table.title)}{where}",
                "",
                *_table_lines(table),
                "",
            ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _table_lines(table: Table) -> list[str]:
    heads = [_escape_markdown(text) for text in [*table.heads, *table.columns]]
    align = ["---"] * len(table.heads) + ["---:"] * len(table.columns)
    lines = [_line(heads), _line(align)]
    for names, row in table.rows:
        bold = [
            cell.text.replace(cell.mean, f"**{cell.mean}**", 1)
            if cell.best
            else cell.text
            for cell in row
        ]
        lines.append(_line([*map(_escape_markdown, names), *bold]))
    return [*lines, "", _escape_markdown(table.note), ""]


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escape_markdown(text: str) -> str:
    """Escapes what Markdown would take for markup."""
    escaped = re.sub(r"([\\`*_|\[\]<>])", r"\\\1", text)
    return " ".join(escaped.split())
