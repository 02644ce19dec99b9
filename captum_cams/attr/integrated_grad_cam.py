"""Integrated Grad-CAM."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, overload

from torch import Tensor

from captum_cams._captum import BaselineType, TargetType, log_usage
from captum_cams._numerics import precise
from captum_cams._validation import check_flags
from captum_cams.attr._cam import Maps
from captum_cams.attr._path_cam import PathCamAttribution, PathRequest, checked_rule
from captum_cams.attr._pooling import combine, spatial_sum
from captum_cams.attr.integrands import (
    FinishedIntegral,
    Integrand,
    Pairs,
    PathInterval,
)
from captum_cams.attr.registry import register
from captum_cams.layer_eval import LayerEvaluation
from captum_cams.path import Path, straight_line
from captum_cams.quadrature import RULES, IntervalRule, Rule, quadrature


class IntegratedGradCamIntegrand(Integrand):
    r"""
    A Grad-CAM-like map at each point, integrated over alpha (eq. 4-5).

    Args:
        relu_attributions (bool): As in :meth:`LayerIntegratedGradCam.attribute`.
            Default: True
        attr_dim_summation (bool): As there. Default: True
    """

    counts_completeness = True
    # Gradients of deep networks wander at random along the path. The weights of
    # RSI-Grad-CAM average that out over the units; maps of single points do not.
    noise_share = 1 / 3

    def __init__(
        self, *, relu_attributions: bool = True, attr_dim_summation: bool = True
    ) -> None:
        check_flags(
            relu_attributions=relu_attributions, attr_dim_summation=attr_dim_summation
        )
        self.options = {"relu": relu_attributions, "summation": attr_dim_summation}

    def at(self, point: LayerEvaluation, first: LayerEvaluation) -> list[Tensor]:
        r"""Eq. 4: one map for each tensor of the layer, (n, 1, \*spatial)."""
        return [
            # The gradient's sum over i and j, (n, K, 1, ...), times the growth of A.
            combine(spatial_sum(g), (A - A0).to(precise(A)), **self.options)
            for A, A0, g in zip(
                point.activations, first.activations, point.gradients, strict=True
            )
        ]

    def values_at_ends(self, interval: PathInterval) -> Pairs:
        """Eq. 4 at both ends, times the growth of alpha."""
        return self._pairs(interval, interval.start)

    def compared_values(self, interval: PathInterval, values: Pairs) -> Pairs:
        """
        The same, but for the path's first point.

        There A(0) - A(0) = 0 would agree with whatever comes: it is compared as if its
        feature maps were those of the interval's end already.
        """
        if interval.start_alpha > 0:
            return values
        moved = interval.end._replace(gradients=interval.start.gradients)
        return self._pairs(interval, moved)

    def _pairs(self, interval: PathInterval, start: LayerEvaluation) -> Pairs:
        width = interval.end_alpha - interval.start_alpha
        m0, m1 = (self.at(point, interval.first) for point in (start, interval.end))
        return [(width * a, width * b) for a, b in zip(m0, m1, strict=True)]

    def initial_sums(self, first: LayerEvaluation) -> list[Tensor]:
        """The map at the first point, which is 0."""
        return self.at(first, first)

    def signed_maps(
        self, sums: Sequence[Tensor], last: LayerEvaluation
    ) -> list[Tensor]:
        """The sums themselves."""
        return [*sums]

    def maps(self, integral: FinishedIntegral) -> list[Tensor]:
        """The sums in the layer's dtype."""
        return [
            map_.to(A.dtype)
            for map_, A in zip(integral.sums, integral.first.activations, strict=True)
        ]


class _NodeSum(IntegratedGradCamIntegrand):
    """The integral as a weighted sum over the nodes of a quadrature rule (eq. 6)."""

    def __init__(self, weights: Mapping[float, float], **options: bool) -> None:
        super().__init__(**options)
        self.weights = weights  # of each alpha that is a node

    def add(self, sums: Sequence[Tensor], interval: PathInterval) -> None:
        """Add the interval's end; at the path's first point the map is 0."""
        weight = self.weights[interval.end_alpha]
        maps = self.at(interval.end, interval.first)
        for integral, map_ in zip(sums, maps, strict=True):
            integral.add_(map_, alpha=weight)


