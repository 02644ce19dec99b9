"""
From records to the papers' figures: one PNG each, in the folder ``figures``.

The rolling means and boxplots of RSI-Grad-CAM need one number a picture; all else is
drawn from the means of :mod:`captum_cams.evaluation.summary`.
"""

import math
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_cams.evaluation.papers import (
    AREAS,
    STYLES,
    ablation_methods,
    arrow,
    compared_methods,
    metric_parameters,
)
from captum_cams.evaluation.plotting import (
    COLORS,
    LINES,
    MARKS,
    axis_label,
    draw_line,
    layer_title,
    legend,
    line_style,
    panel_each_layer,
    panels,
)
from captum_cams.evaluation.records import Record, Run
from captum_cams.evaluation.summary import Array, Summary, metric_value, protocols_of

FOLDER = "figures"

_WINDOW = 1000  # pictures of a rolling mean, or a tenth of all where that is less
_ROLLING = (
    "average_drop",
    "increase_in_confidence",
    "pixel_energy",
    "box_overlap.iou",
    "box_overlap.iob",
    "box_overlap.ior",
)
_BOXES = ("heatmap_mean", "heatmap_mean(normalize)")


class _Drawing(NamedTuple):
    stem: str
    protocol: str
    caption: str
    figure: Figure


def rolling_mean(values: Array, window: int) -> Array:
    """Means of each `window` neighbors, of those that are not NaN."""
    known = ~np.isnan(values)
    sums = np.concatenate([[0], np.cumsum(np.where(known, values, 0))])
    numbers = np.concatenate([[0], np.cumsum(known)])
    within = numbers[window:] - numbers[:-window]
    with np.errstate(invalid="ignore"):
        means: Array = (sums[window:] - sums[:-window]) / within  # 0 / 0 is NaN
    return means


class _Pictures:
    """Values and probabilities of each picture in RSI-Grad-CAM's protocol."""

    def __init__(self, run: Run, records: Iterable[Record]) -> None:
        self.values: dict[tuple[str, str, str, int], array[float]] = {}
        self.probability: dict[tuple[str, str], array[float]] = {}
        for record in records:
            if "method" not in record or "rsi" not in protocols_of(run, record):
                continue
            of = record["method"], record["layer"]
            self.probability.setdefault(of, array("d")).append(record["probability"])
            for metric in (*_ROLLING, *_BOXES):
                value = metric_value(record, metric)
                row = value if isinstance(value, list) else [value]
                for position, number in enumerate(row):
                    key = (*of, metric, position)
                    known = number is not None and math.isfinite(number)
                    self.values.setdefault(key, array("d")).append(
                        number if number is not None and known else math.nan
                    )

    def of(
        self, method: str, layer: str, metric: str, position: int = 0
    ) -> tuple[Array, Array] | None:
        """Probabilities and values, in the pictures' order."""
        for name in (layer, ""):
            values = self.values.get((method, name, metric, position))
            if values is not None and not np.isnan(values).all():
                return np.array(self.probability[method, name]), np.array(values)
        return None


def write(out: Path, summary: Summary, records: Iterable[Record]) -> None:
    """
    Draws all figures for which there are numbers.

    Each file's texts hold its caption, "Description", and protocol, "Subject".

    Args:
        out (Path): The folder of results; figures go into its folder ``figures``.
        summary (Summary): Of all records.
        records (iterable of Record): In the order of :class:`Records`.
    """
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    for stem, protocol, caption, figure in _all(summary, records):
        path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', stem)}.png"
        # Without the library's name equal numbers make equal files.
        texts = {"Software": None, "Description": caption, "Subject": protocol}
        figure.savefig(path, dpi=120, metadata=texts)


def _all(summary: Summary, records: Iterable[Record]) -> Iterator[_Drawing]:
    run = summary.run
    if "rsi" in run["methods"] and summary.pictures["rsi"]:
        pictures = _Pictures(run, records)
        for metric in _BOXES:
            yield from _boxplots(summary, pictures, metric)
        yield from _dark(summary)
        for metric in _ROLLING:
            yield from _rolling(summary, pictures, metric)
    if "group-cam" in run["methods"] and summary.pictures["group-cam"]:
        yield from _curves(summary)
        yield from _ablations(summary)
        yield from _sanity(summary)


