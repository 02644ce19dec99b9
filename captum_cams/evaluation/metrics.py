"""
The metrics of an evaluation: how each is measured, named and written.

:data:`METRICS` is the one table. What a metric of your own needs is an entry:
``METRICS["my_metric"] = Metric("my metric", measure=...)``.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from captum_cams import metrics
from captum_cams.baselines import blurred
from captum_cams.evaluation.errors import UserError, closest_names
from captum_cams.evaluation.methods import ExplainTask, blur_of
from captum_cams.evaluation.records import Explained, Run, Value
from captum_cams.metrics._faithfulness import Examples, check_examples
from captum_cams.metrics._metric import resized
from captum_cams.metrics.confidence import Confidences, confidences
from captum_cams.metrics.deletion_insertion import curves

NORMALIZE_EPS = 1e-8
"""Of eq. 26, in all of RSI-Grad-CAM's experiments (section 4.3.2)."""
EPS = [10.0**-k for k in range(12, 0, -1)]
"""Of dark heat maps (RSI-Grad-CAM, Fig. 15). Our choice: the paper gives no values."""
THRESHOLDS = [0.05, 0.15, 0.25, 0.35, 0.5, 0.65, 0.8]
"""Of box overlaps (RSI-Grad-CAM, Fig. 20-21). Our choice: the paper gives no values."""
CURVE_STEPS = 100
"""Of insertion and deletion: 1% of the pixels each (Group-CAM, section 4.3)."""
TOP = 0.15
"""Share of pixels shown by Integrated Grad-CAM's drop and increase (eq. 7-8)."""
RANDOMIZATION = "randomization_check"
MODES = ("cascading", "independent")
"""Of the sanity check (Group-CAM, section 4.5)."""


@dataclass(frozen=True)
class Measured:
    """
    N maps that are measured.

    Args:
        task (ExplainTask): What they explain.
        maps (Tensor): At the pictures' size, (N, 1, H, W).
        boxes (sequence of Tensor): N of shape (n, 4); n may be 0.
    """

    task: ExplainTask
    maps: Tensor
    boxes: Sequence[Tensor]

    @classmethod
    def of(cls, task: ExplainTask, maps: Tensor, boxes: Sequence[Tensor]) -> "Measured":
        """Maps of any size, (N, 1, h, w), resized to the pictures'."""
        return cls(task, resized(maps, task.inputs.shape[2:]), boxes)

    @cached_property
    def normalized(self) -> Tensor:
        """The maps of eq. 26 of RSI-Grad-CAM, (N, 1, H, W)."""
        return metrics.normalize(self.maps, NORMALIZE_EPS)

    def confidences(
        self, top_fraction: float | None = None, eps: float | None = None
    ) -> Confidences:
        """Of pictures and explanation maps on black, once for drop and increase."""
        key = top_fraction, eps
        if key not in self._confidences:
            examples = self._examples(self.task.colors["black"])
            self._confidences[key] = confidences(examples, *key)
        return self._confidences[key]

    def _examples(self, baselines: Tensor) -> Examples:
        task = self.task
        return check_examples(
            task.forward,
            task.inputs,
            self.maps,
            baselines,
            None,
            task.targets,
            max_examples_per_batch=None,
            default_baseline=blurred,
        )

    @cached_property
    def _confidences(self) -> dict[tuple[float | None, float | None], Confidences]:
        return {}

    def by_boxes(
        self, function: Callable[..., Any], maps: Tensor | None = None, **options: Any
    ) -> Any:
        """A metric of the maps and the boxes around the explained class, (N, ...)."""
        maps = self.maps if maps is None else maps
        size = tuple(self.maps.shape[2:])
        return function(maps, list(self.boxes), size=size, **options)

    @cached_property
    def overlap(self) -> metrics.BoxOverlap:
        """IoU, IoB and IoR above each threshold, (N, T) each."""
        found: metrics.BoxOverlap = self.by_boxes(
            metrics.box_overlap, thresholds=THRESHOLDS, eps=NORMALIZE_EPS
        )
        return found

    @cached_property
    def curves(self) -> tuple[Tensor, Tensor]:
        """Of deletion and insertion, see the two below."""
        inputs = self.task.inputs
        hidden = blurred(inputs, *blur_of(min(inputs.shape[2:])))
        examples = self._examples(hidden)
        deletion, insertion = curves(examples, CURVE_STEPS, [False, True])
        return deletion, insertion

    @property
    def deletion(self) -> Tensor:
        """Outputs while pixels are blurred, (N, CURVE_STEPS + 1)."""
        return self.curves[0]

    @property
    def insertion(self) -> Tensor:
        """Outputs while pixels come back, (N, CURVE_STEPS + 1)."""
        return self.curves[1]


