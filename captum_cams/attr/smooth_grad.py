"""SmoothGrad."""

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import GradientAttribution
from torch import Tensor

from captum_cams._captum import TargetType, log_usage
from captum_cams._numerics import precise, unsqueezed
from captum_cams._validation import (
    check_callable,
    check_count,
    check_inputs,
    check_number,
    check_seed,
    shape_of,
)
from captum_cams.attr._cam import ShownByName, TensorOrTuple, check_no_overflow
from captum_cams.attr.registry import register
from captum_cams.target_output import (
    TargetOutput,
    batches,
    check_recording,
    output_and_gradients,
    rows_per_batch,
)


@register(
    "smooth-grad",
    seed_arguments=lambda seed: {"seed": seed},
    test_arguments={"nt_samples": 2},
    axioms={"implementation_invariance"},
    homogeneity=1,
)
class SmoothGrad(ShownByName, GradientAttribution):
    r"""
    SmoothGrad.

    The mean gradient at noisy copies of the input, of which a pixel shows the
    magnitudes:

    .. math::
        \mathrm{map} = \sum_{\mathrm{channels}} \Bigl| \frac{1}{n} \sum_{s=1}^n
            \frac{\partial y}{\partial x}(x + \epsilon_s) \Bigr|, \qquad
        \epsilon_s \sim N(0, \sigma^2), \quad
        \sigma = \mathrm{noise\ level} \cdot (x_{\max} - x_{\min})

    Of color pictures the paper shows gradients by their magnitudes; that those of the
    channels are summed is taken from its authors' code, which averages squares of
    gradients unless it is told not to. Captum's
    ``NoiseTunnel(Saliency(model))`` is another average, that of the magnitudes.

    Every example meets the same noise but for its range, so that its map does not
    depend on the others.

    Source: D. Smilkov, N. Thorat, B. Kim, F. Viegas, M. Wattenberg, "SmoothGrad:
    removing noise by adding noise", 2017, https://arxiv.org/abs/1706.03825

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> smooth_grad = SmoothGrad(model.logits)
        >>> smooth_grad.attribute(pictures.images, pictures.labels, nt_samples=4).shape
        torch.Size([2, 1, 128, 128])
    """

    forward_func: Callable[..., Any]

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        check_callable("forward_func", forward_func)
        super().__init__(forward_func)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTuple,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        nt_samples: int = 50,
        noise_level: float = 0.15,
        seed: int = 0,
        internal_batch_size: int | None = None,
    ) -> TensorOrTuple:
        r"""
        Maps over the input, from `nt_samples` forward and backward passes an example.

        Arguments that are not described here are those of :meth:`GroupCam.attribute`.

        Args:
            inputs (Tensor or tuple of Tensor): Examples to explain,
                (N, C, \*spatial), of a floating dtype.
            nt_samples (int): n, the noisy copies; the paper sees little change above
                50. Default: 50
            noise_level (float): The noise's standard deviation as a share of the range
                of an example's values; the paper takes 0.1 to 0.2. Default: 0.15
            seed (int): Draws the noise; PyTorch's global generators are left alone.
                Default: 0

        Returns:
            *Tensor* of **maps** (N, 1, \*input spatial), detached; a tuple of them for
            a tuple of inputs.

        Raises:
            ValueError, TypeError: If an argument does not fit.
        """
        check_recording()
        nt_samples = check_count("nt_samples", nt_samples)
        noise_level = check_number("noise_level", noise_level, "[0, inf)")
        seed = check_seed(seed)
        inputs_tuple = check_inputs(inputs)
        _check_channels(inputs_tuple)
        output = TargetOutput(
            self.forward_func, inputs_tuple, target, additional_forward_args
        )
        batch_size = rows_per_batch(inputs_tuple, internal_batch_size)

        totals = [torch.zeros_like(x, dtype=precise(x)) for x in inputs_tuple]
        for batch in batches(inputs_tuple, batch_size):
            scales = [noise_level * _ranges(x) for x in batch.inputs]  # (n, 1, ...)
            generator = torch.Generator().manual_seed(seed)
            for _ in range(nt_samples):
                noisy = tuple(
                    x + scale * _noise(x, generator)
                    for x, scale in zip(batch.inputs, scales, strict=True)
                )
                _, gradients = output_and_gradients(output, noisy, batch.examples)
                for total, gradient in zip(totals, gradients, strict=True):
                    total[batch.examples] += gradient / nt_samples
        maps = tuple(
            check_no_overflow(total.abs().sum(1, keepdim=True).to(x))  # (N, 1, ...)
            for total, x in zip(totals, inputs_tuple, strict=True)
        )
        return maps if isinstance(inputs, tuple) else maps[0]


def _check_channels(inputs: tuple[Tensor, ...]) -> None:
    for x in inputs:
        if x.dim() < 2:
            raise ValueError(
                "inputs must have channels along their second axis, (N, C, *spatial), "
                f"got shape {shape_of(x)}"
            )


def _ranges(x: Tensor) -> Tensor:
    """The difference of each example's largest and smallest value, (n, 1, ...)."""
    values = x.flatten(1)
    return unsqueezed(values.amax(1) - values.amin(1), x)


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """The same for every example, (1, *shape)."""
    return torch.randn(1, *x.shape[1:], generator=generator).to(x)