def _boxplots(summary: Summary, pictures: _Pictures, metric: str) -> Iterator[_Drawing]:
    layers, methods = summary.layers("rsi"), summary.run["methods"]["rsi"]
    figure, axes = panels(
        [layer_title(layer) for layer in layers], across=3, height=1.1
    )
    drawn = False
    for one, layer in zip(axes, layers, strict=True):
        found = {method: pictures.of(method, layer, metric) for method in methods}
        rows = {name: of[1][~np.isnan(of[1])] for name, of in found.items() if of}
        if not rows:
            continue
        one.boxplot(
            list(rows.values()),
            showfliers=False,
            whis=(5, 95),
            showmeans=True,
            medianprops={"color": COLORS[3], "linewidth": 2},
            meanprops={
                "marker": "D",
                "markersize": 4,
                "markerfacecolor": COLORS[2],
                "markeredgecolor": COLORS[2],
            },
        )
        if metric == "heatmap_mean" and all((row > 0).all() for row in rows.values()):
            one.set_yscale("log")
        elif metric == "heatmap_mean":
            smallest = min(row[row > 0].min(initial=1) for row in rows.values())
            one.set_yscale("symlog", linthresh=max(smallest, 1e-12))
        else:
            one.set_ylim(bottom=0)
        one.set_xticks(range(1, len(rows) + 1), list(rows), rotation=25, ha="right")
        one.set_ylabel(axis_label(metric), fontsize=8)
        drawn = True
    if drawn:
        number = "14" if "normalize" in metric else "13"
        when = "after" if "normalize" in metric else "before"
        yield _Drawing(
            f"rsi-heatmap-means-{when}",
            "rsi",
            f"Heat-map means {when} normalizing (Fig. {number}): box to the quartiles, "
            "line at the median, diamond at the mean, whiskers to 5% and 95%.",
            figure,
        )


