"""Riemann-Stieltjes integrated Grad-CAM."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from captum_cams._captum import BaselineType, TargetType, log_usage
from captum_cams._checks import check_choice, check_count
from captum_cams.attr._cam import (
    PathCamAttribution,
    combine,
    concatenate,
    pool,
    precise,
)
from captum_cams.layer_eval import Evaluation, LayerEvaluator
from captum_cams.path import quadrature

Method = Literal["riemann_trapezoid", "riemann_left", "riemann_right"]
METHODS = ("riemann_trapezoid", "riemann_left", "riemann_right")

Weighting = Literal["signed", "positive", "selected", "positive_gradients"]
WEIGHTINGS = ("signed", "positive", "selected", "positive_gradients")


class _Integral(NamedTuple):
    """A walk summed up, one tensor for each tensor of the layer."""

    units: tuple[Tensor, ...]  # I, (n, K, *spatial)
    start: tuple[Tensor, ...]  # A(0)
    end: tuple[Tensor, ...]  # A(1)
    rise: Tensor  # y(1) - y(0), (n,)

    def tensors(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return zip(self.units, self.start, self.end, strict=True)


class LayerRSIGradCam(PathCamAttribution):
    r"""
    Riemann-Stieltjes integrated Grad-CAM.

    Grad-CAM weighs each feature map by its mean gradient at the input, which vanishes
    where the network is saturated. RSI-Grad-CAM weighs it by what its units
    contributed to the output on the way from a baseline :math:`x'` to the input
    :math:`x`: with :math:`\gamma(\alpha) = x' + \alpha (x - x')`, :math:`A^k(\alpha)`
    the feature map and :math:`y(\alpha)` the target output at :math:`\gamma(\alpha)`,

    .. math::
        I_{kij} = \int_0^1 \frac{\partial y}{\partial A_{kij}} \, dA_{kij}(\alpha),
        \qquad w_k = \frac{1}{Z} \sum_{ij} I_{kij},
        \qquad \mathrm{map} = \mathrm{ReLU} \sum_k w_k A^k(1),

    a Riemann-Stieltjes integral (eq. 17-19 and 24). The unit integrals
    :math:`I` (see :meth:`conductance`) add up to :math:`y(1) - y(0)` (eq. 14) where
    all that the output depends on passes through the layer.

    Where this class leaves the paper, and the switch that undoes it:

    - The integral is approximated by the trapezoid rule, whose error falls with the
      square of `n_steps`. ``method="riemann_right"`` is eq. 18 as printed.
    - Sums over channels as eq. 24 says, where the authors' notebook takes means.
    - Returned maps are not normalised, so that they can be compared.

    Unlike Captum's LayerGradCam it rectifies maps by default, as the papers do
    (``relu_attributions=False`` keeps the signs).

    Source: M. Lucas, M. Lerma, J. Furst, D. Raicu, "RSI-Grad-CAM: Visual Explanations
    from Deep Networks via Riemann-Stieltjes Integrated Gradient-based Localization",
    2022, https://arxiv.org/abs/2205.10900

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it. The paper explains softmax outputs.
        layer (torch.nn.Module or list of torch.nn.Module): The layer whose
            activations are mapped, or several that share one walk along the path.
        device_ids (list of int, optional): Needed only where `forward_func` applies a
            `DataParallel` model without being one itself.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> rsi = LayerRSIGradCam(model, model.block5)
        >>> maps = rsi.attribute(pictures.images, target=pictures.labels)
        >>> maps.shape
        torch.Size([2, 1, 4, 4])
        >>> LayerRSIGradCam.interpolate(maps, (128, 128), "bilinear").shape
        torch.Size([2, 1, 128, 128])
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        method: Method = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        weighting: Weighting = "signed",
        show_progress: bool = False,
    ) -> Any:
        r"""
        Maps of the layer's activations, weighted by their unit integrals.

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
            n_steps (int): The paper's m, the number of intervals; `n_steps` + 1
                points are evaluated. Default: 50
            method (str): Where an interval's gradient is taken: at both ends, mean
                (``riemann_trapezoid``), at its end (``riemann_right``, eq. 18) or its
                start (``riemann_left``). Default: ``riemann_trapezoid``
            internal_batch_size (int, optional): Most points that go through the
                network together, at least 1. Default: None, chosen by device and
                input size; never all at once
            return_convergence_delta (bool): Whether the error of completeness is
                returned as well. Default: False
            attribute_to_layer_input (bool): Whether the layer's input is mapped
                instead of its output. Default: False
            grad_kwargs (dict, optional): Passed to `torch.autograd.grad`.
            relu_attributions (bool): Whether maps are rectified. Default: True
            attr_dim_summation (bool): Whether channels are summed. Default: True
            weighting (str): How unit integrals become weights: their mean
                (``signed``, eq. 19), the mean of the positive ones (``positive``,
                eq. 20), the mean over units that are active, grew and contributed
                (``selected``, section 4.1: A(1) > 0, A(1) - A(0) > 0, I > 0; the
                others count as 0), or the mean of integrals of rectified gradients
                (``positive_gradients``, the authors' notebook). Default: ``signed``
            show_progress (bool): Whether a bar counts the points. Default: False

        Returns:
            *Tensor* of **maps**, (N, 1, \*layer spatial), in the layer's dtype and
            detached, or (N, K, \*layer spatial) without summation; a tuple where the
            layer gives several tensors, a list where `layer` is one. With
            `return_convergence_delta` a pair of that and **delta**, (N,): the sum of
            all unit integrals minus :math:`y(1) - y(0)`, which goes to 0 as `n_steps`
            grows (not for ``positive_gradients``).

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, or its activations are not finite.
        """
        check_choice("weighting", weighting, WEIGHTINGS)
        evaluator, walks = self._rsi_walks(
            inputs,
            baselines,
            target,
            additional_forward_args,
            n_steps,
            method,
            internal_batch_size,
            attribute_to_layer_input,
            grad_kwargs,
            show_progress,
        )
        results = []
        for walk in walks:
            integral = _integrate(walk, method, weighting == "positive_gradients")
            maps = [
                combine(
                    pool(_weigh(units, start, end, weighting)),  # w, (n, K, 1, ...)
                    end,
                    relu=relu_attributions,
                    summation=attr_dim_summation,
                )
                for units, start, end in integral.tensors()
            ]
            results.append((*maps, *_deltas(evaluator, integral)))
        return self._result(evaluator, results, return_convergence_delta)

    def conductance(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        method: Method = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        show_progress: bool = False,
    ) -> Any:
        r"""
        The unit integrals :math:`I_{kij}` themselves (eq. 17-18).

        What each unit of the layer contributed along the path: the layer's
        conductance, as of Captum's LayerConductance, but by the trapezoid rule.

        Arguments are those of :meth:`attribute`.

        Returns:
            *Tensor* of **unit integrals** in the layer's shape, (N, K,
            \*layer spatial), in units of the output; a tuple or list and **delta** as
            in :meth:`attribute`.

        Examples::

            >>> from captum_cams.examples import shape_pictures, shapes_model
            >>> model, pictures = shapes_model(), shape_pictures(2)
            >>> rsi = LayerRSIGradCam(model, model.block5)
            >>> units, delta = rsi.conductance(
            ...     pictures.images,
            ...     target=pictures.labels,
            ...     return_convergence_delta=True,
            ... )
            >>> bool((delta.abs() < 0.05).all())
            True
        """
        evaluator, walks = self._rsi_walks(
            inputs,
            baselines,
            target,
            additional_forward_args,
            n_steps,
            method,
            internal_batch_size,
            attribute_to_layer_input,
            grad_kwargs,
            show_progress,
        )
        results = []
        for walk in walks:
            integral = _integrate(walk, method)
            units = [
                units.to(end.dtype)
                for units, end in zip(integral.units, integral.end, strict=True)
            ]
            results.append((*units, *_deltas(evaluator, integral)))
        return self._result(evaluator, results, return_convergence_delta)

    def has_convergence_delta(self) -> bool:
        """True: completeness of the unit integrals (eq. 14) can be checked."""
        return True

    def _rsi_walks(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType,
        target: TargetType,
        additional_forward_args: object,
        n_steps: int,
        method: Method,
        *rest: Any,
    ) -> tuple[LayerEvaluator, Iterator[Iterator[Evaluation]]]:
        check_choice("method", method, METHODS)
        alphas, _ = quadrature("riemann_trapezoid", check_count("n_steps", n_steps))
        return self._walks(
            alphas, inputs, baselines, target, additional_forward_args, *rest
        )

    def _result(
        self,
        evaluator: LayerEvaluator,
        results: list[tuple[Tensor, ...]],
        return_convergence_delta: bool,
    ) -> Any:
        values, layers = concatenate(results), len(evaluator.layers)
        maps = self._format_maps(evaluator, values[:-layers])
        if return_convergence_delta:
            return maps, self._format(values[-layers:])
        return maps


