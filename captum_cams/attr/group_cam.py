"""Group-CAM."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from captum_cams._captum import BaselineType, TargetType, log_usage
from captum_cams._numerics import unsqueezed
from captum_cams._validation import (
    check_baselines,
    check_callable,
    check_count,
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
from captum_cams.attr._pooling import spatial_mean
from captum_cams.attr.registry import register
from captum_cams.baselines import blurred
from captum_cams.blur import check_kernel
from captum_cams.layer_eval import LayerEvaluator
from captum_cams.masks import denoise, group, min_max
from captum_cams.target_output import Batch, TargetOutput, batches, rows_per_batch


@register(
    "group-cam",
    limited_by_channels="groups",
    input_sized=True,
    test_arguments={"baselines": 0, "groups": 2},
    axioms={
        "implementation_invariance",
        "input_invariance",
        "channel_scaling",
        "channel_mixing",
    },
    homogeneity=1,
)
class GroupCam(OneLayerCamAttribution):
    r"""
    Group-CAM.

    Splits the layer's feature maps into G groups, makes a mask of each, and weighs
    the masks by how much confidence the masked input gains over a blurred one:

    .. math::
        w_k = \frac{1}{Z} \sum_{ij} \frac{\partial y}{\partial A_{kij}}, \qquad
        M_r = \mathrm{ReLU} \sum_{k \in \mathrm{group}\ r} w_k A^k
        \quad \text{(eq. 1-2)},

    de-noised (eq. 3: 0 where not above the mask's own 70th percentile), scaled to
    [0, 1] (eq. 4) and upsampled to :math:`M'_r`; then, with the blurred input
    :math:`\tilde x` and the confidence :math:`S`,

    .. math::
        x'_r = x \odot M'_r + \tilde x \odot (1 - M'_r), \qquad
        \alpha_r = S(x'_r) - S(\tilde x), \qquad
        \mathrm{map} = \mathrm{ReLU} \sum_r \alpha_r M'_r

    (eq. 5-7, Algorithm 1). A constant :math:`M_r` has mask and weight 0.

    Differences from the authors' code: gradient
    and confidence are both of `forward_func`'s target output, as in the paper; with
    logits and ``confidence_func=lambda y: y.softmax(1)`` they differ as in the code.
    Returned maps are not normalized. The number of channels need not be a multiple of
    `groups`: sizes of groups then differ by one.

    Axioms, each of them tested: A map scales with the output, does not depend on how
    the output is computed from the layer, nor on the scale of feature maps; a channel
    that the output does not depend on changes no mask, unless
    ``use_gradients=False``. With one group, and without eq. 3, it is Grad-CAM scaled
    to [0, 1], times what that gains as a mask. It is neither complete nor linear in
    the output, gives nothing where the output is flat at the input, and depends on the
    order of the channels, as neighbors are grouped.

    Source: Q. Zhang, L. Rao, Y. Yang, "Group-CAM: Group Score-Weighted Visual
    Explanations for Deep Convolutional Networks", 2021,
    https://arxiv.org/abs/2103.13859

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it.
        layer (torch.nn.Module): The layer that gives the masks, (N, K, \*spatial)
            that can be enlarged to the input. Of one that a pass uses more than once
            the last use counts, which brings a warning.
        device_ids (list of int, optional): Needed only where `forward_func` applies a
            `DataParallel` model without being one itself.
        reshape_transform (Callable, optional): Turns what the layer gives, such as a
            transformer's tokens or a tuple that holds them, into feature maps
            (N, K, \*spatial) by selecting and rearranging, as those of
            :mod:`captum_cams.reshape` do. Maps that do not fit the input bring a
            warning. Default: None

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> group_cam = GroupCam(model, model.block5)
        >>> group_cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 128, 128])
    """

    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0913
        self,
        inputs: TensorOrTuple,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        groups: int = 32,
        *,
        denoise_percentile: float | None = 70.0,
        blur_kernel_size: int = 51,
        blur_sigma: float = 50.0,
        confidence_func: Callable[[Tensor], Tensor] | None = None,
        use_gradients: bool = True,
        relu_attributions: bool = True,
        attribute_to_layer_input: bool = False,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> TensorOrTuple:
        r"""
        Maps over the input, summed from the masks of groups of feature maps.

        One forward pass and the backward pass from the output to the layer give the
        masks of an example, `groups` + 1 forward passes their weights.

        Args:
            inputs (Tensor or tuple of Tensor): Examples to explain,
                (N, C, \*spatial), of a floating dtype. Every tensor of a tuple is
                masked at its own size; one without spatial axes belongs into
                `additional_forward_args`.
            baselines (Tensor, number or tuple, optional): What shows where a mask is
                0. Default: None, the blurred input
            target (int, tuple, Tensor or list, optional): Index of the output to
                explain, one for all examples or one for each. Default: None, for one
                output an example
            additional_forward_args (Any, optional): Passed to `forward_func` behind
                the inputs. Tensors with N rows follow their examples.
            groups (int): G, from 1 to the layer's number of channels. Default: 32
            denoise_percentile (float, optional): theta of eq. 3 in [0, 100]; None
                leaves eq. 3 out. Default: 70
            blur_kernel_size (int): Taps of the Gaussian blur, odd. Default: 51
            blur_sigma (float): Its standard deviation in pixels. Default: 50
            confidence_func (Callable, optional): Applied to `forward_func`'s output
                before the target is selected, for the confidences alone.
            use_gradients (bool): False is the variant of section 5: masks are of the
                plain sums of feature maps, without gradients and without de-noising,
                and there is no backward pass. Default: True
            relu_attributions (bool): Whether the map is rectified (eq. 7).
                Default: True
            attribute_to_layer_input (bool): Whether the layer's input gives the masks
                instead of its output. Default: False
            internal_batch_size (int, optional): Most inputs that go through the
                network together, at least 1. Default: None, chosen by device and
                input size
            show_progress (bool): Whether a bar counts the masked inputs.
                Default: False

        Returns:
            *Tensor* of **maps** (N, 1, \*input spatial), detached, in units of the
            confidence; a tuple of them for a tuple of inputs.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, gives what cannot be feature maps of the input, or its
                activations are not finite.
        """
        groups = check_count("groups", groups)
        if denoise_percentile is not None:
            denoise_percentile = check_number(
                "denoise_percentile",
                denoise_percentile,
                "[0, 100]",
                none="for no de-noising",
            )
        blur = check_kernel(blur_kernel_size, blur_sigma)
        check_callable("confidence_func", confidence_func, optional=True)
        check_flags(
            use_gradients=use_gradients,
            relu_attributions=relu_attributions,
            show_progress=show_progress,
        )
        inputs_tuple = check_inputs(inputs)
        baselines_tuple = (
            () if baselines is None else check_baselines(baselines, inputs_tuple)
        )
        output = TargetOutput(
            self.forward_func, inputs_tuple, target, additional_forward_args
        )
        evaluator = self._evaluator(output, attribute_to_layer_input)
        confidence = output.with_output_func(confidence_func)
        batch_size = rows_per_batch(inputs_tuple, internal_batch_size)

        cams = []
        rows = len(inputs_tuple[0]) * (groups + 1)
        with tqdm(total=rows, disable=not show_progress, unit="mask") as bar:
            for batch in batches(inputs_tuple, batch_size, baselines_tuple):
                if not baselines_tuple:
                    hidden = [blurred(x, *blur) for x in batch.inputs]
                    batch = batch._replace(baselines=tuple(hidden))
                masks = _sums_of_groups(evaluator, batch, groups, use_gradients)
                if use_gradients and denoise_percentile is not None:
                    masks = denoise(masks, denoise_percentile)  # eq. 3
                masks = min_max(masks)  # (n, G, *layer spatial), eq. 4
                alphas = masked_score_gains(confidence, batch, masks, batch_size, bar)
                weighted = unsqueezed(alphas, masks) * masks
                cams.append(weighted.sum(1, keepdim=True))  # (n, 1, ...), eq. 7
        if use_gradients:
            evaluator.emit_warnings()
        else:
            evaluator.warn_of_layer()
        cam = check_no_overflow(torch.cat(cams))  # (N, 1, *layer spatial)
        # Upsampling is linear: the sum of masks needs it once.
        maps = upsampled_to_inputs(cam, inputs_tuple)
        if relu_attributions:
            maps = tuple(map_.relu() for map_ in maps)
        return maps if isinstance(inputs, tuple) else maps[0]


def _sums_of_groups(
    evaluator: LayerEvaluator, batch: Batch, groups: int, use_gradients: bool
) -> Tensor:
    r"""The groups' masks M_r of eq. 1-2, (n, G, \*layer spatial)."""
    points, examples = batch.inputs, batch.examples
    if use_gradients:
        activations, gradients, *_ = evaluator(points, examples)
        weights = spatial_mean(single_tensor(gradients))  # w_k, (n, K, 1, ...), eq. 1
        channels = weights * single_tensor(activations)
    else:
        channels = single_tensor(evaluator.activations(points, examples))
    evaluator.check_masks()
    _check_groups(groups, channels.shape[1])
    masks = group(channels, groups).relu()  # (n, G, *layer spatial), eq. 2
    return check_no_overflow(masks, examples)


def _check_groups(groups: int, channels: int) -> None:
    """No more groups than channels."""
    if groups > channels:
        raise ValueError(
            f"groups must be at most the number of the layer's channels, {channels}, "
            f"got {groups}"
        )
