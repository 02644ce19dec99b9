"""Class activation maps, as Captum attributions."""

from captum_cams.attr.group_cam import GroupCam
from captum_cams.attr.integrated_grad_cam import LayerIntegratedGradCam
from captum_cams.attr.rsi_grad_cam import LayerRSIGradCam

__all__ = ["GroupCam", "LayerIntegratedGradCam", "LayerRSIGradCam"]
