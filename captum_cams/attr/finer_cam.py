"""Finer-CAM."""

from typing import Any

from torch import Tensor

from captum_cams._captum import TargetType, log_usage
from captum_cams._validation import check_count, check_inputs, check_number
from captum_cams.attr._cam import Maps
from captum_cams.attr._pooling import spatial_mean
from captum_cams.attr.gradient_cams import GradientCamAttribution
from captum_cams.attr.registry import register
from captum_cams.target_output import TargetOutput


@register(
    "finer-cam",
    explains_log=True,
    several_layers=True,
    axioms={
        "dummy",
        "symmetry",
        "implementation_invariance",
        "input_invariance",
        "channel_scaling",
        "channel_mixing",
    },
)
class LayerFinerCam(GradientCamAttribution):
    r"""
    Finer-CAM: a Grad-CAM of what tells the target from the classes most like it.

    .. math::
        w_k = \frac{1}{Z} \sum_{ij} \frac{\partial}{\partial A_{kij}} \Bigl(
            y^c - \gamma \sum_{d \in D} p_d\, y^d \Bigr), \qquad
        p_d = \frac{\exp y^d}{\sum_{e \in D} \exp y^e}, \qquad
        \mathrm{map} = \mathrm{ReLU} \sum_k w_k A^k

    The classes D are those whose scores are next to the target's. For one of them
    that is the paper's :math:`y^c - \gamma y^d`; several are weighted by their
    probabilities, as in pytorch-grad-cam (whose `alpha` is :math:`\gamma`), through
    which the gradient runs, too. Scores are those before a softmax.

    With :math:`\gamma = 0`, and of an output of a single number, that is Grad-CAM. The
    paper compares classes with other CAMs, too; here it is Grad-CAM alone.

    Source: Z. Zhang, J. Gu, A. Chowdhury, Z. Mai, D. Carlyn, T. Berger-Wolf, Y. Su,
    W.-L. Chao, "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual
    Explanation", CVPR 2025, https://arxiv.org/abs/2501.11309

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerFinerCam(model.logits, model.block5)
        >>> cam.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 4, 4])
    """

    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The mean of the gradients."""
        return spatial_mean(gradients)  # (n, K, 1, ...)

    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0913, PLR0917
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        gamma: float = 1.0,
        n_references: int = 3,
        internal_batch_size: int | None = None,
    ) -> Maps:
        r"""
        Maps of the layer's activations, weighted by the gradients of a difference.

        Arguments that are not described here are those of :meth:`LayerCam.attribute`.

        Args:
            target (int, tuple, Tensor or list, optional): As there; of an output of
                several axes, (N, C, ...), classes lie along the first.
            gamma (float): How much of the other classes is taken off, at least 0.
                Default: 1.0, as in pytorch-grad-cam
            n_references (int): Number of the classes in D, at least 1; all others where
                there are fewer. Default: 3, as in pytorch-grad-cam

        Returns:
            *Tensor* of **maps**, (N, 1, \*layer spatial), in the layer's dtype and
            detached, or (N, K, \*layer spatial) without summation; a tuple where the
            layer gives several tensors, a list where `layer` is one.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, or its activations are not finite.
        """
        gamma = check_number("gamma", gamma, "[0, inf)")
        n_references = check_count("n_references", n_references)
        inputs_tuple = check_inputs(inputs, integers=True)
        output = _Difference(
            self.forward_func, inputs_tuple, target, additional_forward_args
        )
        output.gamma, output.n_references = gamma, n_references
        return self._weighted_maps(
            output,
            inputs_tuple,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            grad_kwargs,
            internal_batch_size,
        )


class _Difference(TargetOutput):
    """The target's score less those of the classes next to it."""

    gamma: float
    n_references: int

    def select(self, output: Tensor, target: Tensor | None) -> Tensor:
        """The difference, (B,)."""
        y = super().select(output, target)  # (B,)
        if target is None:
            return y
        scores = output  # (B, C, ...)
        for index in target[:, 1:].to(output.device).unbind(1):
            scores = scores[range(len(output)), :, index]  # (B, C, ...)
        scores = scores.flatten(1)  # (B, C), as what is left has one element
        own = target[:, :1].to(output.device) % scores.shape[1]  # (B, 1)
        distances = (scores - y[:, None]).detach().abs().scatter(1, own, float("inf"))
        count = min(self.n_references, scores.shape[1] - 1)
        nearest = distances.sort(dim=1, stable=True).indices[:, :count]  # (B, count)
        others = scores.gather(1, nearest)  # (B, count)
        return y - self.gamma * (others.softmax(1) * others).sum(1)
