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

from captum_cams._printable import printable
from captum_cams.evaluation.methods import parse_method
from captum_cams.evaluation.metrics import METRICS, Metric
from captum_cams.evaluation.papers import (
    PAPERS,
    PRESETS,
    PRINTED_SECONDS,
    SWEEPS,
    Table,
)
from captum_cams.evaluation.records import Run
from captum_cams.evaluation.shared_path import shares_path
from captum_cams.evaluation.summary import FEWEST, Difference, Mean, Summary

_MOST_CLASSES = 20  # that a table lists
_MOST_REASONS = 20
UNDEFINED = "undefined"
"""Of a mean whose maps all have no value, unlike one of no maps."""
VERDICT_NOTE = (
    "A method is ahead of another if, on the same pictures, the bootstrap interval of "
    "95% of their difference does not hold 0, and they differ on "
    f"{FEWEST} of them or more. That is of these pictures and this network, and each "
    "comparison is by itself: of several equal methods one often comes out behind by "
    "chance."
)
NO_VALUE = "\N{EN DASH}"
"""In the place of a difference, of the best method or where none can be taken."""
_SECONDS = Metric("time", form=".3g", scale=1, unit="s")
_PASSES = Metric("passes", form=".4g", scale=1, unit="")


class Cell(NamedTuple):
    """A mean as text, with what says how sure it is."""

    mean: str
    spread: str = ""
    """Its standard error, the interval of a share, or that there is nothing of it."""
    best: bool = False
    """Whether it is the best, or differs from it by no more than noise."""
    difference: str = ""
    """To the best, with its interval."""

    @property
    def text(self) -> str:
        """All but the difference."""
        return f"{self.mean} {self.spread}".rstrip()


class Sheet(NamedTuple):
    """A table of texts, for Markdown and HTML alike."""

    title: str
    layer: str
    heads: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[tuple[Sequence[str], Sequence[Cell]]]
    note: str


def cells(
    means: Sequence[Mean],
    metric: Metric,
    differences: Sequence[Difference | None] | None = None,
) -> list[Cell]:
    """
    The means of several methods as texts.

    With paired differences the best is marked, and with it all that it does not beat by
    more than noise; nothing is marked where that is true of all, or where a method is
    ahead of the one with the best mean on the maps that both have.
    """
    differences = differences or [None] * len(means)
    marks = [found is not None and found.is_noise for found in differences]
    apart = any(found is not None and not found.is_noise for found in differences)
    apart &= not any(is_ahead(found, metric) for found in differences)
    return [
        Cell(*_written(mean, metric), mark and apart, _interval(found, metric))
        for mean, mark, found in zip(means, marks, differences, strict=True)
    ]


def _written(mean: Mean, metric: Metric) -> tuple[str, str]:
    """A mean, and how sure it is."""
    if mean.mean is None:
        return (UNDEFINED if mean.missing else metric.if_absent), ""
    spread = ""
    if mean.interval is not None:
        low, high = map(metric.write, mean.interval)
        spread = f"[{low}, {high}]"
    elif mean.standard_error == 0:
        spread = f"({mean.number} alike)"
    elif mean.standard_error is not None:
        spread = f"± {metric.write(mean.standard_error)}"
    if mean.missing:
        spread += f" ({mean.number} of {mean.number + mean.missing})"
    return metric.write(mean.mean), spread.lstrip()


def is_ahead(found: Difference | None, metric: Metric) -> bool:
    """Whether a method beats the one with the best mean, on the maps that both have."""
    if found is None or found.is_noise:
        return False
    return (found.mean > 0) == metric.higher_is_better


def _interval(found: Difference | None, metric: Metric) -> str:
    """A difference and its interval, nothing for that of the best to itself."""
    if found is None or found == (0, 0, 0, 0):
        return ""
    mean, low, high = map(metric.write, found[:3])
    if found.apart < FEWEST:
        return f"{mean} (of {found.apart})"
    return f"{mean} [{low}, {high}]"


def compared_methods(run: Run, protocol: str) -> list[str]:
    """Methods that are compared with each other: all but what sweeps alone add."""
    methods: list[str] = run["methods"][protocol]
    if run["settings"].get("methods") is not None:  # all of them were asked for
        return methods
    swept = {
        label
        for sweep in SWEEPS
        for value, label in sweep.labels().items()
        if value != sweep.default
    }
    own = [method for method in methods if method not in swept]
    return own or methods