@register(
    "integrated-grad-cam",
    colors={"baselines": "black"},
    several_layers=True,
    test_arguments={"n_steps": 3},
    axioms={
        "dummy",
        "symmetry",
        "linearity",
        "implementation_invariance",
        "input_invariance",
        "channel_scaling",
        "channel_mixing",
    },
    homogeneity=1,
)
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

    Differences from the paper: the integral is approximated by the trapezoid rule;
    ``method="riemann_right"`` is eq. 6.
    `tolerance`, and the rule ``logistic_trapezoid`` that comes with it, are this
    package's own. Returned maps are not normalized.

    Axioms, each of them tested: A map is linear in the output up to the ReLU, and
    scales with it; a channel that the output does not depend on gives nothing, and
    channels that are alike give the same. It depends neither on how the output is
    computed from the layer nor on how the layer's channels are scaled or mixed. Below
    a linear head, where the feature maps grow with :math:`\alpha^p`, it is Grad-CAM
    times Z / (p + 1). It is not complete. A unit that alone changes the output may get
    nothing, as gradients are summed over the feature map, where they cancel; it gets
    weight where the output grows with every unit of its channel. ``logistic_trapezoid``
    is neither linear nor blind to the output's scale.

    Source: S. Sattarzadeh, M. Sudhakar, K. N. Plataniotis, J. Jang, Y. Jeong, H. Kim,
    "Integrated Grad-CAM: Sensitivity-Aware Visual Explanation of Deep Convolutional
    Networks via Integrated Gradient-Based Scoring", ICASSP 2021,
    https://arxiv.org/abs/2102.07805

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it.
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
        >>> igc = LayerIntegratedGradCam(model, model.block4)
        >>> igc.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 8, 8])
    """

    # fmt: off
    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: Rule | IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        *, return_alphas: Literal[False] = ...,
        relu_attributions: bool = ..., attr_dim_summation: bool = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> Maps: ...

    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: Rule | IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        *, return_alphas: Literal[True],
        relu_attributions: bool = ..., attr_dim_summation: bool = ...,
        tolerance: float | None = ..., path: Path = ..., show_progress: bool = ...,
    ) -> tuple[Maps, list[Tensor]]: ...
    # fmt: on
    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0913, PLR0917
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        method: Rule | IntervalRule | None = None,
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        tolerance: float | None = None,
        return_alphas: bool = False,
        path: Path = straight_line,
        show_progress: bool = False,
    ) -> Any:
        r"""
        Maps of the layer's activations, integrated along the path.

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
            n_steps (int): The paper's m, the number of intervals, or the most of them
                with a `tolerance`. Default: 50
            method (str, optional): Quadrature rule: ``riemann_trapezoid``,
                ``riemann_left``, ``riemann_middle``, ``riemann_right`` (eq. 6),
                ``gausslegendre``, or ``logistic_trapezoid``, which weighs both ends
                of an interval by the probabilities there, and equally where the layer's
                gradients do not follow these. Default: None, ``riemann_trapezoid``, or
                with a `tolerance` ``logistic_trapezoid``
            internal_batch_size (int, optional): Most points that go through the
                network together, at least 1. Default: None, chosen by device and
                input size; never all at once
            attribute_to_layer_input (bool): Whether the layer's input is mapped
                instead of its output. Default: False
            grad_kwargs (dict, optional): Passed to `torch.autograd.grad`, but that
                ``allow_unused`` and ``materialize_grads`` stand for gradients of 0
                where a tensor of the layer has none, which is an error otherwise.
            relu_attributions (bool): Whether the map of each point is rectified
                before it is added, as eq. 4 has it. Default: True
            attr_dim_summation (bool): Whether channels are summed. Default: True
            tolerance (float, optional): Points are added where the path is rough, in
                each example, until the estimated error of its map is at most this
                share of it (in L1 norms), and no interval holds more than a third of
                the output's variation, which takes 4 intervals at least. That is an
                estimate, no bound: below the last block of trained networks errors
                come out twice as large. The layer's unit integrals (those of
                :class:`LayerRSIGradCam`) are made along with the map, and what they
                miss of the output's growth counts as an error, as far as finer steps
                change it. One warning tells how many examples miss it, and why; also of
                how many the unit integrals miss more of the output's growth than
                allowed, though finer steps do not change that: part of the output goes
                around the layer, or jumps. All points of the examples under way, as
                many as fill a batch, are held in memory. Default: None, `n_steps` equal
                intervals
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
            `return_alphas` a pair of that and **alphas**, a list of N tensors: the
            places of each example's points in [0, 1], ascending.

        Raises:
            ValueError, TypeError: If an argument does not fit; if the layer is not
                reached, or its activations are not finite.
        """
        rules: tuple[Rule | IntervalRule, ...] = (*RULES, "logistic_trapezoid")
        rule = checked_rule(method, rules, tolerance)
        check_flags(return_alphas=return_alphas)
        options = {
            "relu_attributions": relu_attributions,
            "attr_dim_summation": attr_dim_summation,
        }
        integrand, alphas = IntegratedGradCamIntegrand(**options), None
        if tolerance is None and rule != "logistic_trapezoid":
            alphas, weights = quadrature(rule, n_steps)
            integrand = _NodeSum(dict(zip(alphas, weights, strict=True)), **options)
            if alphas[0] > 0:  # A(0) is needed by every rule
                alphas = [0.0, *alphas]
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
        found = self._integrate(request, [integrand], cast(IntervalRule, rule), alphas)
        return (found.maps[0], found.alphas) if return_alphas else found.maps[0]