def _area(curve: Tensor) -> Tensor:
    """Under a curve over the share of the pixels, (N,)."""
    return torch.trapezoid(curve, dx=1 / CURVE_STEPS, dim=1)


def _alone(run: Run) -> Sequence[Any]:
    return [None]


@dataclass(frozen=True)
class Metric:
    """
    One metric of a map.

    Args:
        label (str): Its name in tables and figures.
        measure (Callable, optional): Of a :class:`Measured`: a number for each map,
            (N,), or several, (N, T). Default: None, for what maps alone do not tell
        higher_is_better (bool, optional): Default: None, where nothing is ranked
        at (Callable): Of a run what each of the T numbers belongs to. Default: one
            number, which belongs to nothing
        at_label (str): What they belong to, such as "eps". Default: ""
        form (str): How numbers are written. Default: ``.2f``
        scale (float): What they are multiplied by before. Default: 100
        unit (str): Default: ``%``
        needs_boxes (bool): Whether maps without boxes have no value. Default: False
        of_record (Callable, optional): The value of a record that does not hold it.
            Default: None, records hold it
        yes_or_no (bool): Whether each number is 0 or 1, so that means are shares.
            Default: False
        if_absent (str): What a table says of a method that has no maps to take the
            mean of. Default: ``not run``
        meaning (str): A sentence for those who do not know it. Default: ""
    """

    label: str
    measure: Callable[[Measured], Tensor] | None = None
    higher_is_better: bool | None = None
    at: Callable[[Run], Sequence[Any]] = _alone
    at_label: str = ""
    form: str = ".2f"
    scale: float = 100
    unit: str = "%"
    needs_boxes: bool = False
    of_record: Callable[[Explained], Value] | None = None
    yes_or_no: bool = False
    if_absent: str = "not run"
    meaning: str = ""

    @property
    def arrow(self) -> str:
        """The direction as papers show it."""
        return {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]

    @property
    def text(self) -> str:
        """Label, unit and direction."""
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.label}{unit}{self.arrow}"

    def shown(self, value: float) -> str:
        """A number of this metric with its unit."""
        space = "" if self.unit in ("", "%") else " "
        return f"{self.write(value)}{space}{self.unit}"

    def write(self, value: float) -> str:
        """A number of this metric as text."""
        shown = format(value * self.scale, self.form)
        return format(0.0, self.form) if float(shown) == 0 else shown  # no -0.0


def _probability_where_dark(record: Explained) -> Value:
    dark = record["values"].get("dark_heatmaps")
    if not isinstance(dark, list):
        return ABSENT
    return [record["probability"] if each else ABSENT for each in dark]


def _magnitudes(key: str) -> Callable[[Explained], Value]:
    """The same of a record's values without their signs."""

    def of_record(record: Explained) -> Value:
        values = record["values"].get(key)
        if not isinstance(values, list):
            return ABSENT
        return [None if value is None else abs(value) for value in values]

    return of_record


ABSENT = float("inf")
"""The value of a metric that a record does not have; NaN is one without a meaning."""


def _eps(run: Run) -> Sequence[float]:
    return run["eps"]


def _thresholds(run: Run) -> Sequence[float]:
    return run["thresholds"]


def _shares(run: Run) -> Sequence[float]:
    steps = run["curve_steps"]
    return [step / steps for step in range(steps + 1)]


def _randomized(run: Run) -> Sequence[str]:
    return run["randomized"]


_ratio: dict[str, Any] = {"form": ".3f", "scale": 1, "unit": ""}
_area_of: dict[str, Any] = {"form": ".1f"}
_above: dict[str, Any] = {
    "at": _thresholds, "at_label": "threshold", "needs_boxes": True
}  # fmt: skip

_DROP = (
    "how much of the class' probability is lost when only what the map {shows} is left "
    "on black, 0 where it rises"
)
_INCREASE = (
    "share of the pictures in which the class' probability rises when only what the "
    "map {shows} is left on black"
)
_HIGHLIGHTS, _LARGEST = "highlights", f"holds for the {100 * TOP:g}% most important"

