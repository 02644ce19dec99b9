"""
Maps laid over their pictures, and curves of what they hide and show.

Figures are returned, never shown or saved, and leave pyplot's state alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from captum_cams._lettering import fitted, legible, text_style
from captum_cams._validation import check_number, check_real, kind_of
from captum_cams.metrics._metric import resized
from captum_cams.metrics.stability import normalize

_CELL = 2.2  # inches
_TITLE = 0.75 * _CELL  # color bars take some of the room
_FONT = TITLE_SIZE = 8  # points


_MOST_ACROSS = 8  # cells side by side, which a screen or a page still shows

# Both suit color blindness, and are far from the colors of most pictures.
_POSITIVE, _SIGNED = "plasma", "RdBu_r"


class _Scale(NamedTuple):
    """How values up to 1 become colors over a picture."""

    cmap: Colormap
    """With the opacities: what is unimportant leaves the picture as it is."""
    low: float
    label: str


# Okabe and Ito's colors without the yellow, which is lost on white. Seven colors
# and four line styles: neighbors differ in both, also in black and white.
_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
_LINE_STYLES = ("solid", "dashed", "dashdot", "dotted")
_CURVES = {
    "deletion": ("Deletion (lower is better)", "share of pixels removed"),
    "insertion": ("Insertion (higher is better)", "share of pixels shown"),
}


def overlay(
    images: Tensor,
    attributions: Tensor,
    titles: Sequence[str] | None = None,
    boxes: Tensor | Sequence[Tensor] | None = None,
    *,
    alpha: float = 0.8,
    cmap: str | Colormap | None = None,
) -> Figure:
    """
    Pictures, each under its map, up to eight side by side.

    Colors, scales and notes are those of :func:`panel`.

    Args:
        images (Tensor): Pictures in [0, 1], (N, 3, H, W).
        attributions (Tensor): One map a picture, (N, 1, h, w) or (N, h, w).
        titles (sequence of str, optional): A text above each picture.
        boxes (Tensor or sequence of Tensor, optional): Drawn as rectangles: x0, y0,
            x1, y1 in pixels, one a picture, (N, 4), or N tensors of several, (k, 4).
        alpha (float, optional): As for :func:`panel`. Default: 0.8
        cmap (str or Colormap, optional): Likewise. Default: None

    Returns:
        *Figure* of matplotlib, to be shown or saved by the caller.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams import LayerRSIGradCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> rsi = LayerRSIGradCam(model, model.block5)
        >>> maps = rsi.attribute(pictures.images, target=pictures.labels)
        >>> figure = overlay(pictures.images, maps, boxes=pictures.boxes)
    """
    images = _check_images(images)
    maps = _check_maps("attributions", attributions, images)
    rows = _check_per_picture("titles", titles, str, len(images))
    rectangles = _check_per_picture("boxes", boxes, Tensor, len(images))
    scale = _scale(maps, alpha, cmap)
    figure, (cells,) = _grid(1, len(images))
    for i, axes in enumerate(cells):
        _draw_map(axes, images[i], maps[i], scale)
        _draw_boxes(axes, rectangles[i])
        _title(axes, rows[i])
    _color_bar(figure, scale)
    return figure


def panel(
    images: Tensor,
    attributions: Mapping[str, Tensor],
    titles: Sequence[str] | None = None,
    boxes: Tensor | Sequence[Tensor] | None = None,
    *,
    eps: float | None = None,
    alpha: float = 0.8,
    cmap: str | Colormap | None = None,
) -> Figure:
    """
    A row for each picture, a column for the picture and for each method's map.

    Maps of any resolution are upsampled as in Group-CAM and laid over the picture. Each
    is scaled by its own largest magnitude, which is the number below it; the share of
    that magnitude is the color, and its opacity too, so that the picture stays clear
    where a map is near 0. A method with a value below 0 gets colors that diverge from
    0. A map that is 0 everywhere or not finite is left out, with a note. More than
    seven methods go on in further rows, below the picture they belong to.

    With `eps` maps are normalized as in RSI-Grad-CAM's experiments instead, by
    :func:`captum_cams.metrics.normalize`, and drawn in one opacity: one whose range is
    far below `eps` is dark, where scaled by its own magnitude it would look like any
    other.

    Args:
        images (Tensor): Pictures in [0, 1], (N, 3, H, W).
        attributions (mapping of str to Tensor): Name of each method and its maps,
            (N, 1, h, w) or (N, h, w).
        titles (sequence of str, optional): A text above each picture.
        boxes (Tensor or sequence of Tensor, optional): Drawn as rectangles: x0, y0,
            x1, y1 in pixels, one a picture, (N, 4), or N tensors of several, (k, 4).
        eps (float, optional): That of eq. 26 of RSI-Grad-CAM, above 0; 1e-8 in its
            experiments. Default: None, each map by its own largest magnitude
        alpha (float, optional): Opacity of a map where it is largest, in (0, 1].
            Default: 0.8
        cmap (str or Colormap, optional): Of matplotlib, for all maps. Default: None,
            ``"plasma"``, and ``"RdBu_r"`` for methods with values below 0

    Returns:
        *Figure* of matplotlib, to be shown or saved by the caller.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum.attr import LayerGradCam
        >>> from captum_cams import GroupCam
        >>> from captum_cams.examples import CLASSES, shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> methods = {
        ...     "Grad-CAM": LayerGradCam(model, model.block5),
        ...     "Group-CAM": GroupCam(model, model.block5),
        ... }
        >>> maps = {
        ...     name: method.attribute(pictures.images, target=pictures.labels)
        ...     for name, method in methods.items()
        ... }
        >>> names = [CLASSES[label] for label in pictures.labels]
        >>> figure = panel(pictures.images, maps, names, pictures.boxes)
        >>> len(figure.axes)  # 2 rows of 3 cells, a color bar of each kind
        8
    """
    images = _check_images(images)
    if eps is not None:
        eps = check_number("eps", eps, "(0, inf)", none="")
    _check_mapping("attributions", attributions)
    maps = {
        name: _check_maps(f"attributions[{name!r}]", values, images)
        for name, values in attributions.items()
    }
    rows = _check_per_picture("titles", titles, str, len(images))
    rectangles = _check_per_picture("boxes", boxes, Tensor, len(images))
    scales = [_scale(values, alpha, cmap, eps) for values in maps.values()]
    figure, cells = _grid(len(images), len(maps), beside_picture=True)
    wrapped = 1 + len(maps) > _MOST_ACROSS
    for i, (first, *others) in enumerate(cells):
        _draw_picture(first, images[i])
        _draw_boxes(first, rectangles[i])
        _title(first, rows[i])
        for axes, (name, values), scale in zip(
            others, maps.items(), scales, strict=True
        ):
            _draw_map(axes, images[i], values[i], scale, eps)
            _draw_boxes(axes, rectangles[i])
            if i == 0 or wrapped:
                _title(axes, name)
    for scale in {scale.label: scale for scale in scales}.values():
        _color_bar(figure, scale)
    return figure


def blend(
    images: Tensor,
    attributions: Tensor,
    *,
    alpha: float = 0.8,
    cmap: str | Colormap | None = None,
) -> Tensor:
    """
    The pixels of pictures under their maps, as :func:`panel` draws them.

    Args:
        images (Tensor): Pictures in [0, 1], (N, 3, H, W).
        attributions (Tensor): One map a picture, (N, 1, h, w) or (N, h, w). One that
            is 0 everywhere or not finite leaves its picture as it is.
        alpha (float, optional): As for :func:`panel`. Default: 0.8
        cmap (str or Colormap, optional): Likewise. Default: None

    Returns:
        *Tensor* in [0, 1], (N, 3, H, W), on the CPU.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams import LayerRSIGradCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> rsi = LayerRSIGradCam(model, model.block5)
        >>> maps = rsi.attribute(pictures.images, target=pictures.labels)
        >>> blend(pictures.images, maps).shape
        torch.Size([2, 3, 128, 128])
    """
    images = _check_images(images)
    maps = _check_maps("attributions", attributions, images)
    scale = _scale(maps, alpha, cmap)
    peaks = maps.abs().amax((1, 2), keepdim=True)  # (N, 1, 1)
    shares = torch.where(peaks.isfinite() & (peaks > 0), maps / peaks, 0)  # (N, H, W)
    colors = scale.cmap(Normalize(scale.low, 1)(shares.numpy()))  # (N, H, W, 4)
    layer = torch.from_numpy(colors).float().movedim(-1, 1)  # (N, 4, H, W)
    return images.lerp(layer[:, :3], layer[:, 3:])  # (N, 3, H, W)


def curves(
    deletion: Mapping[str, Tensor] | None = None,
    insertion: Mapping[str, Tensor] | None = None,
) -> Figure:
    """
    Deletion and insertion curves of several methods, side by side.

    Each line is the mean over the examples. The legend tells the area under it, the
    mean of ``metrics.deletion_auc`` or ``metrics.insertion_auc``. Examples whose curve
    is not finite are left out, and the legend tells how many; nothing is drawn of a
    method that has no other. A method has one color and one line style wherever it is
    named.

    Args:
        deletion (mapping of str to Tensor, optional): Name of each method and its
            curves, (N, n_steps + 1), as ``metrics.deletion_curve`` gives them; methods
            may differ in their numbers of examples and of steps.
        insertion (mapping of str to Tensor, optional): Likewise, as
            ``metrics.insertion_curve`` gives them. One of both is needed.

    Returns:
        *Figure* of matplotlib, to be shown or saved by the caller.

    Raises:
        ValueError: If an argument does not fit.

    Examples::

        >>> from captum_cams import GroupCam, LayerRSIGradCam, metrics
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, (images, labels, *_) = shapes_model(), shape_pictures(2)
        >>> maps = {
        ...     "RSI-Grad-CAM": LayerRSIGradCam(model, model.block5).attribute(
        ...         images, target=labels, n_steps=8
        ...     ),
        ...     "Group-CAM": GroupCam(model, model.block5).attribute(
        ...         images, target=labels
        ...     ),
        ... }
        >>> deletion = {
        ...     name: metrics.deletion_curve(
        ...         model, images, values, target=labels, n_steps=10
        ...     )
        ...     for name, values in maps.items()
        ... }
        >>> figure = curves(deletion)
    """
    given = {"deletion": deletion, "insertion": insertion}
    for argument, lines in given.items():
        if lines is not None:
            _check_mapping(argument, lines)
    panels = {argument: lines for argument, lines in given.items() if lines}
    if not panels:
        raise ValueError(
            "deletion or insertion must name a method and its curves, got neither"
        )
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    size = (3.8 * len(panels), 3.4 + 0.17 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    cells = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (argument, lines) in zip(cells, panels.items(), strict=True):
        for name, values in lines.items():
            number = names.index(name)
            _draw_curve(
                axes,
                name,
                _check_curves(f"{argument}[{name!r}]", values),
                color=_COLORS[number % len(_COLORS)],
                linestyle=_LINE_STYLES[number % len(_LINE_STYLES)],
            )
        _label_curves(axes, *_CURVES[argument])
    return figure


def _label_curves(axes: Axes, title: str, share: str) -> None:
    """Adds title, labels and, below the axes, where it hides no line, a legend."""
    axes.set_title(title, fontsize=_FONT + 1)
    axes.set_xlabel(share, fontsize=_FONT)
    axes.set_ylabel("mean output", fontsize=_FONT)
    axes.set_xlim(0, 1)
    axes.tick_params(labelsize=_FONT)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(
        title="area under the curve",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.18),
        frameon=False,
        handlelength=3,
        fontsize=_FONT,
        title_fontsize=_FONT,
    )
    for text in legend.get_texts():
        label = legible(text.get_text())
        text.set(text=label, **text_style(label))


def _check_curves(name: str, values: Tensor) -> Tensor:
    """Curves on the CPU in double precision, (N, n_steps + 1)."""
    check_real(name, values)
    if values.dim() != 2 or len(values) == 0 or values.shape[1] < 2:
        raise ValueError(
            f"{name} must hold a curve for each example, (N, n_steps + 1), got shape "
            f"{tuple(values.shape)}"
        )
    return values.detach().to("cpu", torch.float64)


def _draw_curve(axes: Axes, name: str, values: Tensor, **style: Any) -> None:
    finite = values.isfinite().all(1)  # (N,)
    broken = int((~finite).sum())
    if broken == len(values):
        axes.plot([], [], label=f"{name}: not finite", **style)
        return
    mean = values[finite].mean(0)  # (n_steps + 1,)
    area = torch.trapezoid(mean, dx=1 / (len(mean) - 1))
    note = f" ({broken} of {len(values)} not finite)" if broken else ""
    axes.plot(
        torch.linspace(0, 1, len(mean)).numpy(),
        mean.numpy(),
        label=f"{name}: {area:.3f}{note}",
        **style,
    )


def _check_mapping(name: str, value: object) -> None:
    """A mapping by the names of methods."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(
            f"{name} must be a dict of tensors by the methods' names, got "
            f"{kind_of(value)}"
        )


