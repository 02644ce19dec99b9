"""
The papers' protocols: which pictures, methods and metrics each of them takes.

:data:`PROTOCOLS` is the table; the rest says how its words become calls.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_cams import metrics
from captum_cams.baselines import blurred
from captum_cams.evaluation.errors import UserError, closest_names
from captum_cams.evaluation.methods import ExplainTask
from captum_cams.metrics._metric import resized

EPS = [10.0**-k for k in range(12, 0, -1)]
"""Of ``dark_heatmaps`` (RSI-Grad-CAM, Fig. 15)."""
THRESHOLDS = [0.05, 0.15, 0.25, 0.35, 0.5, 0.65, 0.8]
"""Of ``box_overlap`` (RSI-Grad-CAM, Fig. 19-21)."""
CURVE_STEPS = 28
"""Of insertion and deletion: 3.6% of the pixels in each (Group-CAM, section 4.3)."""
TOP = 0.15
"""Share of pixels shown by Integrated Grad-CAM's drop and increase (eq. 7-8)."""
POINTING_TOLERANCE = 15
"""Pixels around a box that still count (Group-CAM, section 4.4)."""
GROUPS = (1, 4, 8, 16, 64, 128)
"""Ablation of Group-CAM's groups, besides its own 32 (Table 2)."""
PERCENTILES = (0, 50, 60, 80, 90)
"""Ablation of its de-noising, theta, besides its own 70 (Fig. 5)."""


class Candidate(NamedTuple):
    """A picture and one of the classes it shows."""

    right: bool
    """Whether the network gives the class the highest probability."""
    boxes: int
    """The number of boxes around objects of all classes."""
    share: float
    """The share of the picture's pixels in the boxes of the class."""


class Protocol(NamedTuple):
    """Which pictures a paper takes, and its methods and metrics."""

    wants: Callable[[Candidate], bool]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]


PROTOCOLS: dict[str, Protocol] = {
    "rsi": Protocol(
        # Section 4.3.1; a box may lie outside of what is left of the picture.
        lambda one: one.right and one.boxes == 1 and 0 < one.share < 0.5,
        ("grad-cam", "grad-cam-plus-plus", "integrated-grad-cam", "rsi-grad-cam"),
        (
            "heatmap_mean",
            "heatmap_mean(normalize)",
            "dark_heatmaps",
            "average_drop",
            "increase_in_confidence",
            "pixel_energy",
            "box_overlap",
        ),
    ),
    "igc": Protocol(
        lambda one: one.share > 0,
        ("grad-cam", "grad-cam-plus-plus", "score-cam", "integrated-grad-cam"),
        (
            "pixel_energy",
            "bbox_score",
            f"average_drop(top_fraction={TOP})",
            f"increase_in_confidence(top_fraction={TOP})",
        ),
    ),
    "group-cam": Protocol(
        lambda one: True,
        ("grad-cam", "grad-cam-plus-plus", "xrai", "rise", "score-cam", "group-cam"),
        (
            "insertion_auc",
            "deletion_auc",
            "overall",
            "insertion_curve",
            "deletion_curve",
            "pointing_game",
            "randomization_check",
        ),
    ),
}
FOR_SHAPES = {"rise": "rise(n_masks=500)"}
"""What is done instead, so that the example takes minutes."""
OF_ABLATIONS = ("insertion_auc", "deletion_auc", "overall")
RANDOMIZATION = "randomization_check"
SANITY_OF = ("grad-cam", "group-cam")
"""Methods that are explained once more for each layer; others where asked."""
ALL_METRICS = tuple(dict.fromkeys(m for p in PROTOCOLS.values() for m in p.metrics))


def ablations(channels: int) -> list[str]:
    """Group-CAM with other numbers of groups, up to the channels, and percentiles."""
    groups = [f"group-cam(groups={n})" for n in GROUPS if 32 <= channels > n]
    return groups + [f"group-cam(denoise_percentile={n})" for n in PERCENTILES]


def check_metrics(names: Iterable[str]) -> None:
    """Checks that all names are in :data:`ALL_METRICS`."""
    for name in names:
        if name not in ALL_METRICS:
            raise UserError(
                f"there is no metric {name!r}; {closest_names(name, ALL_METRICS)}"
            )


Values = dict[str, Tensor]