def _dark(summary: Summary) -> Iterator[_Drawing]:
    """Shares of dark maps in the upper row, probabilities of their pictures below."""
    run, layers = summary.run, summary.layers("rsi")
    metrics = ("dark_heatmaps", "dark_heatmaps.probability")
    titles = [layer_title(layer) for layer in layers] * 2
    figure, axes = panels(titles, across=len(layers), height=0.85)
    drawn = False
    for number, one in enumerate(axes):
        metric = metrics[number // len(layers)]
        scale = STYLES[metric].scale
        for method in run["methods"]["rsi"]:
            means = summary.curve("rsi", method, layers[number % len(layers)], metric)
            drawn |= draw_line(
                one, run["eps"], means, line_style(run, "rsi", method), scale, "o"
            )
        one.set_xscale("log")
        one.set_xlim(run["eps"][0] / 2, run["eps"][-1] * 2)
        one.set_xlabel("eps", fontsize=8)
        one.set_ylabel(axis_label(metric), fontsize=8)
        if scale == 100:
            one.set_ylim(-3, 103)
    legend(figure, axes)
    if drawn:
        caption = (
            "Dark heat maps against eps, and the mean probability of their pictures "
            "(Fig. 15)."
        )
        yield _Drawing("rsi-dark-heatmaps", "rsi", caption, figure)


def _rolling(summary: Summary, pictures: _Pictures, metric: str) -> Iterator[_Drawing]:
    run, layers = summary.run, summary.layers("rsi")
    numbers = {"average_drop": "16", "increase_in_confidence": "17"}
    paper = f"Fig. {numbers.get(metric, '19-21')}"
    label = STYLES[metric].label
    stem = f"rsi-rolling-{metric.split('.')[-1]}"
    at = metric_parameters(run, metric)
    if len(at) == 1:
        sheets = [(stem, "", [(layer_title(layer), layer, 0) for layer in layers])]
    else:
        sheets = [
            (
                f"{stem}-{layer}" if layer else stem,
                f", at layer {layer}" if layer else "",
                [(f"above {value:g}", layer, i) for i, value in enumerate(at)],
            )
            for layer in layers
        ]
    for name, where, cells in sheets:
        figure, axes = panels([title for title, *_ in cells])
        window = 0
        for one, (_, layer, position) in zip(axes, cells, strict=True):
            for method in run["methods"]["rsi"]:
                found = pictures.of(method, layer, metric, position)
                if found is not None:
                    style = line_style(run, "rsi", method)
                    window = _roll(one, *found, style, STYLES[metric].scale)
            low, high = one.get_ylim()
            if high - low < 1:  # a flat line is no news
                one.set_ylim(low - 1, high + 1)
            one.set_xlabel("rank by probability (below: probability)", fontsize=8)
            one.set_ylabel(axis_label(metric), fontsize=8)
        legend(figure, axes)
        if window:
            over = "1 picture" if window == 1 else f"{window} pictures"
            caption = (
                f"{label[0].upper()}{label[1:]}: rolling means over {over} sorted by "
                f"probability{where} ({paper})."
            )
            yield _Drawing(name, "rsi", caption, figure)


def _roll(
    axes: Axes, probability: Array, values: Array, style: dict[str, Any], scale: float
) -> int:
    """Draws a rolling mean by rank of probability, and returns its window."""
    order = np.argsort(probability, kind="stable")
    window = min(_WINDOW, max(1, len(order) // 10))
    means = rolling_mean(values[order], window) * scale
    centers = np.arange(len(means)) + (window - 1) / 2 + 1
    step = max(1, len(means) // 2000)  # more points than pixels help nobody
    marker = "o" if len(means) == 1 else ""
    axes.plot(centers[::step], means[::step], lw=1.3, marker=marker, **style)
    ranks = sorted({round(share * (len(order) - 1)) for share in (0, 1 / 3, 2 / 3, 1)})
    axes.set_xticks(
        [rank + 1 for rank in ranks],
        [f"{rank + 1}\n{probability[order[rank]]:.3g}" for rank in ranks],
    )
    return window


def _curves(summary: Summary) -> Iterator[_Drawing]:
    run, layers = summary.run, summary.layers("group-cam")
    metrics = ("insertion_curve", "deletion_curve")
    kinds = [(layer, metric) for layer in layers for metric in metrics]
    titles = [
        ", ".join(filter(None, (metric.split("_")[0], layer_title(layer))))
        for layer, metric in kinds
    ]
    figure, axes = panels(titles, across=2)
    drawn = False
    for one, (layer, metric) in zip(axes, kinds, strict=True):
        shares = np.linspace(0, 100, run["curve_steps"] + 1)
        for method in compared_methods(run, "group-cam"):
            means = summary.curve("group-cam", method, layer, metric)
            drawn |= draw_line(
                one, shares, means, line_style(run, "group-cam", method), 1
            )
        what = "shown" if metric.startswith("insertion") else "removed"
        one.set_xlabel(f"pixels {what}, %", fontsize=8)
        one.set_ylabel("mean probability", fontsize=8)
    legend(figure, axes)
    if drawn:
        caption = (
            "Mean insertion and deletion curves (Fig. 4); bands are two standard "
            "errors wide on either side."
        )
        yield _Drawing("group-cam-curves", "group-cam", caption, figure)


def _ablations(summary: Summary) -> Iterator[_Drawing]:
    run, layers = summary.run, summary.layers("group-cam")
    for argument, stem, label, paper in (
        ("groups", "group-cam-groups", "groups", "number of groups (Table 2)"),
        (
            "denoise_percentile",
            "group-cam-theta",
            "theta, percentile",
            "de-noising percentile theta (Fig. 5)",
        ),
    ):
        points = ablation_methods(run, argument)
        if not points:
            continue
        x = np.array(list(points))

        def draw(
            one: Axes, layer: str, points: dict[float, str] = points, x: Array = x
        ) -> bool:
            drawn = False
            for i, metric in enumerate(AREAS):
                means = [
                    summary.mean("group-cam", method, layer, metric)
                    for method in points.values()
                ]
                text = f"{STYLES[metric].label}{arrow(metric)}"
                style = {"color": COLORS[i], "linestyle": LINES[i], "label": text}
                drawn |= draw_line(one, x, means, style, STYLES[metric].scale, MARKS[i])
            return drawn

        figure, axes, drawn = panel_each_layer(layers, draw)
        for one in axes:
            if argument == "groups":
                one.set_xscale("log", base=2)
                one.minorticks_off()
            one.set_xticks(x, [f"{value:g}" for value in x])
            one.set_xlabel(label, fontsize=8)
            one.set_ylabel("area under the curve, %", fontsize=8)
        legend(figure, axes)
        if drawn:
            caption = f"Group-CAM by {paper}, with bands of two standard errors."
            yield _Drawing(stem, "group-cam", caption, figure)


def _sanity(summary: Summary) -> Iterator[_Drawing]:
    run, layers = summary.run, summary.layers("group-cam")
    if not run["randomized"]:
        return
    x = range(1, len(run["randomized"]) + 1)
    for metric in ("randomization_check.spearman", "randomization_check.ssim"):

        def draw(one: Axes, layer: str, metric: str = metric) -> bool:
            drawn = False
            for i, method in enumerate(compared_methods(run, "group-cam")):
                means = summary.curve("group-cam", method, layer, metric)
                mark = MARKS[i % len(MARKS)]
                drawn |= draw_line(
                    one, x, means, line_style(run, "group-cam", method), 1, mark
                )
            return drawn

        figure, axes, drawn = panel_each_layer(layers, draw)
        name = STYLES[metric].label
        for one in axes:
            one.axhline(0, color="0.5", lw=0.8)
            one.set_xticks(x, run["randomized"], rotation=35, ha="right")
            one.set_xlabel("randomized down to layer", fontsize=8)
            one.set_ylabel(f"{name} with the trained map ↓", fontsize=8)
        legend(figure, axes)
        if drawn:
            caption = (
                f"Sanity check (Fig. 6): {name} of the maps before and after layers "
                "lose their weights, from the output down."
            )
            stem = f"group-cam-sanity-{name.lower()}"
            yield _Drawing(stem, "group-cam", caption, figure)