METRICS: dict[str, Metric] = {
    # RSI-Grad-CAM, section 4.3
    "heatmap_mean": Metric(
        "heat-map mean before normalizing",
        lambda m: metrics.heatmap_mean(m.maps),
        form=".3g", scale=1, unit="",
        meaning="mean over a map's pixels, as the method gives them",
    ),
    "heatmap_mean(normalize)": Metric(
        "heat-map mean after normalizing",
        lambda m: metrics.heatmap_mean(m.normalized),
        **_ratio,
        meaning="mean over the pixels of the map that eq. 26 of RSI-Grad-CAM scales to "
        "[0, 1]",
    ),
    "dark_heatmaps": Metric(
        "dark heat maps",
        lambda m: torch.stack([metrics.dark_heatmaps(m.maps, eps) for eps in EPS], 1),
        False, _eps, "eps", yes_or_no=True,
        meaning="share of the maps that stay dark in eq. 26 of RSI-Grad-CAM, as their "
        "range is below its eps",
    ),
    "dark_heatmaps.probability": Metric(
        "mean probability where dark", None, None, _eps, "eps",
        of_record=_probability_where_dark, if_absent="none dark", **_ratio,
        meaning="mean probability of the explained class in the pictures with a dark "
        "map",
    ),
    "average_drop(eps=1e-08)": Metric(
        "average drop",
        lambda m: m.confidences(eps=NORMALIZE_EPS).drop, False,
        meaning=_DROP.format(shows=_HIGHLIGHTS),
    ),
    "increase_in_confidence(eps=1e-08)": Metric(
        "increase in confidence",
        lambda m: m.confidences(eps=NORMALIZE_EPS).increase, True, yes_or_no=True,
        meaning=_INCREASE.format(shows=_HIGHLIGHTS),
    ),
    "pixel_energy(normalize)": Metric(
        "energy in the box",
        lambda m: m.by_boxes(metrics.pixel_energy, m.normalized), True,
        needs_boxes=True,
        meaning="share of the normalized map's sum that lies in the object's box",
    ),
    "box_overlap.iou": Metric(
        "IoU", lambda m: m.overlap.iou, True, **_above,
        meaning="intersection over union of the box and the pixels above a threshold",
    ),
    "box_overlap.iob": Metric(
        "IoB", lambda m: m.overlap.iob, True, **_above,
        meaning="intersection of the box and the pixels above a threshold, over the "
        "box",
    ),
    "box_overlap.ior": Metric(
        "IoR", lambda m: m.overlap.ior, True, **_above,
        meaning="intersection of the box and the pixels above a threshold, over these "
        "pixels; undefined where there are none",
    ),
    # Our choice: as above, but maps scaled to all of [0, 1]
    "average_drop": Metric(
        "average drop of scaled maps", lambda m: m.confidences().drop, False,
        meaning=_DROP.format(shows=f"{_HIGHLIGHTS}, scaled to [0, 1],"),
    ),
    "increase_in_confidence": Metric(
        "increase in confidence of scaled maps",
        lambda m: m.confidences().increase, True, yes_or_no=True,
        meaning=_INCREASE.format(shows=f"{_HIGHLIGHTS}, scaled to [0, 1],"),
    ),
    # Integrated Grad-CAM, section 4.2
    "pixel_energy": Metric(
        "EBPG", lambda m: m.by_boxes(metrics.pixel_energy), True, needs_boxes=True,
        meaning="energy-based pointing game: share of the map's sum that lies in the "
        "object's box",
    ),
    "bbox_score": Metric(
        "Bbox", lambda m: m.by_boxes(metrics.bbox_score), True, needs_boxes=True,
        meaning="of as many of the map's largest pixels as the box holds, the share "
        "inside it",
    ),
    "average_drop(top_fraction=0.15)": Metric(
        "Drop", lambda m: m.confidences(top_fraction=TOP).drop, False,
        meaning=_DROP.format(shows=_LARGEST),
    ),
    "increase_in_confidence(top_fraction=0.15)": Metric(
        "Increase",
        lambda m: m.confidences(top_fraction=TOP).increase, True, yes_or_no=True,
        meaning=_INCREASE.format(shows=_LARGEST),
    ),
    # Group-CAM, sections 4.3 to 4.5
    "insertion_auc": Metric(
        "insertion", lambda m: _area(m.insertion), True, **_area_of,
        meaning="mean probability of the class while a blurred picture gets its pixels "
        "back, the map's largest first (area under the curve)",
    ),
    "deletion_auc": Metric(
        "deletion", lambda m: _area(m.deletion), False, **_area_of,
        meaning="mean probability of the class while the picture's pixels are blurred, "
        "the map's largest first (area under the curve)",
    ),
    "overall": Metric(
        "over-all", lambda m: _area(m.insertion) - _area(m.deletion), True, **_area_of,
        meaning="insertion less deletion",
    ),
    "insertion_curve": Metric(
        "mean probability", lambda m: m.insertion, True, _shares, "pixels shown",
        **_ratio,
    ),
    "deletion_curve": Metric(
        "mean probability", lambda m: m.deletion, False, _shares, "pixels blurred",
        **_ratio,
    ),
    "pointing_game": Metric(
        "pointing game", lambda m: m.by_boxes(metrics.pointing_game), True,
        needs_boxes=True, yes_or_no=True, **_area_of,
        meaning="share of the maps whose largest pixel lies in the object's box",
    ),
    # J. Zhang et al., "Top-down Neural Attention by Excitation Backprop", 2016
    "pointing_game(tolerance=15)": Metric(
        "pointing game of Zhang et al., 15 of 224 pixels",
        lambda m: m.by_boxes(
            metrics.pointing_game, tolerance=15 * m.maps.shape[-1] / 224
        ), True,
        needs_boxes=True, yes_or_no=True, **_area_of,
        meaning="share of the maps whose largest pixel lies in the object's box, or "
        "near it",
    ),
    # Of no protocol: what other papers measure. Rong et al., "A Consistent and
    # Efficient Evaluation Strategy for Attribution Methods", 2022
    "road": Metric(
        "ROAD",
        lambda m: metrics.road(
            m.task.forward, m.task.inputs, m.maps, target=m.task.targets
        ), True,
        **_area_of,
        meaning="half of what filling in the least relevant pixels first keeps over "
        "the most relevant first",
    ),
    # Bhatt et al., "Evaluating and Aggregating Feature-based Model Explanations", 2020
    "complexity": Metric(
        "complexity", lambda m: metrics.complexity(m.maps), False,
        form=".2f", scale=1, unit="nats",
        meaning="entropy of the pixels' shares in a map",
    ),
    # Chalasani et al., "Concise Explanations of Neural Networks", 2020
    "sparseness": Metric(
        "sparseness", lambda m: metrics.sparseness(m.maps), True, **_ratio,
        meaning="Gini index of a map's magnitudes",
    ),
    **{
        key: metric
        for mode in MODES
        for key, metric in {
            f"{RANDOMIZATION}.{mode}.spearman": Metric(
                f"Spearman with its sign, {mode}", None, None, _randomized, "layer",
                **_ratio,
                meaning="rank correlation of the maps before and after layers lose "
                "their weights; -1 is the same map turned over",
            ),
            f"{RANDOMIZATION}.{mode}.spearman_magnitude": Metric(
                f"|Spearman|, {mode}", None, None, _randomized, "layer",
                of_record=_magnitudes(f"{RANDOMIZATION}.{mode}.spearman"), **_ratio,
                meaning="likeness of the maps before and after layers lose their "
                "weights: magnitude of the rank correlation, 1 for the same map, also "
                "if it is turned over; small maps have some by chance",
            ),
            f"{RANDOMIZATION}.{mode}.ssim": Metric(
                f"SSIM, {mode}", None, None, _randomized, "layer", **_ratio,
                meaning="structural similarity of the same maps scaled to [0, 1], 1 "
                "for equal ones; below 0 bright and dark have changed places",
            ),
        }.items()
    },
}  # fmt: skip