def tables(summary: Summary, protocol: str) -> list[Sheet]:
    """The tables of a paper, layer by layer, and what it prints beside them."""
    paper, run = PAPERS[protocol], summary.run
    others = [key for key in run["metrics"][protocol] if key not in paper.metrics]
    sheets: list[Sheet] = []
    for layer in summary.layers(protocol):
        for table in paper.tables:
            if table.sweep is not None:
                sheets += _sweep(summary, protocol, layer, table)
            elif table.rows == "classes":
                sheets += _classes(summary, protocol, layer, table)
            else:
                sheets += _metrics(summary, protocol, layer, table)
        sheets += _metrics(summary, protocol, layer, Table("Other metrics", (*others,)))
    if sheets:
        for table in paper.tables:
            sheets += _printed(summary, protocol, table)
    return sheets


def _metrics(
    summary: Summary, protocol: str, layer: str, table: Table
) -> Iterator[Sheet]:
    """Methods across; rows of metrics, or of the numbers of one."""
    methods, run = compared_methods(summary.run, protocol), summary.run
    rows, every, title, head = [], [], table.title, ""
    for key in table.metrics:
        metric = METRICS[key]
        for position, at in enumerate(metric.at(run)):
            means = summary.across(protocol, methods, layer, key, position)
            if not _has_values(means):
                continue
            every += means
            differences = None
            if at is None:
                text = metric.text
                differences = summary.differences(protocol, methods, layer, key)
            elif table.rows == "at":
                unit = f", {metric.unit}" if metric.unit else ""
                head, title = metric.at_label, f"{table.title}{unit}{metric.arrow}"
                text = at if isinstance(at, str) else f"{at:g}"
            else:
                text = f"{metric.text} at {at}"
            rows.append(((text,), cells(means, metric, differences)))
    if rows:
        yield Sheet(title, layer, [head], methods, rows, _note(every, rows))
        yield from _differences(title, layer, methods, rows)


def _differences(
    title: str,
    layer: str,
    methods: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Sequence[Cell]]],
) -> Iterator[Sheet]:
    """Paired differences to the best method, where there are any."""
    shown = [
        (names, [Cell(cell.difference or NO_VALUE, best=cell.best) for cell in row])
        for names, row in rows
        if any(cell.difference for cell in row)
    ]
    if shown:
        note = (
            "On the same maps, to the best of the row, with a bootstrap interval of "
            f"95% over pictures. {NO_VALUE}: the best itself, one that equals it on "
            "every map, or one that cannot be compared."
        )
        if any("(of " in cell.mean for _, row in shown for cell in row):
            note += (
                " (of n): the methods differ on n pictures alone, too few to tell them "
                f"apart, which takes {FEWEST}."
            )
        if any(cell.best for _, row in shown for cell in row):
            note += " Bold: the best, and those whose difference may be noise."
        yield Sheet(f"{title}: differences", layer, [""], methods, shown, note)


def _classes(
    summary: Summary, protocol: str, layer: str, table: Table
) -> Iterator[Sheet]:
    """A row for each class and metric where classes are few, and the means."""
    methods = compared_methods(summary.run, protocol)
    found = {
        (of_class, key): means
        for of_class in summary.classes
        for key in table.metrics
        if _has_values(
            means := summary.across(protocol, methods, layer, key, 0, of_class)
        )
    }
    classes = dict.fromkeys(of_class for of_class, _ in found)
    rows: list[tuple[Sequence[str], Sequence[Cell]]] = []
    every: list[Mean] = []
    for (of_class, key), means in found.items():
        if 1 < len(classes) <= _MOST_CLASSES:
            heads = summary.label(of_class), METRICS[key].text
            rows.append((heads, cells(means, METRICS[key])))
            every += means
    over = False
    if table.mean_over_classes and classes:
        for key in table.metrics:
            means = [
                summary.over_classes(protocol, method, layer, key) for method in methods
            ]
            number = max((mean.number for mean in means), default=0)
            word = "class" if number == 1 else "classes"
            heads = f"mean over {number} {word}", METRICS[key].text
            rows.append((heads, cells(means, METRICS[key])))
            over |= any(mean.interval for mean in means)
            means = summary.across(protocol, methods, layer, key)
            differences = summary.differences(protocol, methods, layer, key)
            heads = "all pictures", METRICS[key].text
            rows.append((heads, cells(means, METRICS[key], differences)))
            every += means
    if rows:
        note = _note(every, rows)
        if over:
            note += " The interval of the mean over classes is made of theirs (MOVER)."
        yield Sheet(table.title, layer, ["Class", "Metric"], methods, rows, note)


