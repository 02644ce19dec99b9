"""Riemann-Stieltjes integrated Grad-CAM."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from captum_cams._captum import BaselineType, TargetType, log_usage
from captum_cams._numerics import difference, precise
from captum_cams._validation import check_choice, check_flags
from captum_cams.attr._cam import Maps
from captum_cams.attr._path_cam import PathCamAttribution, PathRequest, checked_rule
from captum_cams.attr._pooling import combine, spatial_mean
from captum_cams.attr.integrands import (
    FinishedIntegral,
    Integrand,
    Pairs,
    PathInterval,
    completeness_error,
)
from captum_cams.attr.registry import register
from captum_cams.layer_eval import LayerEvaluation
from captum_cams.path import Path, straight_line
from captum_cams.quadrature import INTERVAL_RULES, IntervalRule

Weighting = Literal["signed", "positive", "selected", "positive_gradients"]
Deltas: TypeAlias = Tensor | list[Tensor]
WEIGHTINGS = ("signed", "positive", "selected", "positive_gradients")


class ConductanceIntegrand(Integrand):
    """
    The unit integrals I_kij of dy/dA_kij over dA_kij (eq. 17): conductance.

    Eq. 18 approximates them by a sum over the intervals of the path, which
    :meth:`Integrand.add` makes of :meth:`values_at_ends` and the rule's weights.
    """

    counts_completeness = True

    def values_at_ends(self, interval: PathInterval) -> Pairs:
        """A summand of eq. 18: the gradient at either end, times the growth of A."""
        return interval.contributions

    def initial_sums(self, first: LayerEvaluation) -> list[Tensor]:
        """Zeros, in single precision at least."""
        return [torch.zeros_like(a, dtype=precise(a)) for a in first.activations]

    def signed_maps(
        self, sums: Sequence[Tensor], last: LayerEvaluation
    ) -> list[Tensor]:
        """The map that is weighted by the mean of all units (eq. 19), unrectified."""
        return [
            combine(spatial_mean(units), A, relu=False, summation=True)
            for units, A in zip(sums, last.activations, strict=True)
        ]

    def maps(self, integral: FinishedIntegral) -> list[Tensor]:
        """The unit integrals themselves."""
        pairs = zip(integral.sums, integral.last.activations, strict=True)
        return [units.to(A.dtype) for units, A in pairs]

    def delta(self, integral: FinishedIntegral) -> list[Tensor]:
        """Eq. 14: the sum of all unit integrals less y(1) - y(0)."""
        return completeness_error(*integral)


class RSIGradCamIntegrand(ConductanceIntegrand):
    r"""
    The feature maps, weighted by their unit integrals (eq. 19-20 and 24).

    Args:
        relu_attributions (bool): As in :meth:`LayerRSIGradCam.attribute`.
            Default: True
        attr_dim_summation (bool): As there. Default: True
        weighting (str): As there. Default: ``signed``
    """

    def __init__(
        self,
        *,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        weighting: Weighting = "signed",
    ) -> None:
        check_choice("weighting", weighting, WEIGHTINGS)
        check_flags(
            relu_attributions=relu_attributions, attr_dim_summation=attr_dim_summation
        )
        self.weighting = weighting
        self.options = {"relu": relu_attributions, "summation": attr_dim_summation}
        # Integrals of rectified gradients do not add up to the output's growth.
        self.counts_completeness = weighting != "positive_gradients"

    def values_at_ends(self, interval: PathInterval) -> Pairs:
        """Gradient times growth of A, the gradient rectified where that is asked."""
        if self.weighting != "positive_gradients":
            return interval.contributions
        return [
            (g0.relu() * growth, g1.relu() * growth)
            for growth, g0, g1 in interval.growth_and_gradients()
        ]

    def maps(self, integral: FinishedIntegral) -> list[Tensor]:
        """Eq. 24: ReLU of the sum over k of w_k A^k(1)."""
        sums, first, last = integral
        maps = []
        for units, A0, A1 in zip(
            sums, first.activations, last.activations, strict=True
        ):
            w = spatial_mean(self._selected(units, A0, A1))  # (n, K, 1, ...), eq. 19
            maps.append(combine(w, A1, **self.options))
        return maps

    def _selected(self, units: Tensor, A0: Tensor, A1: Tensor) -> Tensor:
        """What each unit gives to the weight of its channel."""
        if self.weighting == "positive":  # eq. 20
            return units.relu()
        if self.weighting == "selected":  # section 4.1
            grew = difference(A1, A0) > 0
            return torch.where((A1 > 0) & (units > 0) & grew, units, 0)
        return units


@register(
    "rsi-grad-cam",
    colors={"baselines": "black"},
    several_layers=True,
    test_arguments={"n_steps": 3},
    axioms={
        "dummy",
        "symmetry",
        "linearity",
        "implementation_invariance",
        "input_invariance",
    },
    homogeneity=1,
)
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
    all that the output depends on passes through the layer; of what a
    `reshape_transform` drops, such as a class token, the part is missing.

    Differences from the paper:

    - The integral is approximated by the trapezoid rule, whose error falls with the
      square of `n_steps`. ``method="riemann_right"`` is eq. 18 as printed.
    - `tolerance`, and the rule ``logistic_trapezoid`` that comes with it, are this
      package's own.
    - Returned maps are not normalized, so that they can be compared.

    Channels are summed as eq. 24 says, where the authors' notebook takes their mean.

    Unlike Captum's LayerGradCam it rectifies maps by default, as the papers do
    (``relu_attributions=False`` keeps the signs).

    Axioms, each of them tested:

    - The unit integrals are complete in the limit of many steps; a unit that alone
      changes the output gets all of the change, one that the output does not depend on
      nothing, units that are alike to the output and in value the same; they are linear
      in the output, and do not depend on how it is computed from the layer, nor on the
      scale of a feature map. At a model's input they are its integrated gradients.
    - A map is linear in the output up to its ReLU, and scales with it. It is not
      complete; a weight is its channel's, and shows units too on which the output does
      not depend; and a feature map of twice the scale counts twice.
    - The weightings ``positive``, ``selected`` and ``positive_gradients`` are not
      linear, and the last is not complete. ``logistic_trapezoid`` is not linear and
      knows the scale of the output, as it takes it for a probability where the layer's
      gradients follow it as one.

    Source: M. Lucas, M. Lerma, J. Furst, D. Raicu, "RSI-Grad-CAM: Visual Explanations
    from Deep Networks via Riemann-Stieltjes Integrated Gradient-based Localization",
    2022, https://arxiv.org/abs/2205.10900

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it. The paper explains softmax outputs.
        layer (torch.nn.Module or list of torch.nn.Module): The layer whose
            activations are mapped, or several that share the points of one path. Of
            one that a pass uses more than once the last use counts, which brings a
            warning.
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
        >>> rsi = LayerRSIGradCam(model, model.block5)
        >>> maps = rsi.attribute(pictures.images, target=pictures.labels)
        >>> maps.shape
        torch.Size([2, 1, 4, 4])
        >>> LayerRSIGradCam.interpolate(maps, (128, 128), "bilinear").shape
        torch.Size([2, 1, 128, 128])
    """

    # fmt: off
    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        return_convergence_delta: Literal[False] = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        *, return_alphas: Literal[False] = ...,
        relu_attributions: bool = ..., attr_dim_summation: bool = ...,
        weighting: Weighting = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> Maps: ...

    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        *, return_convergence_delta: Literal[True],
        return_alphas: Literal[False] = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        relu_attributions: bool = ..., attr_dim_summation: bool = ...,
        weighting: Weighting = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> tuple[Maps, Deltas]: ...

    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        *, return_convergence_delta: Literal[False] = ...,
        return_alphas: Literal[True],
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        relu_attributions: bool = ..., attr_dim_summation: bool = ...,
        weighting: Weighting = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> tuple[Maps, list[Tensor]]: ...

    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        *, return_convergence_delta: Literal[True],
        return_alphas: Literal[True],
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        relu_attributions: bool = ..., attr_dim_summation: bool = ...,
        weighting: Weighting = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> tuple[Maps, Deltas, list[Tensor]]: ...
    # fmt: on
    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0913, PLR0917
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        method: IntervalRule | None = None,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        weighting: Weighting = "signed",
        tolerance: float | None = None,
        return_alphas: bool = False,
        path: Path = straight_line,
        show_progress: bool = False,
    ) -> Any:
        r"""
        Maps of the layer's activations, weighted by their unit integrals.

        Args:
            inputs (Tensor or tuple of Tensor): Examples to explain, N along the first
                axis, of a floating dtype.
            baselines (Tensor, number or tuple, optional): Where the path starts:
                tensors of the inputs' shapes, or with 1 in the first place, or
                numbers. Default: 0 (after a mean/std normalization that is not black)
            target (int, tuple, Tensor or list, optional): Index of the output to
                explain, one for all examples or one for each; tuples for outputs of
                more than two axes. Default: None, for one output an example
            additional_forward_args (Any, optional): Passed to `forward_func` behind
                the inputs. Tensors with N rows follow their examples.
            n_steps (int): The paper's m, the number of intervals; `n_steps` + 1
                points are evaluated, or at most so many with a `tolerance`.
                Default: 50
            method (str, optional): Where an interval's gradient is taken: at both
                ends, mean (``riemann_trapezoid``), at its end (``riemann_right``,
                eq. 18) or its start (``riemann_left``). ``logistic_trapezoid`` weighs
                both ends by the probabilities there, which is far better than the mean
                where the output is a probability; where the layer's gradients do not
                follow it, it takes the mean. Default: None, ``riemann_trapezoid``, or
                with a `tolerance` ``logistic_trapezoid``
            internal_batch_size (int, optional): Most points that go through the
                network together, at least 1. Default: None, chosen by device and
                input size; never all at once
            return_convergence_delta (bool): Whether the error of completeness is
                returned as well. Default: False
            attribute_to_layer_input (bool): Whether the layer's input is mapped
                instead of its output. Default: False
            grad_kwargs (dict, optional): Passed to `torch.autograd.grad`, but that
                ``allow_unused`` and ``materialize_grads`` stand for gradients of 0
                where a tensor of the layer has none, which is an error otherwise.
            relu_attributions (bool): Whether maps are rectified. Default: True
            attr_dim_summation (bool): Whether channels are summed. Default: True
            weighting (str): How unit integrals become weights: their mean
                (``signed``, eq. 19), the mean of the positive ones (``positive``,
                eq. 20), the mean over units that are active, grew and contributed
                (``selected``, section 4.1: A(1) > 0, A(1) - A(0) > 0, I > 0; the
                others count as 0), or the mean of integrals of rectified gradients
                (``positive_gradients``, the authors' notebook). Default: ``signed``
            tolerance (float, optional): Points are added where the path is rough, in
                each example, until the estimated error of its signed map, summed over
                the channels and rectified, is at most this share of it (in L1 norms),
                and no interval holds more than a third of the output's variation,
                which takes 4 intervals at least. What the unit integrals miss of the
                output's growth counts as an error, as far as finer steps change it.
                That is an estimate, no bound; on trained networks it is right within a
                factor of two in most cases. One warning tells how many examples miss
                it, and why; also of how many the unit integrals miss more of the
                output's growth than allowed, though finer steps do not change that:
                part of the output goes around the layer, or jumps. All points of the
                examples under way, as many as fill a batch, are held in memory.
                Default: None, `n_steps` equal intervals
            return_alphas (bool): Whether the points used are returned as well.
                Default: False
            path (Callable): From the baselines to the inputs, one of
                ``captum_cams.path`` or a function of your own: of inputs (B, \*shape),
                baselines (B, \*shape) and alphas (B,), a place in [0, 1] for each
                row, to points (B, \*shape). It is called for each tensor of a tuple,
                and checked to meet both ends. Default: ``straight_line``
            show_progress (bool): Whether a bar counts the points. Default: False

        Returns:
            *Tensor* of **maps**, (N, 1, \*layer spatial), in the layer's dtype and
            detached, or (N, K, \*layer spatial) without summation; a tuple where the
            layer gives several tensors, a list where `layer` is one. With
            `return_convergence_delta` a pair of that and **delta**, (N,): the sum of
            all unit integrals minus :math:`y(1) - y(0)`, which goes to 0 as `n_steps`
            grows (not for ``positive_gradients``); a list of one for each layer where
            `layer` is a list. With `return_alphas`, last, **alphas**, a list of N
            tensors: the places of each example's points in [0, 1], ascending.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, or its activations are not finite.
        """
        integrand = RSIGradCamIntegrand(
            relu_attributions=relu_attributions,
            attr_dim_summation=attr_dim_summation,
            weighting=weighting,
        )
        request = PathRequest(
            inputs=inputs,
            baselines=baselines,
            target=target,
            additional_forward_args=additional_forward_args,
            n_steps=n_steps,
            internal_batch_size=internal_batch_size,
            attribute_to_layer_input=attribute_to_layer_input,
            grad_kwargs=grad_kwargs,
            tolerance=tolerance,
            path=path,
            show_progress=show_progress,
        )
        extras = return_convergence_delta, return_alphas
        return self._answer(request, integrand, method, extras)

    # fmt: off
    @overload
    def conductance(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        return_convergence_delta: Literal[False] = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        *, return_alphas: Literal[False] = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> Maps: ...

    @overload
    def conductance(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        *, return_convergence_delta: Literal[True],
        return_alphas: Literal[False] = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> tuple[Maps, Deltas]: ...

    @overload
    def conductance(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        *, return_convergence_delta: Literal[False] = ...,
        return_alphas: Literal[True],
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> tuple[Maps, list[Tensor]]: ...

    @overload
    def conductance(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        *, return_convergence_delta: Literal[True],
        return_alphas: Literal[True],
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> tuple[Maps, Deltas, list[Tensor]]: ...
    # fmt: on
    def conductance(  # noqa: PLR0913, PLR0917
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        method: IntervalRule | None = None,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        tolerance: float | None = None,
        return_alphas: bool = False,
        path: Path = straight_line,
        show_progress: bool = False,
    ) -> Any:
        r"""
        The unit integrals :math:`I_{kij}` themselves (eq. 17-18).

        What each unit of the layer contributed along the path: the layer's
        conductance, as of Captum's LayerConductance, but by the trapezoid rule.

        Arguments are those of :meth:`attribute`. A `tolerance` is that of its map, of
        which single units may miss more.

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
        request = PathRequest(
            inputs=inputs,
            baselines=baselines,
            target=target,
            additional_forward_args=additional_forward_args,
            n_steps=n_steps,
            internal_batch_size=internal_batch_size,
            attribute_to_layer_input=attribute_to_layer_input,
            grad_kwargs=grad_kwargs,
            tolerance=tolerance,
            path=path,
            show_progress=show_progress,
        )
        extras = return_convergence_delta, return_alphas
        return self._answer(request, ConductanceIntegrand(), method, extras)

    def has_convergence_delta(self) -> bool:
        """True: completeness of the unit integrals (eq. 14) can be checked."""
        return True

    def _answer(
        self,
        request: PathRequest,
        integrand: Integrand,
        method: IntervalRule | None,
        extras: tuple[bool, bool],
    ) -> Any:
        """The integrand's maps; with the `extras` delta and alphas behind them."""
        with_delta, with_alphas = extras
        check_flags(return_convergence_delta=with_delta, return_alphas=with_alphas)
        rule = checked_rule(method, INTERVAL_RULES, request.tolerance)
        found = self._integrate(request, [integrand], rule)
        answers: list[Any] = [*found.maps]
        if with_delta:
            answers.append(self._format(found.deltas[0]))
        if with_alphas:
            answers.append(found.alphas)
        return tuple(answers) if len(answers) > 1 else answers[0]