def measure(
    names: Collection[str], task: ExplainTask, maps: Tensor, boxes: Sequence[Tensor]
) -> Values:
    """
    Metrics of N maps.

    Args:
        names (collection of str): Of :data:`ALL_METRICS` without
            ``randomization_check``, which maps alone do not tell.
        task (ExplainTask): What the maps explain.
        maps (Tensor): (N, 1, h, w).
        boxes (sequence of Tensor): N of shape (n, 4).

    Returns:
        *dict* of values (N,), or (N, k) for curves and the like, by the names that
        records have. NaN where there is no box to compare with.
    """
    size = tuple(task.inputs.shape[2:])
    full = resized(maps, size)  # (N, 1, H, W)
    values: Values = {}
    for name in names:
        if name in _OF_MAPS:
            values[name] = _OF_MAPS[name](full)
        elif name in _OF_BOXES:
            values |= _of_boxes(name, full, boxes, size)
        elif name in _OF_MODEL:
            function, options = _OF_MODEL[name]
            values[name] = function(
                task.forward,
                task.inputs,
                full,
                baselines=task.colors["black"],
                target=task.targets,
                **options,
            )
    return values | _of_curves(names, task, full)


_OF_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "heatmap_mean": metrics.heatmap_mean,
    "heatmap_mean(normalize)": lambda maps: metrics.heatmap_mean(
        metrics.normalize(maps)
    ),
    "dark_heatmaps": lambda maps: torch.stack(
        [metrics.dark_heatmaps(maps, eps) for eps in EPS], 1
    ),  # (N, len(EPS))
}
_OF_MODEL: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "average_drop": (metrics.average_drop, {}),
    "increase_in_confidence": (metrics.increase_in_confidence, {}),
    f"average_drop(top_fraction={TOP})": (
        metrics.average_drop,
        {"top_fraction": TOP},
    ),
    f"increase_in_confidence(top_fraction={TOP})": (
        metrics.increase_in_confidence,
        {"top_fraction": TOP},
    ),
}
_OF_BOXES: dict[str, Callable[..., Any]] = {
    "pixel_energy": metrics.pixel_energy,
    "bbox_score": metrics.bbox_score,
    "box_overlap": lambda maps, boxes, size: metrics.box_overlap(
        maps, boxes, THRESHOLDS, size=size
    ),
    "pointing_game": lambda maps, boxes, size: metrics.pointing_game(
        maps, boxes, tolerance=POINTING_TOLERANCE, size=size
    ),
}


def _of_boxes(
    name: str, maps: Tensor, boxes: Sequence[Tensor], size: tuple[int, ...]
) -> Values:
    found = _OF_BOXES[name](maps, list(boxes), size=size)
    given = torch.tensor([len(one) > 0 for one in boxes], device=maps.device)  # (N,)
    if isinstance(found, Tensor):
        return {name: torch.where(given, found, torch.nan)}
    return {
        f"{name}.{part}": torch.where(given[:, None], value, torch.nan)  # (N, T)
        for part, value in found._asdict().items()
    }


def _of_curves(names: Collection[str], task: ExplainTask, maps: Tensor) -> Values:
    """Curves and their areas (Group-CAM 4.3); each curve is computed once."""
    curves: Values = {}
    functions = {
        "insertion": metrics.insertion_curve,
        "deletion": metrics.deletion_curve,
    }
    baseline = None
    for kind, function in functions.items():
        if {f"{kind}_curve", f"{kind}_auc", "overall"}.isdisjoint(names):
            continue
        if baseline is None:
            baseline = blurred(task.inputs)
        curves[kind] = function(
            task.forward,
            task.inputs,
            maps,
            baselines=baseline,
            target=task.targets,
            n_steps=CURVE_STEPS,
        )  # (N, CURVE_STEPS + 1)
    areas = {
        kind: torch.trapezoid(curve, dx=1 / CURVE_STEPS, dim=1)
        for kind, curve in curves.items()
    }  # (N,) each
    values = {f"{kind}_curve": curve for kind, curve in curves.items()}
    values |= {f"{kind}_auc": area for kind, area in areas.items()}
    if "overall" in names:
        values["overall"] = areas["insertion"] - areas["deletion"]
    return {name: value for name, value in values.items() if name in names}


def box_share(boxes: Tensor, size: int) -> float:
    """The pixels whose centers lie in the boxes, (n, 4), as a share of all."""
    ones = torch.ones(1, size, size)
    if not len(boxes):
        return 0.0
    return float(metrics.pixel_energy(ones, [boxes], size=(size, size)))