def _sweep(
    summary: Summary, protocol: str, layer: str, table: Table
) -> Iterator[Sheet]:
    """Values of an argument as rows, metrics across; two values at least."""
    sweep, run = table.sweep, summary.run
    if sweep is None:
        return
    labels = {
        value: label
        for value, label in sweep.labels().items()
        if label in run["methods"][protocol]
    }
    columns = [key for key in table.metrics if key in run["metrics"][protocol]]
    rows, every = [], []
    for value, label in labels.items():
        means = [summary.mean(protocol, label, layer, key) for key in columns]
        row = [
            cells([mean], METRICS[key])[0]
            for mean, key in zip(means, columns, strict=True)
        ]
        rows.append(((f"{value:g}",), row))
        every += means
    if len(rows) > 1 and _has_values(every):
        heads = [METRICS[key].text for key in columns]
        note = _note(every, rows)
        yield Sheet(table.title, layer, [sweep.label], heads, rows, note)


def _printed(summary: Summary, protocol: str, table: Table) -> Iterator[Sheet]:
    """What the paper prints, and how its set-up differs from that of the run."""
    run = summary.run
    ours = f"{run_title(run)}, {summary.pictures[protocol]} pictures"
    for theirs, rows in (table.printed or {}).items():
        methods = [*next(iter(rows.values()))]
        body = [
            ((METRICS[key].text,), [Cell(f"{row[method]:g}") for method in methods])
            for key, row in rows.items()
        ]
        note = f"Printed in the paper, of {theirs}. The tables above are of {ours}."
        yield Sheet(f"{table.title}, as printed", "", [""], methods, body, note)


def _cost(cell: Cell) -> Cell:
    """Without a remark on equal numbers, which passes often are."""
    return cell._replace(spread=cell.spread if "±" in cell.spread else "")


def timings(summary: Summary) -> list[Sheet]:
    """Seconds and passes of a picture, by method and layer; none is called best."""
    run = summary.run
    methods = list(dict.fromkeys(itertools.chain(*run["methods"].values())))
    settings = run["settings"]
    known = [
        f"{name.replace('_', ' ')} {settings[name]}"
        for name in ("device", "batch_size")
        if settings.get(name) is not None
    ]
    where = f" ({', '.join(known)})" if known else ""
    shared = ""
    if len(run["layers"]) > 1:
        shared = " Layers that one call explains share its cost."
    path = shares_path([parse_method(method) for method in methods])
    if path:
        names = ", ".join(spec.label for spec in path)
        shared += (
            f" {names} are explained along one path, in equal parts, in batches where "
            "they explain the same pictures."
        )
    sheets = []
    for metric, title, what in (
        (_SECONDS, "Time a picture by layer (Table 3)", "Seconds"),
        (_PASSES, "Passes a picture by layer", "Inputs that go through the network"),
    ):
        sides = [
            [summary.cost(method, layer, metric is _PASSES) for method in methods]
            for layer in run["layers"]
        ]
        columns = [[*map(_cost, cells(means, metric))] for means in sides]
        rows = [
            ((method,), row)
            for method, row in zip(methods, zip(*columns, strict=True), strict=True)
        ]
        counts = [mean.number for mean in itertools.chain(*sides) if mean.number]
        most = max(counts, default=0)
        note = (
            f"{what} for the map alone{where}, after a warm-up. One sample is a "
            f"batch, of which there are {most}; methods take turns in being the first."
        )
        if any("±" in cell.spread for _, row in rows for cell in row):
            note += " ±: standard error over batches."
        note += shared
        unit = f", {metric.unit}" if metric.unit else ""
        title = f"{title}{unit}{metric.arrow}"
        sheets.append(Sheet(title, "", ["Method"], run["layers"], rows, note))
    if "group-cam" in run["methods"]:
        row = [Cell(f"{seconds:g}") for seconds in PRINTED_SECONDS.values()]
        note = "Printed in the paper, of ImageNet's pictures on one GeForce 2080 Ti."
        title = f"Time a picture (Table 3), {_SECONDS.unit}, as printed"
        sheets.append(Sheet(title, "", [""], [*PRINTED_SECONDS], [(("",), row)], note))
    return sheets


