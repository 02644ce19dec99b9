"""
From records to the papers' figures: one PNG each, in the folder ``figures``.

The rolling means and boxplots of RSI-Grad-CAM need one number a picture; other numbers
are the means of :mod:`captum_cams.evaluation.summary`. Maps are not in the records:
those that are shown are explained again, with the same seeds.
"""

import math
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from torch import Tensor

from captum_cams._lettering import fitted, legible, text_style
from captum_cams.evaluation.errors import UserError, brief_error
from captum_cams.evaluation.methods import parse_method
from captum_cams.evaluation.metrics import METRICS, RANDOMIZATION, value_of
from captum_cams.evaluation.papers import (
    FOR_SHAPES,
    PAPERS,
    SHOWN_CLASSES,
    SHOWN_LAYERS,
    SHOWN_PICTURES,
    SHOWN_SHAPES,
    Figure,
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
    panels,
)
from captum_cams.evaluation.records import Explained, Record, Run
from captum_cams.evaluation.summary import Array, Mean, Summary, protocols_of
from captum_cams.evaluation.tables import compared_methods
from captum_cams.metrics._metric import resized
from captum_cams.visualization import TITLE_SIZE, panel

FOLDER = "figures"

_WINDOW = 1000  # pictures of a rolling mean (RSI-Grad-CAM, Fig. 16), a tenth if fewer
_FEWEST_ROLLED = 20  # pictures, of which a tenth is more than one
_WIDTH = 13.0  # inches of a figure of maps; the report scales a wider one down
_NARROWEST, _WIDEST = 1.3, 2.2  # inches of its cells
_LINE = 0.15  # inches of a line of text

Gallery: TypeAlias = Callable[[int, int, str, str], tuple[Tensor, Tensor, Tensor, str]]
"""
Of index, target, method and layer: the picture (3, H, W) in [0, 1], its map (h, w), the
boxes (n, 4) and a caption.
"""
Randomized: TypeAlias = Callable[[int, int, str, str, str], list[Tensor]]
"""
Of index, target, method, layer and mode: the map (h, w), and those after each of the
run's layers is randomized.
"""


class Drawing(NamedTuple):
    """A figure that was drawn."""

    path: Path
    protocol: str
    caption: str


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
    """
    What figures need of single pictures.

    Values and probabilities of each picture, of the metrics that are drawn one by one;
    a record of each example whose maps are shown; and of each method, layer and example
    that was checked for sanity.
    """

    def __init__(self, run: Run, records: Iterable[Record]) -> None:
        self.values: dict[tuple[str, str, str, str, int], array[float]] = {}
        self.probability: dict[tuple[str, str, str], array[float]] = {}
        shapes = run["settings"]["dataset"] == "shapes"
        self._shown = SHOWN_SHAPES if shapes else SHOWN_PICTURES
        self.shown: dict[str, list[Explained]] = {name: [] for name in run["methods"]}
        self.checked: dict[str, list[Explained]] = {name: [] for name in run["methods"]}
        wanted = {
            protocol: [
                key
                for figure in PAPERS[protocol].figures
                if figure.kind in ("boxes", "rolling")
                for key in figure.metrics
                if key in run["metrics"][protocol]
            ]
            for protocol in run["methods"]
        }
        for record in records:
            if "method" not in record:
                continue
            for protocol in protocols_of(run, record):
                self._note(protocol, record)
                if not wanted[protocol]:
                    continue
                of = protocol, record["method"], record["layer"]
                known = self.probability.setdefault(of, array("d"))
                known.append(record["probability"])
                for key in dict.fromkeys(wanted[protocol]):
                    value = value_of(record, key)
                    row = value if isinstance(value, list) else [value]
                    for position, number in enumerate(row):
                        finite = number is not None and math.isfinite(number)
                        self.values.setdefault((*of, key, position), array("d")).append(
                            number if number is not None and finite else math.nan
                        )

    def _note(self, protocol: str, record: Explained) -> None:
        if any(key.startswith(RANDOMIZATION) for key in record["values"]):
            self.checked[protocol].append(record)
        of = [(one["index"], one["target"]) for one in self.shown[protocol]]
        indices = [index for index, _ in of]
        if (record["index"], record["target"]) in of:
            return
        if record["index"] in indices:
            room = indices.count(record["index"]) < SHOWN_CLASSES
        else:
            room = len({*indices}) < self._shown
        if room:
            self.shown[protocol].append(record)

    def of(
        self, protocol: str, method: str, layer: str, key: str, position: int = 0
    ) -> tuple[Array, Array] | None:
        """Probabilities and values, in the pictures' order."""
        for name in (layer, ""):
            values = self.values.get((protocol, method, name, key, position))
            if values is not None and not np.isnan(values).all():
                known = self.probability[protocol, method, name]
                return np.array(known), np.array(values)
        return None