Values: TypeAlias = dict[str, Tensor]


def measure(keys: Collection[str], measured: Measured) -> Values:
    """
    The metrics of N maps that maps and model tell, (N,) or (N, T) by their keys.

    NaN where a metric needs a box and there is none.
    """
    values: Values = {}
    given = torch.tensor([len(boxes) > 0 for boxes in measured.boxes])  # (N,)
    for key in keys:
        metric = METRICS[key]
        if metric.measure is None:
            continue
        found = metric.measure(measured)
        if metric.needs_boxes:
            known = given.to(found.device).view(-1, *[1] * (found.dim() - 1))
            found = torch.where(known, found, torch.nan)
        values[key] = found
    return values


def value_of(record: Explained, key: str) -> Value:
    """A metric of a record, :data:`ABSENT` where it does not have it."""
    of_record = METRICS[key].of_record
    return record["values"].get(key, ABSENT) if of_record is None else of_record(record)


def find_metrics(names: Sequence[str]) -> list[str]:
    """
    Keys of :data:`METRICS`, given some of them or what several begin with.

    Raises:
        UserError: If there is no metric of a name.
    """
    families = [
        key.partition(".")[0] for key in METRICS if METRICS[key].at is not _alone
    ]
    found: list[str] = []
    for name in names:
        keys = [key for key in METRICS if key == name or key.startswith(f"{name}.")]
        if not keys:
            known = dict.fromkeys([*METRICS, *families])
            raise UserError(
                f"there is no metric {name!r}; {closest_names(name, known)}"
            )
        found += keys
    return list(dict.fromkeys(found))
