"""The CAMs that differ in how gradients at the input become weights."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from captum_cams._captum import TargetType, log_usage
from captum_cams._numerics import divide, precise, rounding
from captum_cams._validation import check_flags, check_inputs
from captum_cams.attr._cam import CamAttribution, Maps, concatenate
from captum_cams.attr._pooling import combine, spatial_mean, spatial_sum
from captum_cams.attr.registry import Axiom, register
from captum_cams.target_output import TargetOutput, batches, rows_per_batch

# What all of them share: weights that a channel's own activations and gradients make.
_AXIOMS: set[Axiom] = {
    "dummy",
    "symmetry",
    "implementation_invariance",
    "input_invariance",
    "channel_scaling",
}


class GradientCamAttribution(CamAttribution, ABC):
    """Base of the maps sum_k w_k A^k whose weights come from A and dy/dA alone."""

    @abstractmethod
    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        r"""
        The paper's weights.

        Args:
            activations (Tensor): A, (n, K, \*spatial).
            gradients (Tensor): dy/dA, of the same shape, in single precision at least.

        Returns:
            *Tensor* of a weight for each channel, (n, K, 1, ...), or for each unit,
            (n, K, \*spatial).
        """

    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0917
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        internal_batch_size: int | None = None,
    ) -> Maps:
        r"""
        Maps of the layer's activations, weighted by what their gradients say.

        One forward pass, and the backward pass from the output to the layer.

        Args:
            inputs (Tensor or tuple of Tensor): Examples to explain, N along the first
                axis, also of integers, such as token ids.
            target (int, tuple, Tensor or list, optional): Index of the output to
                explain, one for all examples or one for each; tuples for outputs of
                more than two axes. Default: None, for one output an example
            additional_forward_args (Any, optional): Passed to `forward_func` behind
                the inputs. Tensors with N rows follow their examples.
            attribute_to_layer_input (bool): Whether the layer's input is mapped
                instead of its output. Default: False
            relu_attributions (bool): Whether maps are rectified. Default: True, where
                Captum's LayerGradCam has False
            attr_dim_summation (bool): Whether channels are summed. Default: True
            grad_kwargs (dict, optional): Passed to `torch.autograd.grad`, but that
                ``allow_unused`` and ``materialize_grads`` stand for gradients of 0
                where a tensor of the layer has none, which is an error otherwise.
            internal_batch_size (int, optional): Most examples that go through the
                network together, at least 1. Default: None, chosen by device and
                input size

        Returns:
            *Tensor* of **maps**, (N, 1, \*layer spatial), in the layer's dtype and
            detached, or (N, K, \*layer spatial) without summation; a tuple where the
            layer gives several tensors, a list where `layer` is one.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, or its activations are not finite.
        """
        inputs_tuple = check_inputs(inputs, integers=True)
        return self._weighted_maps(
            TargetOutput(
                self.forward_func, inputs_tuple, target, additional_forward_args
            ),
            inputs_tuple,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            grad_kwargs,
            internal_batch_size,
        )

    def _weighted_maps(  # noqa: PLR0917
        self,
        output: TargetOutput,
        inputs: tuple[Tensor, ...],
        attribute_to_layer_input: bool,
        relu_attributions: bool,
        attr_dim_summation: bool,
        grad_kwargs: dict[str, Any] | None,
        internal_batch_size: int | None,
    ) -> Maps:
        """The maps of any output y."""
        check_flags(
            relu_attributions=relu_attributions, attr_dim_summation=attr_dim_summation
        )
        evaluator = self._evaluator(output, attribute_to_layer_input, grad_kwargs)
        batch_size = rows_per_batch(inputs, internal_batch_size)
        results = []
        for examples, points, _ in batches(inputs, batch_size):
            layer = evaluator(points, examples)
            results.append(
                tuple(
                    combine(
                        self.weights(activations, gradients.to(precise(gradients))),
                        activations,
                        relu=relu_attributions,
                        summation=attr_dim_summation,
                    )
                    for activations, gradients in zip(
                        layer.activations, layer.gradients, strict=True
                    )
                )
            )
        maps = self._format_maps(evaluator, concatenate(results))
        evaluator.emit_warnings()
        return maps


@register(
    "positive-grad-cam",
    several_layers=True,
    axioms=_AXIOMS,
    homogeneity=1,
)
class LayerPositiveGradCam(GradientCamAttribution):
    r"""
    Grad-CAM of the positive gradients alone.

    .. math::
        w_k = \frac{1}{Z} \sum_{ij}
            \mathrm{ReLU}\Bigl(\frac{\partial y}{\partial A_{kij}}\Bigr),
        \qquad \mathrm{map} = \mathrm{ReLU} \sum_k w_k A^k,

    the Grad-CAM that the RSI-Grad-CAM paper compares with (its eq. 2). Captum's
    LayerGradCam is the one without the inner ReLU.

    Source: M. Lucas, M. Lerma, J. Furst, D. Raicu, "RSI-Grad-CAM: Visual Explanations
    from Deep Networks via Riemann-Stieltjes Integrated Gradient-based Localization",
    2022, https://arxiv.org/abs/2205.10900

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerPositiveGradCam(model, model.block5)
        >>> cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 4, 4])
    """

    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The mean of the positive gradients."""
        return spatial_mean(gradients.relu())  # (n, K, 1, ...)


