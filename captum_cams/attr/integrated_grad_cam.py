"""Integrated Grad-CAM."""

from typing import Any

import torch
from torch import Tensor

from captum_cams._captum import BaselineType, TargetType, log_usage
from captum_cams._checks import check_choice, check_count
from captum_cams.attr._cam import (
    PathCamAttribution,
    combine,
    concatenate,
    precise,
    total,
)
from captum_cams.path import RULES, Rule, quadrature


class LayerIntegratedGradCam(PathCamAttribution):
    r"""
    Integrated Grad-CAM.

    Integrates Grad-CAM-like maps along a path from a baseline :math:`x'` to the input
    :math:`x`: with :math:`\gamma(\alpha) = x' + \alpha (x - x')`, :math:`A^k(\alpha)`
    the feature map and :math:`y(\alpha)` the target output at :math:`\gamma(\alpha)`,

    .. math::
        \mathrm{map} = \int_0^1 \mathrm{ReLU} \sum_k
        \Big( \sum_{ij} \frac{\partial y(\alpha)}{\partial A_{kij}} \Big)
        \big( A^k(\alpha) - A^k(0) \big) \, d\alpha

    (eq. 4-5). Gradients are summed, not averaged, over the feature map, as eq. 4 has
    no 1/Z.

    Where this class leaves the paper, and the switch that undoes it: the integral is
    approximated by the trapezoid rule; ``method="riemann_right"`` is eq. 6. Returned
    maps are not normalised.

    Source: S. Sattarzadeh, M. Sudhakar, K. N. Plataniotis, J. Jang, Y. Jeong, H. Kim,
    "Integrated Grad-CAM: Sensitivity-Aware Visual Explanation of Deep Convolutional
    Networks via Integrated Gradient-Based Scoring", ICASSP 2021,
    https://arxiv.org/abs/2102.07805

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it.
        layer (torch.nn.Module or list of torch.nn.Module): The layer whose
            activations are mapped, or several that share one walk along the path.
        device_ids (list of int, optional): Needed only where `forward_func` applies a
            `DataParallel` model without being one itself.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> igc = LayerIntegratedGradCam(model, model.block4)
        >>> igc.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 8, 8])
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        method: Rule = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        show_progress: bool = False,
    ) -> Any:
        r"""
        Maps of the layer's activations, integrated along the path.

        Args:
            inputs (Tensor or tuple of Tensor): Examples to explain, N along the first
                axis, of a floating dtype.
            baselines (Tensor, number or tuple, optional): Where the path starts:
                tensors of the inputs' shapes, or with 1 in the first place, or
                numbers. Default: 0 (after a mean/std normalisation that is not black)
            target (int, tuple, Tensor or list, optional): Index of the output to
                explain, one for all examples or one for each; tuples for outputs of
                more than two axes. Default: None, for one output an example
            additional_forward_args (Any, optional): Passed to `forward_func` behind
                the inputs. Tensors with N rows follow their examples.
            n_steps (int): The paper's m, the number of intervals. Default: 50
            method (str): Quadrature rule: ``riemann_trapezoid``, ``riemann_left``,
                ``riemann_middle``, ``riemann_right`` (eq. 6) or ``gausslegendre``.
                Default: ``riemann_trapezoid``
            internal_batch_size (int, optional): Most points that go through the
                network together, at least 1. Default: None, chosen by device and
                input size; never all at once
            attribute_to_layer_input (bool): Whether the layer's input is mapped
                instead of its output. Default: False
            grad_kwargs (dict, optional): Passed to `torch.autograd.grad`.
            relu_attributions (bool): Whether the map of each point is rectified
                before it is added, as eq. 4 has it. Default: True
            attr_dim_summation (bool): Whether channels are summed. Default: True
            show_progress (bool): Whether a bar counts the points. Default: False

        Returns:
            *Tensor* of **maps**, (N, 1, \*layer spatial), in the layer's dtype and
            detached, or (N, K, \*layer spatial) without summation; a tuple where the
            layer gives several tensors, a list where `layer` is one.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, or its activations are not finite.
        """
        check_choice("method", method, RULES)
        alphas, weights = quadrature(method, check_count("n_steps", n_steps))
        if alphas[0] > 0:  # A(0) is needed by every rule
            alphas, weights = [0.0, *alphas], [0.0, *weights]
        evaluator, walks = self._walks(
            alphas,
            inputs,
            baselines,
            target,
            additional_forward_args,
            internal_batch_size,
            attribute_to_layer_input,
            grad_kwargs,
            show_progress,
        )
        results = []
        for walk in walks:
            # A(0) - A(0) = 0: under every rule the first point adds nothing.
            start = next(walk).activations
            maps: list[Tensor | float] = [0.0] * len(start)
            for weight, point in zip(weights[1:], walk, strict=True):
                for i, (a, a_start, g) in enumerate(
                    zip(point.activations, start, point.gradients, strict=True)
                ):
                    growth = (a - a_start).to(precise(a))  # (n, K, *spatial)
                    maps[i] += weight * combine(
                        total(g),  # (n, K, 1, ...)
                        growth,
                        relu=relu_attributions,
                        summation=attr_dim_summation,
                    )
            results.append(
                tuple(
                    torch.as_tensor(value).to(a.dtype)
                    for value, a in zip(maps, start, strict=True)
                )
            )
        return self._format_maps(evaluator, concatenate(results))
