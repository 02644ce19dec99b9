"""Eigen-CAM, and its variant by gradients."""

import torch
from torch import Tensor

from captum_cams._captum import TargetType, log_usage
from captum_cams._numerics import precise, unsqueezed
from captum_cams._validation import check_finite, check_flags, check_inputs
from captum_cams.attr._cam import CamAttribution, Maps, concatenate
from captum_cams.attr._pooling import combine
from captum_cams.attr.gradient_cams import GradientCamAttribution
from captum_cams.attr.registry import register
from captum_cams.target_output import TargetOutput, batches, rows_per_batch


@register(
    "eigen-cam",
    several_layers=True,
    gradients=False,
    axioms={"symmetry", "implementation_invariance", "input_invariance"},
    homogeneity=0,
)
class LayerEigenCam(CamAttribution):
    r"""
    Eigen-CAM.

    The activations' first principal component, whatever the target: with the units as
    rows and the channels as columns of a matrix O,

    .. math::
        O = U \Sigma V^T, \qquad
        \mathrm{map} = \mathrm{ReLU}(O V_1) = \mathrm{ReLU} \sum_k V_{k1} A^k.

    The paper takes no mean off O, and neither does this class. pytorch-grad-cam takes
    off each channel's mean over the map, which is another component: what varies most,
    and not what is there, so that a picture full of one object gives a flat map here
    and a patchy one there.

    Which of the signs of :math:`V_1` is meant the paper does not say. Here it is the
    one for which the map goes with the sum of the channels,
    :math:`\langle O V_1, \sum_k A^k \rangle \ge 0`, that is
    :math:`\sum_k V_{k1} \ge 0`: behind a ReLU the map then has no negative unit, and
    the final ReLU changes nothing. pytorch-grad-cam leaves the sign as it comes.

    Source: M. B. Muhammad, M. Yeasin, "Eigen-CAM: Class Activation Map using Principal
    Components", IJCNN 2020, https://arxiv.org/abs/2008.00299

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerEigenCam(model, model.block5)
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
    ) -> Maps:
        r"""
        Maps of the layer's activations alone, from one forward pass.

        Arguments that are not described here are those of :meth:`LayerCam.attribute`.

        Args:
            target (int, tuple, Tensor or list, optional): Checked as everywhere, and
                not used: the map is the same for all targets. Default: None

        Returns:
            *Tensor* of **maps**, (N, 1, \*layer spatial), in the layer's dtype and
            detached, or (N, K, \*layer spatial) without summation; a tuple where the
            layer gives several tensors, a list where `layer` is one.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, or its activations are not finite.
        """
        check_flags(
            relu_attributions=relu_attributions, attr_dim_summation=attr_dim_summation
        )
        inputs_tuple = check_inputs(inputs, integers=True)
        output = TargetOutput(
            self.forward_func, inputs_tuple, target, additional_forward_args
        )
        evaluator = self._evaluator(output, attribute_to_layer_input)
        batch_size = rows_per_batch(inputs_tuple, internal_batch_size)
        results = []
        for examples, points, _ in batches(inputs_tuple, batch_size):
            layer = evaluator.activations(points, examples)
            check_finite("forward_func's output", evaluator.outputs, examples)
            results.append(
                tuple(
                    combine(
                        first_component(maps),
                        maps,
                        relu=relu_attributions,
                        summation=attr_dim_summation,
                    )
                    for maps in layer
                )
            )
        maps = self._format_maps(evaluator, concatenate(results))
        evaluator.warn_of_layer()
        return maps


@register(
    "eigen-grad-cam",
    several_layers=True,
    axioms={
        "dummy",
        "symmetry",
        "implementation_invariance",
        "input_invariance",
        "channel_scaling",
    },
    homogeneity=1,
)
class LayerEigenGradCam(GradientCamAttribution):
    r"""
    Eigen-CAM of the activations times their gradients, which tells targets apart.

    .. math::
        G \odot O = U \Sigma V^T, \qquad
        \mathrm{map} = \mathrm{ReLU} \sum_k V_{k1}\,
            \frac{\partial y}{\partial A_{kij}} A_{kij},

    with O as in :class:`LayerEigenCam` and its gradients G. The method is not the
    paper's, but pytorch-grad-cam's, which takes off each channel's mean, and leaves the
    sign as it comes. Here no mean is taken off, and the sign is the one for which the
    map goes with the sum of the channels, which is HiResCAM's map: what speaks for the
    target is positive.

    Source: J. Gildenblat et al., pytorch-grad-cam (`EigenGradCAM`),
    https://github.com/jacobgil/pytorch-grad-cam; after M. B. Muhammad, M. Yeasin,
    "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020,
    https://arxiv.org/abs/2008.00299

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerEigenGradCam(model.logits, model.block5)
        >>> cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 4, 4])
    """

    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Each unit's gradient, weighted by its channel's part of the component."""
        return first_component(activations * gradients) * gradients


def first_component(maps: Tensor) -> Tensor:
    r"""
    V_1 of channels as columns and units as rows, with a sum of at least 0.

    Args:
        maps (Tensor): (n, K, \*spatial).

    Returns:
        *Tensor* in single precision at least, (n, K, 1, ...); 0 for maps of 0.
    """
    channels = maps.reshape(*maps.shape[:2], -1).to(precise(maps))  # (n, K, units)
    # In scales of the largest one: small numbers have no squares.
    largest = channels.abs().amax((1, 2), keepdim=True)  # (n, 1, 1)
    channels = channels / torch.where(largest > 0, largest, 1)
    first = torch.linalg.svd(channels, full_matrices=False).U[:, :, 0]  # (n, K)
    first = torch.where(first.sum(1, keepdim=True) < 0, -first, first)
    return unsqueezed(torch.where(largest[:, 0] > 0, first, 0), maps)
