"""What the papers compare: metrics, how these are named and written, ablations."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from captum_cams import metrics
from captum_cams.evaluation.records import Run

AREAS = "insertion_auc", "deletion_auc", "overall"


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


def metric_parameters(run: Run, metric: str) -> Sequence[float | str | None]:
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


def extra_metrics(run: Run, protocol: str) -> list[str]:
    """Metrics that were asked for besides those of the protocol's paper."""
    asked: Any = run["settings"].get("metrics") or ()
    every = itertools.chain(*(paper.metrics for paper in PAPERS.values()))
    return [
        metric
        for metric in dict.fromkeys(every)
        if metric not in PAPERS[protocol].metrics
        and (metric in asked or metric.split(".")[0] in asked)
    ]


def ablation_methods(run: Run, argument: str) -> dict[float, str]:
    """Group-CAM's names by the value of an argument, ascending; two at least."""
    found: dict[float, str] = {}
    default = {"groups": 32, "denoise_percentile": 70}[argument]
    for method in run["methods"].get("group-cam", ()):
        if match := re.fullmatch(rf"group-cam\({argument}=([\d.]+)\)", method):
            found[float(match[1])] = method
        elif method == "group-cam":
            found.setdefault(default, method)
    return dict(sorted(found.items())) if len(found) > 1 else {}


def compared_methods(run: Run, protocol: str) -> list[str]:
    """Methods that are compared with each other: all but ablations."""
    compared = run["methods"][protocol]
    if protocol == "group-cam":
        points = [
            ablation_methods(run, name) for name in ("groups", "denoise_percentile")
        ]
        ablated = {name for of in points for name in of.values()} - {"group-cam"}
        compared = [name for name in compared if name not in ablated]
    return compared
