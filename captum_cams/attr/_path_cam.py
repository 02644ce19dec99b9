"""The base of the methods that integrate along a path from baselines to inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from captum_cams._captum import BaselineType, TargetType
from captum_cams._numerics import difference, rounding
from captum_cams._validation import (
    check_baselines,
    check_callable,
    check_choice,
    check_count,
    check_flags,
    check_inputs,
    check_number,
)
from captum_cams.attr._cam import CamAttribution, Maps, concatenate
from captum_cams.attr._pooling import spatial_sum
from captum_cams.attr.integrands import (
    FinishedIntegral,
    Integrand,
    PathInterval,
    completeness_error,
)
from captum_cams.layer_eval import LayerEvaluation
from captum_cams.path import Path, checked, straight_line
from captum_cams.path_eval import LayerPath
from captum_cams.quadrature import IntervalRule
from captum_cams.refine import IntervalEstimate
from captum_cams.target_output import TargetOutput, rows_per_batch

R = TypeVar("R", bound=str)


@dataclass(frozen=True, kw_only=True)
class PathRequest:
    """What all path methods are asked, by the names that `attribute` has for it."""

    inputs: Tensor | tuple[Tensor, ...]
    baselines: BaselineType
    target: TargetType
    additional_forward_args: object
    n_steps: int
    internal_batch_size: int | None
    attribute_to_layer_input: bool
    grad_kwargs: dict[str, Any] | None
    tolerance: float | None
    path: Path
    show_progress: bool


class RunningIntegrals:
    """Integrals over the paths of n examples, summed up as their points come."""

    def __init__(self, integrands: Sequence[Integrand], rule: IntervalRule) -> None:
        self.integrands = integrands
        self.rule = rule
        self.sums: list[list[Tensor]] = []
        self.alpha = 0.0
        self.first: LayerEvaluation
        self.last: LayerEvaluation

    def add(self, alpha: float, point: LayerEvaluation) -> None:
        """Add the interval from the last point to the next one."""
        if not self.sums:
            self.first = point
            self.sums = [integrand.initial_sums(point) for integrand in self.integrands]
        else:
            interval = PathInterval(
                self.rule, self.first, self.alpha, self.last, alpha, point
            )
            for integrand, sums in zip(self.integrands, self.sums, strict=True):
                integrand.add(sums, interval)
        self.alpha, self.last = alpha, point

    def results(self) -> list[list[Tensor]]:
        """For each integrand its maps and, behind them, its deltas."""
        results = []
        for integrand, sums in zip(self.integrands, self.sums, strict=True):
            integral = FinishedIntegral(sums, self.first, self.last)
            maps = integrand.maps(integral)
            _check_maps(maps, self.last)
            results.append([*maps, *integrand.delta(integral)])
        return results


def estimate_interval(
    integrands: Sequence[Integrand], interval: PathInterval, last: LayerEvaluation
) -> IntervalEstimate:
    """
    An interval of one example's path, as a refinement takes it.

    Growth and gaps that may be mere rounding are 0.
    """
    contributions = interval.weighted(interval.contributions)
    units = [start + end for start, end in contributions]
    maps: list[Tensor] = []
    disagreements: list[Tensor] = []
    noise_shares: list[float] = []
    for integrand in integrands:
        values = integrand.values_at_ends(interval)
        shared = values is interval.contributions
        weighted = contributions if shared else interval.weighted(values)
        sums = units if shared else [start + end for start, end in weighted]
        maps += integrand.signed_maps(sums, last)
        compared = integrand.compared_values(interval, values)
        if compared is not values:
            weighted = interval.weighted(compared)
        differences = [end - start for start, end in weighted]
        disagreements += integrand.signed_maps(differences, last)
        noise_shares += [integrand.noise_share] * len(values)
    start, end = interval.start, interval.end
    gaps = _gaps(units, start, end)
    if not any(integrand.counts_completeness for integrand in integrands):
        gaps = torch.zeros_like(gaps)
    return IntervalEstimate(
        maps,
        disagreements,
        noise_shares,
        difference(end.outputs, start.outputs)[0],
        gaps,
        [
            torch.cat([spatial_sum(unit).flatten() for unit in layer])
            for layer in end.by_layer(units)
        ],
    )


def _check_maps(maps: object, layer: LayerEvaluation) -> None:
    """A map for each tensor of the layer, which integrands of users may miss."""
    tensors = maps if isinstance(maps, list) else []
    fits = len(tensors) == len(layer.activations)
    if not fits or not all(isinstance(map_, Tensor) for map_ in tensors):
        raise TypeError(
            "maps of an integrand must return a list of tensors, one for each of the "
            f"layer's, {len(layer.activations)}, got {type(maps).__name__}"
        )


def _gaps(
    units: Sequence[Tensor], start: LayerEvaluation, end: LayerEvaluation
) -> Tensor:
    """The completeness errors of one example, 0 where they may be rounding, (L,)."""
    gaps = torch.cat(completeness_error(units, start, end))  # (L,)
    sizes = torch.stack(
        [
            reduce(torch.add, [unit.abs().sum() for unit in layer])
            for layer in end.by_layer(units)
        ]
    )  # (L,)
    # What a gap is the difference of.
    largest = sizes + torch.maximum(start.outputs.abs(), end.outputs.abs())  # (L,)
    step = max(torch.finfo(t.dtype).eps for t in (end.outputs, *end.activations))
    noise = torch.maximum(rounding(largest), 2 * step * largest)
    return torch.where(gaps.abs() > noise, gaps, 0)


def checked_rule(method: R | None, rules: Sequence[R], tolerance: float | None) -> R:
    """The rule that `method` names, or that fits where it is None."""
    if tolerance is None:
        rule = "riemann_trapezoid" if method is None else method
        check_choice("method", rule, rules)
    else:
        rule = "logistic_trapezoid" if method is None else method
        refinable = ("logistic_trapezoid", "riemann_trapezoid")
        check_choice("method with a tolerance", rule, refinable)
    return cast(R, rule)


class PathAnswer(NamedTuple):
    """What came of a path, an entry for each integrand."""

    maps: list[Maps]
    deltas: list[list[Tensor]]  # for each layer, (N,)
    alphas: list[Tensor]  # for each example


class PathCamAttribution(CamAttribution):
    """Base of the methods that integrate along a path from a baseline to the input."""

    def _integrate(
        self,
        request: PathRequest,
        integrands: Sequence[Integrand],
        rule: IntervalRule,
        alphas: Sequence[float] | None = None,
    ) -> PathAnswer:
        """
        All integrals from the same points.

        Args:
            request (PathRequest): The arguments.
            integrands (sequence of Integrand): What is integrated.
            rule (str): How an interval's ends are weighted.
            alphas (sequence of float, optional): Points of all paths. Default: None,
                the ends of `n_steps` equal intervals
        """
        n_steps = check_count("n_steps", request.n_steps)
        tolerance = request.tolerance
        if tolerance is not None:
            tolerance = check_number(
                "tolerance",
                tolerance,
                "(0, inf)",
                expected="be finite and above 0",
                none="for equal steps",
            )
        layer_path = self._layer_path(request)
        evaluator = layer_path.evaluator

        def new_sum() -> RunningIntegrals:
            return RunningIntegrals(integrands, rule)

        def estimate(
            points: Mapping[float, LayerEvaluation], start: float, end: float
        ) -> IntervalEstimate:
            interval = PathInterval(
                rule, points[0.0], start, points[start], end, points[end]
            )
            return estimate_interval(integrands, interval, points[1.0])

        if tolerance is None:
            if alphas is None:
                alphas = [step / n_steps for step in range(n_steps + 1)]
            paths = layer_path.equal_steps(alphas, new_sum)
        else:
            paths = layer_path.refined(estimate, tolerance, n_steps, new_sum)
        found: dict[int, list[list[Tensor]]] = {}
        alphas_of: dict[int, Tensor] = {}
        for examples, used, integrals in paths:
            found[examples[0]] = integrals.results()
            alphas_of |= {example: torch.tensor(used) for example in examples}
            del integrals  # its tensors are not to wait for those of the next examples
        in_order = [found[first] for first in sorted(found)]
        maps, deltas = [], []
        for results in zip(*in_order, strict=True):  # of an integrand
            tensors = concatenate(results)
            number = sum(evaluator.sizes)
            maps.append(self._format_maps(evaluator, tensors[:number]))
            deltas.append([*tensors[number:]])
        evaluator.emit_warnings()
        return PathAnswer(
            maps, deltas, [alphas_of[example] for example in sorted(alphas_of)]
        )

    def _layer_path(self, request: PathRequest) -> LayerPath:
        """The layer along the path that is asked for."""
        check_callable("path", request.path, remedy="; captum_cams.path holds some")
        check_flags(show_progress=request.show_progress)
        inputs = check_inputs(request.inputs)
        baselines = check_baselines(request.baselines, inputs)
        evaluator = self._evaluator(
            TargetOutput(
                self.forward_func,
                inputs,
                request.target,
                request.additional_forward_args,
            ),
            request.attribute_to_layer_input,
            request.grad_kwargs,
        )
        batch_size = rows_per_batch(inputs, request.internal_batch_size)
        path = request.path
        if path is not straight_line:
            path = checked(path, inputs, baselines, batch_size)
        return LayerPath(
            evaluator, path, inputs, baselines, batch_size, request.show_progress
        )
