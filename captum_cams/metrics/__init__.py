"""
The papers' metrics: pure functions that give one value an example, (N,).

Each says in its first line, and in its attribute ``higher_is_better``, which direction
is better.
"""

from captum_cams.metrics.complexity import complexity, sparseness
from captum_cams.metrics.confidence import average_drop, increase_in_confidence
from captum_cams.metrics.deletion_insertion import (
    deletion_auc,
    deletion_curve,
    insertion_auc,
    insertion_curve,
    overall,
)
from captum_cams.metrics.localization import (
    BoxOverlap,
    PointingAccuracy,
    bbox_score,
    box_overlap,
    pixel_energy,
    pointing_accuracy,
    pointing_game,
)
from captum_cams.metrics.road import road, road_lerf_curve, road_morf_curve
from captum_cams.metrics.sanity import randomization_check
from captum_cams.metrics.stability import (
    dark_heatmaps,
    explanation_func,
    heatmap_mean,
    normalize,
)

__all__ = [
    "BoxOverlap",
    "PointingAccuracy",
    "average_drop",
    "bbox_score",
    "box_overlap",
    "complexity",
    "dark_heatmaps",
    "deletion_auc",
    "deletion_curve",
    "explanation_func",
    "heatmap_mean",
    "increase_in_confidence",
    "insertion_auc",
    "insertion_curve",
    "normalize",
    "overall",
    "pixel_energy",
    "pointing_accuracy",
    "pointing_game",
    "randomization_check",
    "road",
    "road_lerf_curve",
    "road_morf_curve",
    "sparseness",
]
