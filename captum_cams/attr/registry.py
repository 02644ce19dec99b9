"""All methods by name, for the command line and the evaluation."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from captum.attr import Attribution, LayerGradCam

from captum_cams.attr.ablation_cam import LayerAblationCam
from captum_cams.attr.gradient_cams import (
    LayerCam,
    LayerGradCamPlusPlus,
    LayerHiResCam,
    LayerPositiveGradCam,
    LayerXGradCam,
)
from captum_cams.attr.group_cam import GroupCam
from captum_cams.attr.integrated_grad_cam import LayerIntegratedGradCam
from captum_cams.attr.rise import Rise
from captum_cams.attr.rsi_grad_cam import LayerRSIGradCam
from captum_cams.attr.score_cam import ScoreCam
from captum_cams.attr.smooth_grad_cam import LayerSmoothGradCamPlusPlus
from captum_cams.attr.xrai import Xrai


class Method(NamedTuple):
    """
    A class, and the keyword arguments of its `attribute` that make the paper's map.

    `colours` names the arguments that want a ``"black"`` or a ``"white"`` picture as
    the model takes it. Where `log` is true, the paper explains a score S with
    probability exp S: of a model that gives probabilities, their logarithm.

    Classes that derive from Captum's `LayerAttribution` are built from a model and a
    layer, the others from a model alone.
    """

    attribution: type[Attribution]
    defaults: Mapping[str, Any] = {}
    colours: Mapping[str, str] = {}
    log: bool = False


METHODS: dict[str, Method] = {
    "grad-cam": Method(LayerGradCam, {"relu_attributions": True}),
    "positive-grad-cam": Method(LayerPositiveGradCam),
    "grad-cam-plus-plus": Method(LayerGradCamPlusPlus, log=True),
    "smooth-grad-cam-plus-plus": Method(LayerSmoothGradCamPlusPlus, log=True),
    "x-grad-cam": Method(LayerXGradCam),
    "layer-cam": Method(LayerCam),
    "hi-res-cam": Method(LayerHiResCam),
    "ablation-cam": Method(LayerAblationCam),
    "rsi-grad-cam": Method(LayerRSIGradCam, colours={"baselines": "black"}),
    "integrated-grad-cam": Method(
        LayerIntegratedGradCam, colours={"baselines": "black"}
    ),
    "group-cam": Method(GroupCam),
    "score-cam": Method(ScoreCam, colours={"baselines": "black"}),
    "rise": Method(Rise, colours={"baselines": "black"}),
    "xrai": Method(Xrai, colours={"black": "black", "white": "white"}),
}