def _check_per_picture(name: str, values: object, kind: type, number: int) -> list[Any]:
    """Checks a text, or a tensor of boxes, for each picture."""
    if values is None:
        return [None] * number
    rows = list(values) if isinstance(values, (Sequence, Tensor)) else [values]
    if isinstance(values, str) or not all(
        row is None or isinstance(row, kind) for row in rows
    ):
        raise TypeError(
            f"{name} must be a sequence of {kind.__name__}, one for each picture, got "
            f"{kind_of(values)}"
        )
    for row in rows:
        if isinstance(row, Tensor) and row.shape[-1:] != (4,):
            raise ValueError(
                f"{name} must hold x0, y0, x1, y1 of each box, got shape "
                f"{tuple(row.shape)}"
            )
    if len(rows) != number:
        raise ValueError(
            f"{name} must be as many as the pictures, {number}, got {len(rows)}"
        )
    return rows


def _check_images(images: Tensor) -> Tensor:
    """Pictures on the CPU in single precision, (N, 3, H, W)."""
    check_real("images", images)
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(
            "images must be pictures of three colors, (N, 3, H, W), got shape "
            f"{tuple(images.shape)}"
        )
    images = images.detach().to("cpu", torch.float32)
    low, high = images.min().item(), images.max().item()
    if not -1e-3 <= low <= high <= 1 + 1e-3:
        raise ValueError(
            f"images must lie in [0, 1], got values from {low:.3g} to {high:.3g}; "
            "undo the normalization that the model wants"
        )
    return images.clamp(0, 1)


