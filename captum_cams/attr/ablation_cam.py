"""Ablation-CAM."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import DataParallel
from tqdm import tqdm

from captum_cams._captum import TargetType, log_usage
from captum_cams._numerics import divide, precise, rounding, unsqueezed
from captum_cams._validation import check_flags, check_inputs
from captum_cams.attr._cam import (
    OneLayerCamAttribution,
    check_no_overflow,
    single_tensor,
)
from captum_cams.attr._pooling import combine
from captum_cams.attr.registry import register
from captum_cams.layer_ablation import outputs_without
from captum_cams.layer_eval import LayerEvaluator
from captum_cams.target_output import TargetOutput, batches, rows_per_batch


@register(
    "ablation-cam",
    gradients=False,
    axioms={"dummy", "symmetry", "implementation_invariance", "input_invariance"},
    homogeneity=0,
)
class LayerAblationCam(OneLayerCamAttribution):
    r"""
    Ablation-CAM.

    A Grad-CAM without gradients: a feature map weighs what the output loses without
    it,

    .. math::
        w_k = \frac{y - y_k}{y}, \qquad \mathrm{map} = \mathrm{ReLU} \sum_k w_k A^k

    where :math:`y_k` is the output with all units of :math:`A^k` set to 0.
    The output should be positive, such as a probability: a negative :math:`y` turns
    the map's sign. For :math:`y = 0` the map is 0. What rounding alone may make of
    an output, whose last digits depend on the other examples of a batch, is no loss.

    Feature maps that are 0 everywhere have weight 0 without a pass.

    Source: S. Desai, H. G. Ramaswamy, "Ablation-CAM: Visual Explanations for Deep
    Convolutional Network via Gradient-free Localization", WACV 2020,
    https://doi.org/10.1109/WACV45572.2020.9093360

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerAblationCam(model, model.block5)
        >>> cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 4, 4])
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        *,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Tensor:
        r"""
        Maps of the layer's activations, weighted by what the output loses.

        For each example two forward passes, and one for each channel that is not 0.

        Arguments that are not described here are those of :meth:`LayerCam.attribute`.

        Args:
            show_progress (bool): Whether a bar counts the passes. Default: False

        Returns:
            *Tensor* of **maps**, (N, 1, \*layer spatial), in the layer's dtype and
            detached, or (N, K, \*layer spatial) without summation.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, gives several tensors, or its activations are not finite.
        """
        check_flags(
            relu_attributions=relu_attributions,
            attr_dim_summation=attr_dim_summation,
            show_progress=show_progress,
        )
        inputs_tuple = check_inputs(inputs, integers=True)
        # Its hook counts the rows of a batch, which replicas would share among them.
        model: Any = self.forward_func
        model = model.module if isinstance(model, DataParallel) else model
        output = TargetOutput(model, inputs_tuple, target, additional_forward_args)
        evaluator = self._evaluator(output, attribute_to_layer_input)
        batch_size = rows_per_batch(inputs_tuple, internal_batch_size)

        maps = []
        with tqdm(disable=not show_progress, unit="pass") as bar:
            for examples, points, _ in batches(inputs_tuple, batch_size):
                activations = single_tensor(evaluator.activations(points, examples))
                again = evaluator.outputs[:, None]  # y in another batch, (n, 1)
                y, without = _outputs(
                    evaluator, inputs_tuple, examples, activations, batch_size, bar
                )
                noise = _noise(y, without, again).to(precise(y))  # (n, 1)
                losses = y.to(noise) - without.to(noise)  # (n, K)
                losses = torch.where(losses.abs() > noise, losses, 0)
                evaluator.mark_responsive(examples, (losses != 0).any(1))
                weights = divide(losses, y.to(noise), noise)  # w, (n, K)
                maps.append(
                    combine(
                        unsqueezed(weights, activations),
                        activations,
                        relu=relu_attributions,
                        summation=attr_dim_summation,
                    )
                )
        evaluator.emit_warnings(
            "the output is the same without any one of the layer's channels"
        )
        return check_no_overflow(torch.cat(maps))


def _outputs(
    evaluator: LayerEvaluator,
    inputs: tuple[Tensor, ...],
    examples: Tensor,
    activations: Tensor,
    batch_size: int,
    bar: Any,
) -> tuple[Tensor, Tensor]:
    """The output y, (n, 1), and y_k without each of the channels, (n, K)."""
    units = activations.reshape(*activations.shape[:2], -1)  # (n, K, Z)
    present = (units != 0).any(2).cpu()  # (n, K)
    n, k = present.nonzero(as_tuple=True)
    # The examples themselves go first, with no channel ablated.
    outputs = outputs_without(
        evaluator,
        inputs,
        torch.cat([examples, examples[n]]),
        torch.cat([torch.full_like(examples, -1), k]),
        batch_size,
        bar,
    )
    y = outputs[: len(examples), None]  # (n, 1)
    without = y.repeat(1, present.shape[1])  # (n, K)
    without[n, k] = outputs[len(examples) :]
    return y, without


def _noise(y: Tensor, without: Tensor, again: Tensor) -> Tensor:
    """
    What rounding may make of the output, (n, 1).

    Args:
        y (Tensor): The output, (n, 1).
        without (Tensor): The output without each of the channels, (n, K).
        again (Tensor): The output as another batch gave it, (n, 1). How far it is off
            tells how far rounding goes in this very model; what goes further is chance.
    """
    largest = torch.cat([y, without], 1).abs().amax(1, keepdim=True)  # (n, 1)
    most = torch.finfo(y.dtype).eps ** 0.5 * largest
    seen = torch.minimum(4 * (y - again).abs(), most)
    return torch.maximum(rounding(largest), seen)
