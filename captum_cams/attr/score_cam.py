"""Score-CAM."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from captum_cams._captum import BaselineType, TargetType, log_usage
from captum_cams._numerics import precise, unsqueezed
from captum_cams._validation import (
    check_baselines,
    check_flags,
    check_inputs,
    check_number,
)
from captum_cams.attr._cam import (
    OneLayerCamAttribution,
    TensorOrTuple,
    check_no_overflow,
    single_tensor,
)
from captum_cams.attr._mask_scores import masked_score_gains, upsampled_to_inputs
from captum_cams.attr._pooling import combine
from captum_cams.attr.registry import register
from captum_cams.masks import min_max, upsample
from captum_cams.target_output import TargetOutput, batches, rows_per_batch


@register(
    "score-cam",
    colors={"baselines": "black"},
    input_sized=True,
    gradients=False,
    axioms={"implementation_invariance", "input_invariance"},
)
class ScoreCam(OneLayerCamAttribution):
    r"""
    Score-CAM.

    Uses every feature map as a mask of the input, and weighs it by how much more of
    the target the masked input shows than the baseline :math:`\tilde x`: with
    :math:`H_k` the feature map upsampled and then scaled to [0, 1],

    .. math::
        C_k = y\bigl(x \odot H_k + \tilde x \odot (1 - H_k)\bigr) - y(\tilde x),
        \qquad
        \alpha_k = \frac{\exp C_k}{\sum_l \exp C_l}, \qquad
        \mathrm{map} = \mathrm{ReLU} \sum_k \alpha_k A^k.

    The paper's baseline is 0, which is also the default. A constant feature map masks
    everything: its :math:`C_k` is 0 and takes no pass.

    Where this class leaves the paper: maps come back at the input's size, upsampled
    after the ReLU, and are not normalized.

    Source: H. Wang, Z. Wang, M. Du, F. Yang, Z. Zhang, S. Ding, P. Mardziel, X. Hu,
    "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks",
    CVPR Workshops 2020, https://arxiv.org/abs/1910.01279

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> score_cam = ScoreCam(model, model.block5)
        >>> score_cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 128, 128])
    """

    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0913
        self,
        inputs: TensorOrTuple,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        channel_fraction: float | None = None,
        relu_attributions: bool = True,
        attribute_to_layer_input: bool = False,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> TensorOrTuple:
        r"""
        Maps over the input, summed from the layer's feature maps.

        For each example a forward pass for the feature maps, one for the baseline and
        one for each feature map that is not constant. Masks are made when their turn
        comes: memory does not grow with their number.

        Arguments that are not described here are those of :meth:`GroupCam.attribute`.

        Args:
            baselines (Tensor, number or tuple, optional): What shows where a mask is
                0: tensors of the inputs' shapes, or with 1 in the first place, or
                numbers. Default: 0 (after a mean/std normalization that is not black)
            channel_fraction (float, optional): The share of the channels to use, in
                (0, 1]: for each example those whose activations vary most over the
                map. The others are treated as if the layer did not have them.
                Default: None, all of them

            relu_attributions (bool): Whether maps are rectified, before they are
                upsampled. Default: True

        Returns:
            *Tensor* of **maps** (N, 1, \*input spatial), detached, in units of the
            activations; a tuple of them for a tuple of inputs.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, gives what cannot be feature maps of the input, or its
                activations are not finite.
        """
        if channel_fraction is not None:
            channel_fraction = check_number(
                "channel_fraction", channel_fraction, "(0, 1]", none=""
            )
        check_flags(relu_attributions=relu_attributions, show_progress=show_progress)
        inputs_tuple = check_inputs(inputs)
        baselines_tuple = check_baselines(baselines, inputs_tuple)
        output = TargetOutput(
            self.forward_func, inputs_tuple, target, additional_forward_args
        )
        evaluator = self._evaluator(output, attribute_to_layer_input)
        batch_size = rows_per_batch(inputs_tuple, internal_batch_size)

        cams = []
        with tqdm(disable=not show_progress, unit="mask") as bar:
            for batch in batches(inputs_tuple, batch_size, baselines_tuple):
                found = evaluator.activations(batch.inputs, batch.examples)
                channels = single_tensor(found)
                evaluator.check_masks()
                if channel_fraction is not None:
                    channels = _most_varied(channels, channel_fraction)
                bar.total = len(inputs_tuple[0]) * (channels.shape[1] + 1)
                masks = min_max(channels)  # sets constant channels to 0
                increases = masked_score_gains(
                    output, batch, masks, batch_size, bar, _enlarge
                )
                alphas = increases.softmax(1, dtype=precise(increases))  # (n, K)
                cams.append(
                    combine(
                        unsqueezed(alphas, channels),
                        channels,
                        relu=relu_attributions,
                        summation=True,
                    )
                )
        evaluator.warn_of_layer()
        cam = check_no_overflow(torch.cat(cams))  # (N, 1, *layer spatial)
        maps = upsampled_to_inputs(cam, inputs_tuple)
        return maps if isinstance(inputs, tuple) else maps[0]


def _enlarge(masks: Tensor, size: Sequence[int]) -> Tensor:
    """H: upsampled, and only then scaled to [0, 1]."""
    return min_max(upsample(masks, size))


def _most_varied(channels: Tensor, fraction: float) -> Tensor:
    """The share of the channels that vary most over space, (n, K, ...)."""
    varied = channels.flatten(2).to(precise(channels)).var(2, correction=0)  # (n, K)
    count = max(1, round(fraction * channels.shape[1]))
    kept = varied.topk(count, dim=1).indices  # (n, count)
    rows = torch.arange(len(channels), device=kept.device).unsqueeze(1)  # (n, 1)
    return channels[rows, kept]  # (n, count, *layer spatial)