def write(
    out: Path,
    summary: Summary,
    records: Iterable[Record],
    gallery: Gallery | None = None,
    randomized: Randomized | None = None,
) -> list[Drawing]:
    """
    Draws all figures for which there are numbers.

    Args:
        out (Path): The folder of results; figures go into its folder ``figures``.
        summary (Summary): Of all records.
        records (iterable of Record): In the order of :class:`Records`.
        gallery (Callable, optional): Explains a picture again; see :data:`Gallery`.
            Default: None, no maps are drawn
        randomized (Callable, optional): Does so as layers are randomized; see
            :data:`Randomized`. Default: None, likewise

    Returns:
        *list* of :class:`Drawing`, in the papers' order.
    """
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    pictures = _Pictures(summary.run, records)
    drawings = []
    for protocol in summary.run["methods"]:
        if not summary.pictures[protocol]:
            continue
        for figure in PAPERS[protocol].figures:
            layers = _layers(summary, protocol, figure)
            if not layers:
                continue
            sheet = _Sheet(
                summary, pictures, protocol, layers, figure, gallery, randomized
            )
            canvas, extra = _DRAW[figure.kind](sheet)
            if canvas is None:
                continue
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", figure.stem)
            path = folder / f"{stem}.png"
            # Without the library's name equal numbers make equal files.
            canvas.savefig(path, dpi=120, metadata={"Software": None})
            where = f", layer {layers[0]}" if figure.layer and layers[0] else ""
            caption = f"{figure.number}: {figure.caption}{where}{extra}."
            drawings.append(Drawing(path, protocol, caption))
    return drawings


class _Sheet(NamedTuple):
    """What a figure is drawn of."""

    summary: Summary
    pictures: _Pictures
    protocol: str
    layers: Sequence[str]
    figure: Figure
    gallery: Gallery | None
    randomized: Randomized | None

    @property
    def methods(self) -> list[str]:
        return compared_methods(self.summary.run, self.protocol)

    def style(self, method: str) -> dict[str, Any]:
        return line_style(self.methods, method)

    def curve(self, method: str, layer: str, key: str) -> list[Mean]:
        return self.summary.curve(self.protocol, method, layer, key)


_Drawn = tuple[Canvas | None, str]
"""The figure, if there are numbers for it, and what its caption says besides."""


def _layers(summary: Summary, protocol: str, figure: Figure) -> list[str]:
    """Those of a figure: all, or one counted from the last."""
    keys = summary.run["metrics"][protocol]
    if figure.metrics and not any(key in keys for key in figure.metrics):
        return []
    layers = summary.layers(protocol)
    if figure.layer is None:
        return layers
    return layers[-figure.layer :][:1] if figure.layer <= len(layers) else []


def _boxes(sheet: _Sheet) -> _Drawn:
    """Box to the quartiles, a panel for each layer."""
    (key,) = sheet.figure.metrics
    titles = [layer_title(layer) for layer in sheet.layers]
    canvas, axes = panels(titles, across=3, height=1.1)
    drawn = False
    for one, layer in zip(axes, sheet.layers, strict=True):
        found = {
            method: sheet.pictures.of(sheet.protocol, method, layer, key)
            for method in sheet.methods
        }
        rows = {name: of[1][~np.isnan(of[1])] for name, of in found.items() if of}
        if any(len(row) > 1 for row in rows.values()):  # one value has no quartiles
            _box_panel(one, rows, logarithmic="normalize" not in key)
            one.set_ylabel(axis_label(key), fontsize=8)
            drawn = True
    extra = (
        ": box to the quartiles, line at the median, diamond at the mean, whiskers to "
        "5% and 95%"
    )
    return (canvas if drawn else None), extra


def _box_panel(one: Axes, rows: Mapping[str, Array], logarithmic: bool) -> None:
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
    if not logarithmic:
        one.set_ylim(bottom=0)
    elif all((row > 0).all() for row in rows.values()):
        one.set_yscale("log")
    else:
        smallest = min(row[row > 0].min(initial=1) for row in rows.values())
        one.set_yscale("symlog", linthresh=max(smallest, 1e-12))
    labels = [*map(legible, rows)]
    ticks = range(1, len(rows) + 1)
    one.set_xticks(ticks, labels, rotation=25, ha="right", **text_style(*labels))