def _check_maps(name: str, maps: Tensor, images: Tensor) -> Tensor:
    """Maps at the pictures' size, (N, H, W)."""
    check_real(name, maps)
    if maps.dim() == 3:
        maps = maps.unsqueeze(1)  # (N, 1, h, w)
    if maps.dim() != 4 or maps.shape[:2] != (len(images), 1) or 0 in maps.shape:
        raise ValueError(
            f"{name} must hold one map for each of {len(images)} pictures, (N, 1, h, "
            f"w) or (N, h, w), got shape {tuple(maps.shape)}; sum over channels, or "
            "explain all pictures"
        )
    maps = maps.detach().to("cpu", torch.float32)
    return resized(maps, images.shape[2:]).squeeze(1)  # (N, H, W)


def _grid(
    rows: int, maps: int, beside_picture: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """
    Cells for each row of maps, after one for a picture where that is asked for.

    Maps that do not fit beside each other go on below, and leave the picture's column
    empty there.
    """
    before = int(beside_picture)
    lines = max(1, math.ceil(maps / (_MOST_ACROSS - before)))
    across = math.ceil(maps / lines)
    size = (_CELL * (before + across), _CELL * 1.15 * rows * lines)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows * lines, before + across, squeeze=False)
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    cells = []
    for block in grid.reshape(rows, lines, before + across):
        inside = block[:, before:].flatten()
        for axes in (*block[1:, :before].flatten(), *inside[maps:]):
            axes.remove()
        cells.append([*block[0, :before], *inside[:maps]])
    return figure, cells


