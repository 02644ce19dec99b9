"""Smooth Grad-CAM++."""

from typing import Any

import torch
from torch import Tensor

from captum_cams._captum import TargetType, log_usage
from captum_cams._numerics import divide, precise, rounding
from captum_cams._validation import (
    check_count,
    check_flags,
    check_inputs,
    check_number,
    check_seed,
)
from captum_cams.attr._cam import CamAttribution, Maps, concatenate
from captum_cams.attr._pooling import combine, spatial_sum
from captum_cams.attr.registry import register
from captum_cams.layer_eval import LayerEvaluator
from captum_cams.target_output import Batch, TargetOutput, batches, rows_per_batch


@register(
    "smooth-grad-cam-plus-plus",
    explains_log=True,
    several_layers=True,
    seed_arguments=lambda seed: {"seed": seed},
    test_arguments={"nt_samples": 2},
    axioms={
        "dummy",
        "symmetry",
        "implementation_invariance",
        "input_invariance",
        "channel_scaling",
    },
)
class LayerSmoothGradCamPlusPlus(CamAttribution):
    r"""
    Smooth Grad-CAM++.

    Grad-CAM++ with derivatives that are means over noisy copies of the input:

    .. math::
        w_k = \sum_{ij} \alpha_{kij}\, \mathrm{ReLU}(D_{1,kij}), \qquad
        \alpha_{kij} = \frac{D_{2,kij}}
            {2 D_{2,kij} + \sum_{ab} A_{kab}\, D_{3,kij}}, \qquad
        D_{p,kij} = \frac{1}{n} \sum_{s=1}^n
            \Bigl(\frac{\partial S(x + \epsilon_s)}{\partial A_{kij}}\Bigr)^p

    with Gaussian noise :math:`\epsilon_s` and the map
    :math:`\mathrm{ReLU} \sum_k w_k A^k` of the input itself. As in
    :class:`LayerGradCamPlusPlus`, :math:`S` is a score before the softmax, whose
    exponential is explained, and that exponential is left out as a factor. Quotients
    with a denominator of 0 are 0.

    Every example meets the same noise, so that its map does not depend on the others.

    Source: D. Omeiza, S. Speakman, C. Cintas, K. Weldermariam, "Smooth Grad-CAM++: An
    Enhanced Inference Level Visualization Technique for Deep Convolutional Neural
    Network Models", 2019, https://arxiv.org/abs/1908.01224

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerSmoothGradCamPlusPlus(model.logits, model.block5)
        >>> cam.attribute(pictures.images, pictures.labels, nt_samples=4).shape
        torch.Size([2, 1, 4, 4])
    """

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
        nt_samples: int = 25,
        stdevs: float = 0.3,
        seed: int = 0,
        internal_batch_size: int | None = None,
    ) -> Maps:
        r"""
        Maps of the layer's activations, weighted by what noisy gradients say.

        Takes `nt_samples` forward and backward passes, and a forward pass.

        Arguments that are not described here are those of :meth:`LayerCam.attribute`.

        Args:
            inputs (Tensor or tuple of Tensor): Examples to explain, N along the first
                axis, of a floating dtype.
            nt_samples (int): n, the noisy copies. Default: 25
            stdevs (float): Standard deviation of the noise, in the inputs' scales.
                Default: 0.3
            seed (int): Draws the noise; PyTorch's global generators are left alone.
                Default: 0

        Returns:
            *Tensor* of **maps**, (N, 1, \*layer spatial), in the layer's dtype and
            detached, or (N, K, \*layer spatial) without summation; a tuple where the
            layer gives several tensors, a list where `layer` is one.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, or its activations are not finite.
        """
        nt_samples = check_count("nt_samples", nt_samples)
        stdevs = check_number("stdevs", stdevs, "[0, inf)")
        seed = check_seed(seed)
        check_flags(
            relu_attributions=relu_attributions, attr_dim_summation=attr_dim_summation
        )
        inputs_tuple = check_inputs(inputs)
        evaluator = self._evaluator(
            TargetOutput(
                self.forward_func, inputs_tuple, target, additional_forward_args
            ),
            attribute_to_layer_input,
            grad_kwargs,
        )
        batch_size = rows_per_batch(inputs_tuple, internal_batch_size)
        results = []
        for batch in batches(inputs_tuple, batch_size):
            activations = evaluator.activations(batch.inputs, batch.examples)
            generator = torch.Generator().manual_seed(seed)
            powers, scales = _mean_powers(
                evaluator, batch, nt_samples, stdevs, generator
            )
            results.append(
                tuple(
                    combine(
                        _weights(a, scale, *D),
                        a,
                        relu=relu_attributions,
                        summation=attr_dim_summation,
                    )
                    for a, scale, D in zip(activations, scales, powers, strict=True)
                )
            )
        maps = self._format_maps(evaluator, concatenate(results))
        evaluator.emit_warnings()
        return maps


def _mean_powers(
    evaluator: LayerEvaluator,
    batch: Batch,
    nt_samples: int,
    stdevs: float,
    generator: torch.Generator,
) -> tuple[list[Tensor], list[Tensor]]:
    """
    D_1 to D_3 in scales of each example's largest gradient, and these scales.

    Cubes of gradients as they are would overflow, or vanish. For each tensor of the
    layer (3, n, K, ...) and (n, 1, ...).
    """
    powers: list[Tensor] = []
    scales: list[Tensor] = []
    for _ in range(nt_samples):
        noisy = tuple(x + stdevs * _noise(x, generator) for x in batch.inputs)
        gradients = evaluator(noisy, batch.examples).gradients
        scales = scales or [_largest(g) for g in gradients]
        powers = powers or [
            g.new_zeros(3, *g.shape, dtype=precise(g)) for g in gradients
        ]
        for D, g, scale in zip(powers, gradients, scales, strict=True):
            g = g / scale
            D += torch.stack([g, g**2, g**3]) / nt_samples  # (3, n, K, ...)
    return powers, scales


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """The same for every example, (1, *shape)."""
    return torch.randn(1, *x.shape[1:], generator=generator).to(x)


def _largest(gradients: Tensor) -> Tensor:
    """The largest magnitude in each example, or 1 where all are 0, (n, 1, ...)."""
    axes = tuple(range(1, gradients.dim()))
    largest = gradients.abs().amax(axes, keepdim=True).to(precise(gradients))
    return torch.where(largest > 0, largest, 1)


def _weights(A: Tensor, scale: Tensor, D1: Tensor, D2: Tensor, D3: Tensor) -> Tensor:
    """The alpha-weighted sum of the positive mean gradients, (n, K, 1, ...)."""
    cubes = scale * spatial_sum(A) * D3  # (n, K, *spatial)
    noise = rounding(torch.maximum(2 * D2, cubes.abs()))
    alphas = divide(D2, 2 * D2 + cubes, noise)
    return scale * spatial_sum(alphas * D1.relu())