def _dark(sheet: _Sheet) -> _Drawn:
    """Numbers of dark maps above, probabilities of their pictures below."""
    run, (count, probability) = sheet.summary.run, sheet.figure.metrics
    titles = [layer_title(layer) for layer in sheet.layers] * 2
    canvas, axes = panels(titles, across=len(sheet.layers), height=0.85)
    drawn = False
    for number, one in enumerate(axes):
        layer = sheet.layers[number % len(sheet.layers)]
        counts = number < len(sheet.layers)
        for method in sheet.methods:
            means = sheet.curve(method, layer, count if counts else probability)
            if counts:
                means = [_counted(mean) for mean in means]
                drawn |= any(mean.mean for mean in means)  # else no map is dark
            draw_line(one, run["eps"], means, sheet.style(method), 1, "o")
        one.set_xscale("log")
        one.set_xlim(run["eps"][0] / 2, run["eps"][-1] * 2)
        one.set_xlabel("eps", fontsize=8)
        if counts:
            one.set_yscale("symlog", linthresh=1)
            one.set_ylim(bottom=0)
            one.set_ylabel("number of dark heat maps", fontsize=8)
        else:
            one.set_ylabel(axis_label(probability), fontsize=8)
    legend(canvas, axes)
    return (canvas if drawn else None), ""


def _counted(mean: Mean) -> Mean:
    """How many maps are dark, of their mean."""
    if mean.mean is None:
        return mean
    return Mean(float(round(mean.mean * mean.number)), None, mean.number, mean.missing)


def _rolling(sheet: _Sheet) -> _Drawn:
    """Rolling means by probability: a panel for each layer, metric and threshold."""
    run, protocol = sheet.summary.run, sheet.protocol
    cells = []
    for layer in sheet.layers:
        for key in sheet.figure.metrics:
            if key not in run["metrics"][protocol]:
                continue
            for position, at in enumerate(METRICS[key].at(run)):
                parts = ["" if sheet.figure.layer else layer_title(layer)]
                parts += [METRICS[key].label if len(sheet.figure.metrics) > 1 else ""]
                parts += ["" if at is None else f"above {at:g}"]
                cells.append((", ".join(filter(None, parts)), layer, key, position))
    canvas, axes = panels([title for title, *_ in cells])
    window = 0
    for one, (_, layer, key, position) in zip(axes, cells, strict=True):
        for method in sheet.methods:
            found = sheet.pictures.of(protocol, method, layer, key, position)
            if found is not None and len(found[0]) >= _FEWEST_ROLLED:
                style = sheet.style(method)
                window = _roll(one, *found, style, METRICS[key].scale)
        low, high = one.get_ylim()
        if high - low < 1:  # a flat line is no news
            one.set_ylim(low - 1, high + 1)
        one.set_xlabel("mean probability", fontsize=8)
        one.set_ylabel(axis_label(key), fontsize=8)
    legend(canvas, axes)
    extra = f": rolling means over {window} pictures sorted by probability"
    return (canvas if window else None), extra