@register(
    "grad-cam-plus-plus",
    explains_log=True,
    several_layers=True,
    axioms=_AXIOMS,
)
class LayerGradCamPlusPlus(GradientCamAttribution):
    r"""
    Grad-CAM++.

    A weighted sum of the positive gradients, whose weights are such that each place
    where an object is seen counts alike, however few units see it:

    .. math::
        w_k = \sum_{ij} \alpha_{kij}\,
            \mathrm{ReLU}\Bigl(\frac{\partial y}{\partial A_{kij}}\Bigr), \qquad
        \alpha_{kij} = \frac{g_{kij}^2}{2 g_{kij}^2 + \sum_{ab} A_{kab}\, g_{kij}^3},
        \qquad g = \frac{\partial S}{\partial A}

    (eq. 5, 6 and 19), with the map :math:`\mathrm{ReLU} \sum_k w_k A^k`. Here
    :math:`S` is what `forward_func` gives, a score before the softmax, and
    :math:`y = \exp S`, whose second and third derivatives are :math:`y g^2` and
    :math:`y g^3` where the network behind the layer is piecewise linear. Quotients
    with a denominator of 0 are 0.

    Where this class leaves the paper: the factor :math:`y` of :math:`\partial y /
    \partial A = y g` is left out, as it is one positive number an example, and
    overflows; the general :math:`\alpha` for any :math:`y` (eq. 10) would take
    derivatives of third order, and is not offered.

    Source: A. Chattopadhay, A. Sarkar, P. Howlader, V. N. Balasubramanian,
    "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional
    Networks", WACV 2018, https://arxiv.org/abs/1710.11063

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerGradCamPlusPlus(model.logits, model.block5)
        >>> cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 4, 4])
    """

    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The alpha-weighted sum of the positive gradients."""
        # alpha g without powers of g, which underflow and overflow: 1 / (2 / g + sum A)
        twice, sums = 2 / gradients.relu(), spatial_sum(activations)
        noise = rounding(torch.maximum(twice, sums.abs()))  # (n, K, *spatial)
        return spatial_sum(divide(1, twice + sums, noise))


@register(
    "x-grad-cam",
    several_layers=True,
    axioms={*_AXIOMS, "linearity"},
    homogeneity=1,
)
class LayerXGradCam(GradientCamAttribution):
    r"""
    XGrad-CAM.

    Grad-CAM's mean of the gradients, weighted by the activations, which comes closest
    to the axioms of sensitivity and conservation:

    .. math::
        w_k = \sum_{ij} \frac{A_{kij}}{\sum_{ab} A_{kab}}
            \frac{\partial y}{\partial A_{kij}}, \qquad
        \mathrm{map} = \mathrm{ReLU} \sum_k w_k A^k.

    The weight of a channel whose sum is 0, up to rounding, is 0; the method is made
    for layers behind a ReLU, whose sums are 0 for dead channels alone.

    Source: R. Fu, Q. Hu, X. Dong, Y. Guo, Y. Gao, B. Li, "Axiom-based Grad-CAM: Towards
    Accurate Visualization and Explanation of CNNs", BMVC 2020,
    https://arxiv.org/abs/2008.02312

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerXGradCam(model.logits, model.block5)
        >>> cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 4, 4])
    """

    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The mean of the gradients, weighted by the activations."""
        noise = spatial_sum(rounding(activations))  # (n, K, 1, ...)
        return divide(
            spatial_sum(activations * gradients), spatial_sum(activations), noise
        )


@register(
    "layer-cam",
    several_layers=True,
    axioms=_AXIOMS,
    homogeneity=1,
)
class LayerCam(GradientCamAttribution):
    r"""
    LayerCAM.

    Every unit is weighted by its own positive gradient, which keeps the maps of early
    layers sharp:

    .. math::
        \mathrm{map}_{ij} = \mathrm{ReLU} \sum_k
            \mathrm{ReLU}\Bigl(\frac{\partial y}{\partial A_{kij}}\Bigr) A_{kij}.

    The paper's scaling of early layers' maps by a tanh is left out, as all normalizing
    is.

    Source: P.-T. Jiang, C.-B. Zhang, Q. Hou, M.-M. Cheng, Y. Wei, "LayerCAM: Exploring
    Hierarchical Class Activation Maps for Localization", IEEE Transactions on Image
    Processing 2021, https://doi.org/10.1109/TIP.2021.3089943

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerCam(model, model.block3)
        >>> cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 16, 16])
    """

    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Each unit's positive gradient."""
        return gradients.relu()


@register(
    "hi-res-cam",
    several_layers=True,
    axioms={*_AXIOMS, "linearity", "channel_mixing"},
    homogeneity=1,
)
class LayerHiResCam(GradientCamAttribution):
    r"""
    HiResCAM.

    Every unit is weighted by its own gradient:

    .. math::
        \mathrm{map}_{ij} = \mathrm{ReLU} \sum_k
            \frac{\partial y}{\partial A_{kij}} A_{kij}.

    Without the ReLU (``relu_attributions=False``) the map of a network that ends in
    one linear layer adds up to its score, but for the bias.

    Source: R. L. Draelos, L. Carin, "Use HiResCAM instead of Grad-CAM for faithful
    explanations of convolutional neural networks", 2020,
    https://arxiv.org/abs/2011.08891

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerHiResCam(model.logits, model.block5)
        >>> cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 4, 4])
    """

    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Each unit's gradient."""
        return gradients