def what_was_run(summary: Summary) -> str:
    """Network, data, layers, methods and pictures in a sentence."""
    run = summary.run
    data = run["settings"].get("dataset")
    of = f" of {data}" if data else ""
    used = {protocol: n for protocol, n in summary.pictures.items() if n}
    if not used:
        return f"No picture{of} was explained of {run['network']}."
    labels = dict.fromkeys(
        itertools.chain(*(compared_methods(run, protocol) for protocol in used))
    )
    found = dict.fromkeys(itertools.chain(*map(summary.layers, used)))
    names = [layer for layer in found if layer]
    layers = f", at {_listed(names)}" if names else ""
    low, high = min(used.values()), max(used.values())
    pictures = f"{low} to {high} pictures" if low < high else f"{high} pictures"
    if high == 1:
        pictures = "1 picture"
    return (
        f"On {pictures}{of}, {run['network']} was explained{layers}, by "
        f"{_listed([*labels])}."
    )


def verdict(summary: Summary) -> list[str]:
    """
    For each metric with a direction, which method is best and which may be.

    In sentences, of the same paired differences that the tables mark.
    """
    lines = []
    for protocol in summary.run["methods"]:
        methods = compared_methods(summary.run, protocol)
        layers = summary.layers(protocol)
        for layer, key in itertools.product(layers, summary.run["metrics"][protocol]):
            metric = METRICS[key]
            if metric.higher_is_better is None or metric.at(summary.run) != [None]:
                continue
            means = summary.across(protocol, methods, layer, key)
            if any(mean.mean is not None for mean in means):
                found = summary.differences(protocol, methods, layer, key)
                where = f" at {layer}" if len(layers) > 1 else ""
                what = f"{PAPERS[protocol].title}, {metric.label}{where}: "
                lines.append(what + _best(methods, means, found, metric))
    return lines or [
        "Nothing was measured in one number a map that has a better direction and "
        "values; see the tables."
    ]