def _roll(
    axes: Axes, probability: Array, values: Array, style: dict[str, Any], scale: float
) -> int:
    """Draws a rolling mean by mean probability, and returns its window."""
    order = np.argsort(probability, kind="stable")
    window = min(_WINDOW, len(order) // 10)
    means = rolling_mean(values[order], window) * scale
    centers = rolling_mean(probability[order], window)
    step = max(1, len(means) // 2000)  # more points than pixels help nobody
    axes.plot(centers[::step], means[::step], lw=1.3, **style)
    return window


def _curves(sheet: _Sheet) -> _Drawn:
    """Mean curves over the share of the pixels."""
    run = sheet.summary.run
    kinds = [(layer, key) for layer in sheet.layers for key in sheet.figure.metrics]
    titles = [
        ", ".join(filter(None, (key.split("_")[0], layer_title(layer))))
        for layer, key in kinds
    ]
    canvas, axes = panels(titles, across=2)
    drawn = False
    for one, (layer, key) in zip(axes, kinds, strict=True):
        shares = [100 * share for share in METRICS[key].at(run)]
        for method in sheet.methods:
            if key in run["metrics"][sheet.protocol]:
                means = sheet.curve(method, layer, key)
                drawn |= draw_line(one, shares, means, sheet.style(method), 1)
        one.set_xlabel(f"{METRICS[key].at_label}, %", fontsize=8)
        one.set_ylabel(METRICS[key].label, fontsize=8)
    legend(canvas, axes)
    extra = "; bands are two standard errors wide on either side"
    return (canvas if drawn else None), extra


def _sweep(sheet: _Sheet) -> _Drawn:
    """Metrics over the values of an argument."""
    sweep, run, drawn = sheet.figure.sweep, sheet.summary.run, False
    methods = run["methods"][sheet.protocol]
    labels = sweep.labels().items() if sweep else ()
    points = {value: label for value, label in labels if label in methods}
    if sweep is None or len(points) < 2:
        return None, ""
    canvas, axes = panels([layer_title(layer) for layer in sheet.layers])
    for one, layer in zip(axes, sheet.layers, strict=True):
        for i, key in enumerate(sheet.figure.metrics):
            if key not in run["metrics"][sheet.protocol]:
                continue
            metric = METRICS[key]
            means = [
                sheet.summary.mean(sheet.protocol, label, layer, key)
                for label in points.values()
            ]
            text = f"{metric.label}{metric.arrow}"
            style = {"color": COLORS[i], "linestyle": LINES[i], "label": text}
            drawn |= draw_line(one, [*points], means, style, metric.scale, MARKS[i])
        if sweep.argument == "groups":
            one.set_xscale("log", base=2)
            one.minorticks_off()
        one.set_xticks([*points], [f"{value:g}" for value in points])
        one.set_xlabel(sweep.label, fontsize=8)
        one.set_ylabel("area under the curve, %", fontsize=8)
    legend(canvas, axes)
    extra = ", with bands of two standard errors"
    return (canvas if drawn else None), extra


def _sanity(sheet: _Sheet) -> _Drawn:
    """Similarity to the trained map over the layers that lose their weights."""
    run, (key,) = sheet.summary.run, sheet.figure.metrics
    names = [*map(legible, run["randomized"])]
    x = [*range(1, len(names) + 1)]
    canvas, axes = panels([layer_title(layer) for layer in sheet.layers])
    drawn = False
    for one, layer in zip(axes, sheet.layers, strict=True):
        for i, method in enumerate(sheet.methods):
            means = sheet.curve(method, layer, key)
            mark = MARKS[i % len(MARKS)]
            drawn |= draw_line(one, x, means, sheet.style(method), 1, mark)
        one.axhline(0, color="0.5", lw=0.8)
        one.set_xticks(x, names, rotation=35, ha="right", **text_style(*names))
        down = "down to " if "cascading" in key else ""
        one.set_xlabel(f"randomized {down}layer", fontsize=8)
        one.set_ylabel(METRICS[key].label.partition(",")[0], fontsize=8)
    legend(canvas, axes)
    number = len({one["index"] for one in sheet.pictures.checked[sheet.protocol]})
    extra = ", from the output down; of 1 picture"
    if number > 1:
        extra = (
            f", from the output down; means over {number} pictures with bands of two "
            "standard errors"
        )
    return (canvas if drawn else None), extra


def _maps(sheet: _Sheet) -> _Drawn:
    """Pictures with the maps of all methods side by side, a row for each layer."""
    examples = sheet.pictures.shown[sheet.protocol]
    if sheet.gallery is None or not examples:
        return None, ""
    settings = sheet.summary.run["settings"]
    methods: Sequence[str] = sheet.methods
    if sheet.figure.methods and settings.get("methods") is None:
        few = FOR_SHAPES if settings["dataset"] == "shapes" else {}
        methods = [few.get(method, method) for method in sheet.figure.methods]
    found: dict[str, list[_Cell]] = {}
    missing = []
    for method in methods:
        try:
            found[method] = _method_cells(sheet.gallery, method, examples, sheet.layers)
        except (ImportError, ValueError) as error:
            why = str(error) if isinstance(error, UserError) else brief_error(error)
            missing.append(f"{method} is left out: {why}")
    if not found:
        return None, ""
    titles = [
        [f"{one['category']} {one['probability']:.3f}", layer]
        for one in examples
        for layer in sheet.layers
    ]
    names = ", ".join(dict.fromkeys(one["picture"] for one in examples))
    eps = sheet.figure.eps
    scale = "each scaled by its own maximum"
    if eps is not None:
        scale = f"each normalized with eps = {eps:g}, so that dark maps stay dark"
    canvas = _map_panel(found, titles, eps)
    return canvas, "; ".join([f" ({names}), {scale}", *missing])


class _Cell(NamedTuple):
    """A map over its picture."""

    picture: Tensor  # (3, H, W)
    cam: Tensor  # (1, H, W)
    boxes: Tensor  # (n, 4)

    @classmethod
    def of(cls, picture: Tensor, cam: Tensor, boxes: Tensor) -> "_Cell":
        """A map of any size, (h, w), resized to the picture's."""
        size = picture.shape[1:]
        return cls(picture, resized(cam[None, None], size)[0], boxes)


def _method_cells(
    gallery: Gallery,
    method: str,
    examples: Sequence[Explained],
    layers: Sequence[str],
) -> list[_Cell]:
    """A method's maps of each example and layer; one for all where it knows none."""
    cells = []
    has_layer = parse_method(method).method.has_layer
    for one in examples:
        for layer in layers if has_layer else [""]:
            found = gallery(one["index"], one["target"], method, layer)
            cells += [_Cell.of(*found[:3])] * (1 if has_layer else len(layers))
    return cells


def _map_panel(
    columns: Mapping[str, Sequence[_Cell]],
    titles: Sequence[Sequence[str]],
    eps: float | None = None,
) -> Canvas:
    """A panel whose text fits its cells; `titles` holds the lines above each row."""
    cell = min(_WIDEST, max(_NARROWEST, _WIDTH / (1 + len(columns))))

    def wrapped(lines: Iterable[str]) -> str:
        return fitted("\n".join(filter(None, lines)), 0.9 * cell, TITLE_SIZE)

    rows = next(iter(columns.values()))
    texts = [wrapped(lines) for lines in titles]
    maps: dict[str, Tensor] = {}
    for name, cells in columns.items():
        title = wrapped([name])
        while title in maps:  # of two names that are shortened alike
            title += " "  # which is not drawn
        maps[title] = torch.stack([one.cam for one in cells])  # (N, 1, H, W)
    pictures = torch.stack([one.picture for one in rows])  # (N, 3, H, W)
    canvas = panel(pictures, maps, texts, [one.boxes for one in rows], eps=eps)
    lines = max(text.count("\n") + 1 for text in [*texts, *maps])
    height = len(rows) * (cell + _LINE * (lines + 2))
    canvas.set_size_inches(cell * (1 + len(maps)) + 0.5, height)
    return canvas


def _sanity_maps(sheet: _Sheet) -> _Drawn:
    """The first picture's maps as layers lose their weights, a row for each method."""
    checked = sheet.pictures.checked[sheet.protocol]
    if sheet.gallery is None or sheet.randomized is None or not checked:
        return None, ""
    layers = sheet.summary.run["randomized"]
    number = min(len(layers), SHOWN_LAYERS)
    chosen = [round(i) for i in np.linspace(0, len(layers) - 1, number)]
    mode = sheet.figure.metrics[0].split(".")[1]
    columns: dict[str, list[_Cell]] = {"original": []}
    columns |= {layers[i]: [] for i in chosen}
    titles = []
    for one in checked:
        of = one["index"], one["target"]
        if of != (checked[0]["index"], checked[0]["target"]):
            continue
        picture, _, boxes, _ = sheet.gallery(*of, one["method"], one["layer"])
        maps = sheet.randomized(*of, one["method"], one["layer"], mode)
        for cells, at in zip(
            columns.values(), [0, *(i + 1 for i in chosen)], strict=True
        ):
            cells.append(_Cell.of(picture, maps[at], boxes))
        score = f"{one['category']} {one['probability']:.3f}"
        titles.append([score, one["method"], one["layer"]])
    extra = f" ({checked[0]['picture']}), from the output down"
    if mode == "cascading":
        extra += ", each together with all before it"
    if number < len(layers):
        extra += f"; {number} of {len(layers)} layers are shown"
    return _map_panel(columns, titles), f"{extra}; each map scaled by its own maximum"


_DRAW: dict[str, Callable[[_Sheet], _Drawn]] = {
    "boxes": _boxes,
    "dark": _dark,
    "rolling": _rolling,
    "curves": _curves,
    "sweep": _sweep,
    "sanity": _sanity,
    "maps": _maps,
    "sanity-maps": _sanity_maps,
}
