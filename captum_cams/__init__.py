"""Class activation maps for Captum, with the metrics of their papers."""

from captum_cams.attr import GroupCam, LayerIntegratedGradCam, LayerRSIGradCam

__version__ = "0.1.0"

__all__ = ["GroupCam", "LayerIntegratedGradCam", "LayerRSIGradCam"]