def _best(
    methods: Sequence[str],
    means: Sequence[Mean],
    differences: Sequence[Difference | None],
    metric: Metric,
) -> str:
    """Of the methods with a value: the best, those near it, or that none is told."""
    known = [
        (method, mean.mean, found)
        for method, mean, found in zip(methods, means, differences, strict=True)
        if mean.mean is not None
    ]
    blank = [m for m, mean in zip(methods, means, strict=True) if mean.mean is None]
    tail = f" Without a value: {_listed(blank)}." if blank else ""
    if len(known) < 2:
        return f"{known[0][0]} alone has values, so that there is nothing to compare."
    high = metric.higher_is_better
    order = sorted(known, key=lambda one: -one[1] if high else one[1])
    first, value, _ = order[0]
    shown = metric.shown(value)
    ahead = [method for method, _, found in order if is_ahead(found, metric)]
    if ahead:
        are = "is" if len(ahead) == 1 else "are"
        return (
            f"{first} has the best mean, {shown}, but on the maps that both have "
            f"{_listed(ahead)} {are} ahead of it.{tail}"
        )
    others = order[1:]
    beaten = [m for m, _, found in others if found is not None and not found.is_noise]
    near = [m for m, _, found in others if found is not None and found.is_noise]
    apart = [m for m, _, found in others if found is None]
    if apart and len(apart) < len(others):
        tail = f" Not comparable, for lack of common maps: {_listed(apart)}.{tail}"
    if not beaten:
        if order[-1][1] == value:
            return f"all have {shown}, and no method can be told from another.{tail}"
        told = "no other method can be told from it"
        return f"{first} leads with {shown}, and {told}.{tail}"
    if not near:
        them = "all others" if len(beaten) == len(methods) - 1 else _listed(beaten)
        return f"{first} is best with {shown}, ahead of {them}.{tail}"
    are = "is" if len(near) == 1 else "are"
    return (
        f"{first} is best with {shown}; {_listed(near)} {are} within noise of it.{tail}"
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _has_values(means: Iterable[Mean]) -> bool:
    """Whether any record has these metrics, be it without a value."""
    return any(mean.number or mean.missing for mean in means)


def _note(
    means: Sequence[Mean], rows: Sequence[tuple[Sequence[str], Sequence[Cell]]]
) -> str:
    """Says what the means are of, and how to read what stands beside them."""
    counts = [mean.number for mean in means if mean.number] or [0]
    low, high = min(counts), max(counts)
    text = f"{low}" if low == high else f"{low} to {high}"
    every = [cell for _, row in rows for cell in row]
    notes = ["Of one map each." if high == 1 else f"Means of {text} maps each."]
    if high == 0:
        notes = []
    if any("±" in cell.spread for cell in every):
        notes.append("±: standard error.")
    if any(mean.interval for mean in means):
        notes.append("[low, high]: Wilson's interval of 95% of a share.")
    if any("alike" in cell.spread for cell in every):
        notes.append(
            "(n alike): all n maps have this value, of which no error can be told."
        )
    if any(" of " in cell.spread for cell in every):
        notes.append("(n of m): of m maps only n have a value.")
    if any(cell.mean == UNDEFINED for cell in every):
        notes.append(
            f"{UNDEFINED}: no map has a value, as where maps are 0 everywhere or a "
            "picture has no box."
        )
    if any(cell.mean == Metric.if_absent for cell in every):
        notes.append(f"{Metric.if_absent}: not asked for.")
    if any(cell.best for cell in every):
        notes.append(
            "Bold: the best, and those that differ from it by no more than noise."
        )
    return " ".join(notes)


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
    of_mean = ["mean", "standard_error", "count", "missing", "low", "high"]
    writer.writerow([*keys, *of_mean])
    writer.writerows(summary.rows())
    write_text(out / "summary.csv", file.getvalue())
    write_text(out / "summary.md", _markdown(summary))
    lines = [
        line
        for table in timings(summary)
        for line in (f"# {table.title}", "", *_table_lines(table))
    ]
    write_text(out / "timings.md", "\n".join(lines))


def write_text(path: Path, text: str) -> None:
    """Writes lines in UTF-8, each made printable, as it may hold names of files."""
    path.write_bytes("\n".join(map(printable, text.split("\n"))).encode("utf-8"))


def picture_counts(summary: Summary) -> list[str]:
    """What became of the pictures, in sentences."""
    run = summary.run
    skipped = summary.skipped.total()
    pictures = len(run["pictures"])
    lines = [f"{summary.read} of {pictures} pictures read, {skipped} skipped."]
    left = pictures - summary.read - skipped
    if left:
        lines.append(f"Not reached: {left}; the run is not finished.")
    # The most frequent first, then by the alphabet.
    reasons = sorted(summary.skipped.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"Skipped, {number}: {why}" for why, number in reasons[:_MOST_REASONS]]
    if len(reasons) > _MOST_REASONS:
        others = sum(number for _, number in reasons[_MOST_REASONS:])
        lines.append(f"Skipped, {others}: other reasons, in results-*.jsonl.")
    lines += [
        f"Boxes left out, {number}: {why}."
        for why, number in sorted(summary.left_out.items())
    ]
    lines += run["notes"]
    if run["settings"].get("preset") in PRESETS:
        lines.append(_differs_from_paper(run))
    for protocol, number in summary.pictures.items():
        paper, targets = PAPERS[protocol], summary.targets[protocol]
        several = f", with {targets} explained classes" if targets != number else ""
        lines.append(f"{paper.title} uses {number} of them{several}: {paper.pictures}.")
    return lines


def _differs_from_paper(run: Run) -> str:
    """How a run's set-up is not the paper's: the preset's own, and what was given."""
    name = str(run["settings"]["preset"])
    preset = PRESETS[name]
    now = {**run["settings"], "layers": run["layers"]}
    others = [
        f"{key} {_shown(now.get(key))} instead of {_shown(value)}"
        for key, value in preset.settings.items()
        if now.get(key) is not None and _shown(now[key]) != _shown(value)
    ]
    differs = "; ".join([preset.differs, *others])
    return f"Preset {name}; what differs from the paper: {differs}."


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)


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
    if summary.run["left_out"]:
        lines += ["", "## Left out", ""]
        lines += [f"- {_escape_markdown(line)}." for line in summary.run["left_out"]]
    lines += [
        "",
        "## What the data support",
        "",
        _escape_markdown(what_was_run(summary)),
    ]
    lines += ["", VERDICT_NOTE, ""]
    lines += [f"- {_escape_markdown(line)}" for line in verdict(summary)]
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


def _table_lines(table: Sheet) -> list[str]:
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
    escaped = re.sub(r"([\\`*_|\[\]<>])", r"\\\1", printable(text))
    return " ".join(escaped.split())