def _integrate(
    walk: Iterator[Evaluation], method: Method, positive_gradients: bool = False
) -> _Integral:
    """Eq. 18: the sum over a walk's intervals of gradient times growth of A."""
    start = previous = next(walk)
    units = tuple(
        torch.zeros_like(activations, dtype=precise(activations))
        for activations in start.activations
    )
    for point in walk:
        for integral, a, a_before, g, g_before in zip(
            units,
            point.activations,
            previous.activations,
            point.gradients,
            previous.gradients,
            strict=True,
        ):
            if positive_gradients:
                g, g_before = g.relu(), g_before.relu()
            if method == "riemann_trapezoid":
                integral.addcmul_(g + g_before, a - a_before, value=0.5)
            elif method == "riemann_right":
                integral.addcmul_(g, a - a_before)
            else:
                integral.addcmul_(g_before, a - a_before)
        previous = point
    return _Integral(
        units,
        start.activations,
        previous.activations,
        previous.outputs - start.outputs,
    )


def _weigh(units: Tensor, start: Tensor, end: Tensor, weighting: Weighting) -> Tensor:
    """What each unit gives to the weight of its channel."""
    if weighting == "positive":
        return units.relu()
    if weighting == "selected":
        return torch.where((end > 0) & (units > 0) & (end > start), units, 0)
    return units


def _deltas(evaluator: LayerEvaluator, integral: _Integral) -> list[Tensor]:
    """For each layer, what its unit integrals miss of the output's rise, (n,)."""
    return [
        sum(units.flatten(1).sum(1) for units in layer) - integral.rise
        for layer in evaluator.by_layer(integral.units)
    ]