def _scale(
    maps: Tensor, alpha: float, cmap: str | Colormap | None, eps: float | None = None
) -> _Scale:
    alpha = check_number("alpha", alpha, "(0, 1]")
    known = isinstance(cmap, str) and cmap in colormaps
    if not (cmap is None or known or isinstance(cmap, Colormap)):
        raise ValueError(
            "cmap must be a Colormap of matplotlib or the name of one, such as "
            f"'plasma', got {cmap!r}"
        )
    low, name = 0, _POSITIVE
    label = "share of the maximum,\nthe number below a map"
    if eps is not None:
        label = f"normalized map, eps {eps:g}"
    elif (maps < 0).any():
        low, name = -1, _SIGNED
        label = "share of the largest\nmagnitude, below a map"
    shares = np.linspace(low, 1, 511)
    chosen = cmap if isinstance(cmap, Colormap) else colormaps[cmap or name]
    colors = chosen(Normalize(low, 1)(shares))  # (511, 4), with opacities
    # Of a scale that maps share, a value of 0 says that a map is dark.
    colors[:, 3] = alpha * (np.abs(shares) if eps is None else 1)
    return _Scale(ListedColormap(colors, chosen.name), low, label)


def _draw_picture(axes: Axes, picture: Tensor) -> None:
    axes.imshow(picture.movedim(0, -1).numpy())  # (H, W, 3)


