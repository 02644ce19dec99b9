"""Integrals along a path from baselines to inputs, and the base of their methods."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_cams._captum import BaselineType, TargetType
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
from captum_cams.attr._pooling import precise, total, unsqueezed
from captum_cams.layer_eval import Evaluation
from captum_cams.masks import difference, rounding
from captum_cams.path import Path, checked, straight_line
from captum_cams.path_eval import LayerPath
from captum_cams.quadrature import (
    IntervalRule,
    Rule,
    fitted_weights,
    interval_weights,
    quadrature,
)
from captum_cams.refine import Interval
from captum_cams.target_output import TargetOutput, rows_per_batch

Pairs = Sequence[tuple[Tensor, Tensor]]
"""A tensor at the start of an interval and one at its end, for each of the layer's."""


@dataclass(frozen=True)
class PathRequest:
    """What all path methods are asked, by the names that `attribute` has for it."""

    inputs: Tensor | tuple[Tensor, ...]
    baselines: BaselineType
    target: TargetType
    additional_forward_args: object
    n_steps: int
    method: Rule | IntervalRule | None
    internal_batch_size: int | None
    attribute_to_layer_input: bool
    grad_kwargs: dict[str, Any] | None
    tolerance: float | None
    path: Path
    show_progress: bool


@dataclass(frozen=True)
class PathInterval:
    """Two neighboring points of the paths of n examples."""

    rule: IntervalRule
    first: Evaluation
    start: float
    before: Evaluation
    end: float
    after: Evaluation

    @cached_property
    def contributions(self) -> Pairs:
        r"""
        Each unit's growth times its gradient, at the start and at the end.

        Weighted and summed, they are the interval's part of the unit integrals
        (RSI-Grad-CAM eq. 18). (n, K, \*spatial) each.
        """
        return [
            (g0 * growth, g1 * growth) for growth, g0, g1 in self.growth_and_gradients()
        ]

    def growth_and_gradients(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        r"""The growth of A and dy/dA at both ends, (n, K, \*spatial) each."""
        for a0, a1, g0, g1 in zip(
            self.before.activations,
            self.after.activations,
            self.before.gradients,
            self.after.gradients,
            strict=True,
        ):
            yield (a1 - a0).to(precise(a1)), g0, g1

    @cached_property
    def weights(self) -> Pairs:
        """The rule's weights of start and end, (n, 1, 1, ...), a pair a tensor."""
        outputs = self.before.outputs, self.after.outputs
        starts, ends = zip(*self.contributions, strict=True)
        pairs = []
        for start, end in zip(
            self.after.by_layer(starts), self.after.by_layer(ends), strict=True
        ):
            if self.rule == "logistic_trapezoid":
                w0, w1 = fitted_weights(
                    *outputs, _size_and_sum(start), _size_and_sum(end)
                )
            else:
                w0, w1 = interval_weights(self.rule, *outputs)
            pairs += [(unsqueezed(w0, unit), unsqueezed(w1, unit)) for unit in start]
        return pairs

    def weighted(self, pairs: Pairs) -> Pairs:
        """Values at start and end, times the rule's weights."""
        return [
            (w0 * v0, w1 * v1)
            for (w0, w1), (v0, v1) in zip(self.weights, pairs, strict=True)
        ]


def _size_and_sum(units: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """L1 norm and sum over all units of a layer, (n,) each."""
    flat = [unit.flatten(1) for unit in units]  # (n, units)
    sizes = [unit.abs().sum(1) for unit in flat]
    sums = [unit.sum(1) for unit in flat]
    return reduce(torch.add, sizes), reduce(torch.add, sums)


class Integral(NamedTuple):
    """An integral over the paths of n examples, one tensor for each of the layer's."""

    sums: Sequence[Tensor]
    first: Evaluation
    last: Evaluation


class Integrand(ABC):
    """What a method integrates along a path, by equal and by refined steps alike."""

    wandering: float = 0.0
    """Share of an interval's disagreement that no shorter interval dampens."""
    complete: bool = True
    """Whether the unit integrals that belong to it add up to the output's growth."""

    @abstractmethod
    def at_ends(self, interval: PathInterval) -> Pairs:
        """What an interval adds by the values at its start, and by those at its end."""

    @abstractmethod
    def zeros(self, first: Evaluation) -> list[Tensor]:
        """The integral over no interval."""

    @abstractmethod
    def signed_maps(self, sums: Sequence[Tensor], last: Evaluation) -> list[Tensor]:
        r"""The maps whose error a tolerance bounds, (n, 1, \*spatial) each."""

    @abstractmethod
    def maps(self, integral: Integral) -> list[Tensor]:
        """The method's maps, one for each tensor of the layer."""

    def add(self, sums: Sequence[Tensor], interval: PathInterval) -> None:
        """Add the part of an interval to an integral, in place."""
        for integral, (w0, w1), (v0, v1) in zip(
            sums, interval.weights, self.at_ends(interval), strict=True
        ):
            integral += torch.addcmul(w0 * v0, w1, v1)

    def compared(self, interval: PathInterval, ends: Pairs) -> Pairs:
        """The values at both ends whose disagreement tells how rough the path is."""
        return ends

    def delta(self, integral: Integral) -> list[Tensor]:
        """For each layer, by how much completeness is missed, (n,)."""
        return []


class PathIntegrals:
    """Integrals over the paths of n examples, summed up as the points come."""

    def __init__(self, integrands: Sequence[Integrand], rule: IntervalRule) -> None:
        self.integrands = integrands
        self.rule = rule
        self.sums: list[list[Tensor]] = []
        self.alpha = 0.0
        self.first: Evaluation
        self.last: Evaluation

    def add(self, alpha: float, point: Evaluation) -> None:
        """The next point, in ascending order."""
        if not self.sums:
            self.first = point
            self.sums = [integrand.zeros(point) for integrand in self.integrands]
        else:
            interval = PathInterval(
                self.rule, self.first, self.alpha, self.last, alpha, point
            )
            for integrand, sums in zip(self.integrands, self.sums, strict=True):
                integrand.add(sums, interval)
        self.alpha, self.last = alpha, point

    def results(self) -> list[list[Tensor]]:
        """For each integrand its maps and, behind them, its deltas."""
        integrals = [Integral(sums, self.first, self.last) for sums in self.sums]
        return [
            [*integrand.maps(integral), *integrand.delta(integral)]
            for integrand, integral in zip(self.integrands, integrals, strict=True)
        ]


def completeness_error(
    units: Sequence[Tensor], before: Evaluation, after: Evaluation
) -> list[Tensor]:
    """For each layer, what its unit integrals exceed the output's growth by, (n,)."""
    growth = after.outputs - before.outputs  # (n,)
    return [
        torch.stack([unit.flatten(1).sum(1) for unit in layer]).sum(0) - growth
        for layer in after.by_layer(units)
    ]


def estimate_interval(
    integrands: Sequence[Integrand], interval: PathInterval, last: Evaluation
) -> Interval:
    """
    An interval of one example's path, as a refinement takes it.

    Growth and gaps that may be mere rounding are 0.
    """
    of_units = interval.weighted(interval.contributions)
    units = [start + end for start, end in of_units]
    maps: list[Tensor] = []
    disagreements: list[Tensor] = []
    wandering: list[float] = []
    for integrand in integrands:
        ends = integrand.at_ends(interval)
        same = ends is interval.contributions
        weighted = of_units if same else interval.weighted(ends)
        sums = units if same else [start + end for start, end in weighted]
        maps += integrand.signed_maps(sums, last)
        compared = integrand.compared(interval, ends)
        if compared is not ends:
            weighted = interval.weighted(compared)
        differences = [end - start for start, end in weighted]
        disagreements += integrand.signed_maps(differences, last)
        wandering += [integrand.wandering] * len(ends)
    complete = any(integrand.complete for integrand in integrands)
    before, after = interval.before, interval.after
    gaps = _gaps(units, before, after)
    return Interval(
        maps,
        disagreements,
        wandering,
        difference(after.outputs, before.outputs)[0],
        gaps if complete else torch.zeros_like(gaps),
        [
            torch.cat([total(unit).flatten() for unit in layer])
            for layer in after.by_layer(units)
        ],
    )


def _gaps(units: Sequence[Tensor], before: Evaluation, after: Evaluation) -> Tensor:
    """The completeness errors of one example, 0 where they may be rounding, (L,)."""
    gaps = torch.cat(completeness_error(units, before, after))  # (L,)
    sizes = torch.stack(
        [
            reduce(torch.add, [unit.abs().sum() for unit in layer])
            for layer in after.by_layer(units)
        ]
    )  # (L,)
    # What a gap is the difference of.
    largest = sizes + torch.maximum(before.outputs.abs(), after.outputs.abs())  # (L,)
    step = max(torch.finfo(t.dtype).eps for t in (after.outputs, *after.activations))
    noise = torch.maximum(rounding(largest), 2 * step * largest)
    return torch.where(gaps.abs() > noise, gaps, 0)


def checked_rule(method: Any, rules: Sequence[str], tolerance: float | None) -> Any:
    """The rule that `method` names, or that fits where it is None."""
    if tolerance is None:
        method = "riemann_trapezoid" if method is None else method
        check_choice("method", method, rules)
    else:
        method = "logistic_trapezoid" if method is None else method
        refinable = ("logistic_trapezoid", "riemann_trapezoid")
        check_choice("method with a tolerance", method, refinable)
    return method


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
            request (PathRequest): The arguments; its `method` is not looked at.
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

        def new_sum() -> PathIntegrals:
            return PathIntegrals(integrands, rule)

        def estimate(
            points: Mapping[float, Evaluation], start: float, end: float
        ) -> Interval:
            first, last, before, after = map(points.__getitem__, (0.0, 1.0, start, end))
            interval = PathInterval(rule, first, start, before, end, after)
            return estimate_interval(integrands, interval, last)

        if tolerance is None:
            if alphas is None:
                alphas, _ = quadrature("riemann_trapezoid", n_steps)
            paths = layer_path.equal_steps(alphas, new_sum)
        else:
            paths = layer_path.refined(estimate, tolerance, n_steps, new_sum)
        found: dict[int, list[list[Tensor]]] = {}
        places: dict[int, Tensor] = {}
        for examples, used, integrals in paths:
            found[examples[0]] = integrals.results()
            places |= {example: torch.tensor(used) for example in examples}
            del integrals  # its tensors are not to wait for those of the next examples
        in_order = [found[first] for first in sorted(found)]
        maps, deltas = [], []
        for results in zip(*in_order, strict=True):  # of an integrand
            tensors = concatenate(results)
            number = sum(evaluator.sizes)
            maps.append(self._format_maps(evaluator, tensors[:number]))
            deltas.append([*tensors[number:]])
        evaluator.emit_warnings()
        return PathAnswer(maps, deltas, [places[example] for example in sorted(places)])

    def _layer_path(self, request: PathRequest) -> LayerPath:
        """The layer along the path that is asked for."""
        check_callable("path", request.path, remedy="; captum_cams.path holds some")
        check_flags(show_progress=request.show_progress)
        ends = check_inputs(request.inputs)
        starts = check_baselines(request.baselines, ends)
        evaluator = self._evaluator(
            TargetOutput(
                self.forward_func,
                ends,
                request.target,
                request.additional_forward_args,
            ),
            request.attribute_to_layer_input,
            request.grad_kwargs,
        )
        batch_size = rows_per_batch(ends, request.internal_batch_size)
        path = request.path
        if path is not straight_line:
            path = checked(path, ends, starts, batch_size)
        return LayerPath(
            evaluator, path, ends, starts, batch_size, request.show_progress
        )
