"""What the figures of an evaluation share: panels, lines of means, one legend."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_cams._lettering import fitted, legible, text_style
from captum_cams.evaluation.metrics import METRICS
from captum_cams.evaluation.summary import Array, Mean

# Okabe and Ito's colors without the yellow, which white paper swallows; styles of
# another number, so that a color and a style meet again only after 35 lines.
COLORS = ["#000000", "#e69f00", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"]
LINES: list[Any] = ["-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1))]
MARKS = "osD^vPX"
_PANEL = 3.6, 3.0  # inches
_ACROSS = 4  # panels
_LEGEND = 2.1  # inches of a column


def line_style(methods: Sequence[str], method: str) -> dict[str, Any]:
    """The same in every figure of these methods."""
    number = methods.index(method)
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": LINES[number % len(LINES)],
        "label": method,
    }


def panels(
    titles: Sequence[str], across: int = _ACROSS, height: float = 1
) -> tuple[Figure, list[Axes]]:
    """A row of axes or several."""
    wide = min(len(titles), across)
    rows = -(-len(titles) // wide)
    size = max(wide * _PANEL[0], 5.4), rows * _PANEL[1] * height + 0.7
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, wide, squeeze=False).flat)
    for unused in axes[len(titles) :]:
        unused.remove()
    for one, text in zip(axes, titles, strict=False):
        title = fitted(text, _PANEL[0], size=9)
        one.set_title(title, fontsize=9, **text_style(title))
        one.tick_params(labelsize=8)
        one.grid(alpha=0.3, linewidth=0.6)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes[: len(titles)]


def legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One below all panels."""
    entries: dict[Any, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        labels = [*map(legible, entries)]
        drawn = figure.legend(
            list(entries.values()),
            labels,
            loc="outside lower center",
            ncols=min(len(entries), int(figure.get_figwidth() // _LEGEND)),
            fontsize=8,
            frameon=False,
            handlelength=3.5,
        )
        for text in drawn.get_texts():
            text.set(**text_style(*labels))


def layer_title(layer: str) -> str:
    """Nothing where methods without a layer are all there are."""
    return f"layer {layer}" if layer else ""


def axis_label(metric: str) -> str:
    """The metric with its unit and the better direction."""
    return METRICS[metric].text


def draw_line(
    axes: Axes,
    x: Sequence[float] | Array,
    means: Sequence[Mean],
    style: dict[str, Any],
    scale: float,
    marker: str = "",
) -> bool:
    """A line of means in a band of two standard errors; whether there is one."""
    y = np.array([np.nan if m.mean is None else m.mean for m in means]) * scale
    if np.isnan(y).all():
        return False
    errors = np.array([m.standard_error or 0 for m in means]) * scale
    axes.plot(x, y, lw=1.5, marker=marker, markersize=3.5, **style)
    axes.fill_between(
        x, y - 2 * errors, y + 2 * errors, color=style["color"], alpha=0.1
    )
    return True