def _draw_map(
    axes: Axes, picture: Tensor, cam: Tensor, scale: _Scale, eps: float | None = None
) -> None:
    _draw_picture(axes, picture)
    peak = cam.abs().max()
    if peak.isfinite() and (peak > 0 or eps is not None):
        shown = cam / peak if eps is None else normalize(cam[None], eps)[0]  # (H, W)
        axes.imshow(shown.numpy(), cmap=scale.cmap, vmin=scale.low, vmax=1)
        axes.set_xlabel(f"{peak:.2g}", fontsize=_FONT)
    else:
        note = "zero map" if peak == 0 else "not finite"
        axes.set_xlabel(note, fontsize=_FONT, style="italic")


def _draw_boxes(axes: Axes, boxes: Tensor | None) -> None:
    if boxes is None:
        return
    # Pixels are centered at whole numbers: their left edge lies half a pixel before.
    for x0, y0, x1, y1 in (boxes.reshape(-1, 4) - 0.5).tolist():  # (k, 4)
        for width, color in ((3, "black"), (1.5, "white")):  # seen on any picture
            axes.add_patch(
                Rectangle(
                    (x0, y0), x1 - x0, y1 - y0, fill=False, lw=width, edgecolor=color
                )
            )


def _title(axes: Axes, text: str | None) -> None:
    lines = fitted(text or "", _TITLE, _FONT)
    axes.set_title(lines, fontsize=_FONT, **text_style(lines))


def _color_bar(figure: Figure, scale: _Scale) -> None:
    cells = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    bar = figure.colorbar(
        ScalarMappable(Normalize(scale.low, 1), scale.cmap),
        ax=cells,
        aspect=25,
        fraction=0.02,
        shrink=_CELL / figure.get_figheight(),
        anchor=(0, 1),
        ticks=[scale.low, (scale.low + 1) / 2, 1],
    )
    bar.ax.tick_params(labelsize=_FONT)
    bar.set_label(scale.label, fontsize=_FONT)
