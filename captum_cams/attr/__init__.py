"""Class activation maps and what they are compared with, as Captum attributions."""

from captum_cams.attr.ablation_cam import LayerAblationCam
from captum_cams.attr.augmentation_tunnel import AugmentationTunnel
from captum_cams.attr.eigen_cam import LayerEigenCam, LayerEigenGradCam
from captum_cams.attr.finer_cam import LayerFinerCam
from captum_cams.attr.gradient_cams import (
    LayerCam,
    LayerGradCamPlusPlus,
    LayerHiResCam,
    LayerPositiveGradCam,
    LayerXGradCam,
)
from captum_cams.attr.group_cam import GroupCam
from captum_cams.attr.integrated_grad_cam import LayerIntegratedGradCam
from captum_cams.attr.path_integrals import LayerPathIntegrals
from captum_cams.attr.rise import Rise
from captum_cams.attr.rsi_grad_cam import LayerRSIGradCam
from captum_cams.attr.score_cam import ScoreCam
from captum_cams.attr.smooth_grad import SmoothGrad
from captum_cams.attr.smooth_grad_cam import LayerSmoothGradCamPlusPlus
from captum_cams.attr.xrai import Xrai

__all__ = [
    "AugmentationTunnel",
    "GroupCam",
    "LayerAblationCam",
    "LayerCam",
    "LayerEigenCam",
    "LayerEigenGradCam",
    "LayerFinerCam",
    "LayerGradCamPlusPlus",
    "LayerHiResCam",
    "LayerIntegratedGradCam",
    "LayerPathIntegrals",
    "LayerPositiveGradCam",
    "LayerRSIGradCam",
    "LayerSmoothGradCamPlusPlus",
    "LayerXGradCam",
    "Rise",
    "ScoreCam",
    "SmoothGrad",
    "Xrai",
]
