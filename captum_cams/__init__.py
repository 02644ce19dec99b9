"""Class activation maps for Captum, with the metrics of their papers."""

from captum_cams import metrics
from captum_cams.attr import (
    GroupCam,
    LayerAblationCam,
    LayerCam,
    LayerGradCamPlusPlus,
    LayerHiResCam,
    LayerIntegratedGradCam,
    LayerPositiveGradCam,
    LayerRSIGradCam,
    LayerSmoothGradCamPlusPlus,
    LayerXGradCam,
    Rise,
    ScoreCam,
    Xrai,
)

__version__ = "0.1.0"

__all__ = [
    "GroupCam",
    "LayerAblationCam",
    "LayerCam",
    "LayerGradCamPlusPlus",
    "LayerHiResCam",
    "LayerIntegratedGradCam",
    "LayerPositiveGradCam",
    "LayerRSIGradCam",
    "LayerSmoothGradCamPlusPlus",
    "LayerXGradCam",
    "Rise",
    "ScoreCam",
    "Xrai",
    "metrics",
]
