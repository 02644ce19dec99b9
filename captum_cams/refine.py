"""
Points along a path where they are needed, until a tolerance is met.

Knows no model: what a point is and what lies between two of them is the caller's.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from captum_cams._validation import warn

# Of an example's intervals those are halved together whose indicator is at least this
# share of the largest: fewer, fuller batches for hardly more points.
_SHARE = 0.5
# No interval may hold more of the output's variation: two flat ends of a saturated
# network agree, whatever lies between them.
_STEEPEST = 1 / 3
# Share of what halving changed that the worst interval is taken to miss still: with a
# kink inside it may be all, without one it is far less.
_KINK = 1 / 2
# If a half has more than this share of its interval's gap, the gap counts as an error:
# it does not spread, as one does that goes around the layer.
_ONE_SIDED = 3 / 4
# A gap counts as an error up to this many times what the last halving changed of it.
_MENDABLE = 4


class IntervalEstimate(NamedTuple):
    """What lies between two neighboring points, as an error estimate takes it."""

    maps: Sequence[Tensor]  # what it adds to each map, (1, 1, *spatial)
    disagreements: Sequence[Tensor]  # what its end adds more than its start
    noise_share: Sequence[float]  # for each map, see `RefinedPath`
    growth: Tensor  # of the output, ()
    gaps: Tensor  # what each layer's unit integrals exceed it by, (L,)
    totals: Sequence[Tensor]  # a layer's unit integrals, summed a channel, (K,)


Point = Any
Pair = tuple[float, float]  # alphas of neighboring points
Evaluate = Callable[[Tensor, Tensor], list[Point]]
EstimateInterval = Callable[[dict[float, Point], float, float], IntervalEstimate]


class _Summary(NamedTuple):
    """Scalar summary of an interval, beside the tensors that are summed up."""

    maps: Sequence[Tensor]
    totals: Sequence[Tensor]
    width: float
    disagreements: list[float]  # L1 norm, for each map
    noise_share: Sequence[float]  # for each map
    growth: float
    gaps: list[float]  # for each layer
    changed: list[float]  # by the halving that made it, at most its disagreement
    open_gaps: list[float]  # the part of the gaps that counts as an error

    def rough(self, i: int) -> float:
        """What it misses of a map."""
        return math.sqrt(self.width) * self.disagreements[i]


class RefinedPath:
    """
    The path of one example, refined where it is rough.

    Three kinds of evidence are taken for errors, independent errors of intervals adding
    up in squares. `error` is the largest of them relative to the map, or to the weights
    of the channels, in L1 norms: an estimate, no bound.

    - Roughness. What an interval adds to a map differs by D between the rules that go
      by its start and by its end alone. The mean of both misses a share of D that falls
      with the interval's length h where the integrand is smooth, and is constant where
      it wanders at random, as gradients of deep networks do. Half-way between,
      sqrt(h) |D| is taken; and `noise_share` |D| at least, for maps of single points,
      whose noise no mean over units dampens.
    - Kinks. An interval with a kink in it may miss all of D, and the halving that made
      it then changed the map as much. So the worst interval misses half of the smaller
      of both at least.
    - Gaps. What the unit integrals of a layer exceed the output's growth by is an error
      of theirs, and so much at least is missing in the weights of the channels. It is
      none where part of the output goes around the layer: halving an interval divides
      such a gap among both halves and leaves its sum alone. So a gap counts as far as
      the halving changed it, or where it is on one side only.

    `lost` is the whole path's gap, counted or not. The path is `resolved` where no
    interval holds too much of the output's variation.
    """

    def __init__(
        self, example: int, tolerance: float, n_steps: int, shortest: float
    ) -> None:
        self.example = example
        self.tolerance = tolerance
        self.n_steps = n_steps
        self.shortest = shortest
        self.points: dict[float, Point] = {}
        self.wanted = [0.0, 0.5, 1.0] if n_steps > 1 else [0.0, 1.0]
        self.error = math.inf
        self.lost = 0.0
        self.resolved = False
        self._intervals: dict[Pair, _Summary] = {}

    @property
    def exhausted(self) -> bool:
        """Whether all intervals were used."""
        return len(self.points) > self.n_steps

    @property
    def alphas(self) -> list[float]:
        """Of the points, ascending."""
        return sorted(self.points)

    def update(self, estimate: EstimateInterval) -> None:
        """Takes the points that came in into account, and says which are `wanted`."""
        if not self._intervals:
            self._intervals = {(0.0, 1.0): self._summarize(estimate, 0.0, 1.0)}
        for pair in [*self._intervals]:
            if sum(pair) / 2 in self.points:
                self._halve(estimate, pair)
        intervals = list(self._intervals.values())
        norms = [_norm(map_) for map_ in _sums(interval.maps for interval in intervals)]
        weights = [
            totals.abs().sum().item()
            for totals in _sums(interval.totals for interval in intervals)
        ]
        variation = sum(interval.growth for interval in intervals)
        steep = [
            pair
            for pair, interval in self._intervals.items()
            if interval.growth > _STEEPEST * variation
        ]
        long = [pair for pair in self._intervals if pair[1] - pair[0] > self.shortest]
        final = [self._intervals[pair] for pair in self._intervals.keys() - long]
        self.error = max(
            _error(intervals, norms),
            # No halving closes the gaps of the shortest intervals: these are lost.
            _error_of_gaps([self._intervals[pair] for pair in long], weights),
        )
        self.lost = max(
            (
                abs(sum(gaps)) / weight
                for weight, *gaps in zip(
                    weights, *(interval.gaps for interval in intervals), strict=True
                )
                if weight > 0
            ),
            default=0.0,
        )
        self.resolved = not steep
        if _error(final, norms) > self.tolerance:
            chosen = []  # no other interval can make up for these
        elif self.error <= self.tolerance:
            chosen = [pair for pair in long if pair in steep]
        else:
            chosen = self._roughest(long, norms, variation)
        middles = [(start + end) / 2 for start, end in chosen]
        self.wanted = middles[: self.n_steps + 1 - len(self.points)]

    def _roughest(
        self, pairs: Sequence[Pair], norms: Sequence[float], variation: float
    ) -> list[Pair]:
        """Those of some intervals that are to be halved next, the worst first."""
        indicators = {
            pair: max(
                _ratio(max(interval.rough(i), _KINK * interval.changed[i]), norm)
                for i, norm in enumerate(norms)
            )
            + _ratio(max(map(abs, interval.open_gaps)), variation)
            for pair, interval in self._intervals.items()
            if pair in pairs
        }
        least = _SHARE * max(indicators.values(), default=0)
        ordered = sorted(pairs, key=indicators.__getitem__, reverse=True)
        return [pair for pair in ordered if indicators[pair] >= least]

    def _halve(self, estimate: EstimateInterval, pair: Pair) -> None:
        """Puts its halves in the place of an interval."""
        whole, middle = self._intervals.pop(pair), sum(pair) / 2
        halves = [(pair[0], middle), (middle, pair[1])]
        first, second = (self._summarize(estimate, *half) for half in halves)
        changes = torch.stack(
            [
                (before - one - two).abs().sum()
                for before, one, two in zip(
                    whole.maps, first.maps, second.maps, strict=True
                )
            ]
        ).tolist()
        for half, interval in zip(halves, (first, second), strict=True):
            open_gaps = [
                _open_gap(gap, before, one + two)
                for gap, before, one, two in zip(
                    interval.gaps, whole.gaps, first.gaps, second.gaps, strict=True
                )
            ]
            changed = [
                min(pair) for pair in zip(interval.disagreements, changes, strict=True)
            ]
            self._intervals[half] = interval._replace(
                changed=changed, open_gaps=open_gaps
            )

    def _summarize(
        self, estimate: EstimateInterval, start: float, end: float
    ) -> _Summary:
        """An interval by itself, as if nothing was known of the one around it."""
        interval = estimate(self.points, start, end)
        # One transfer from the device for all numbers of an interval.
        growth, *numbers = torch.stack(
            [
                interval.growth.abs(),
                *interval.gaps,
                *(difference.abs().sum() for difference in interval.disagreements),
            ]
        ).tolist()
        gaps = numbers[: len(interval.gaps)]
        norms = numbers[len(interval.gaps) :]
        return _Summary(
            interval.maps,
            interval.totals,
            end - start,
            disagreements=norms,
            noise_share=interval.noise_share,
            growth=growth,
            gaps=gaps,
            changed=norms,
            open_gaps=gaps,
        )


def _open_gap(gap: float, before: float, after: float) -> float:
    """
    The part of an interval's gap that may be a quadrature error.

    Args:
        gap (float): What the unit integrals exceed the output's growth by.
        before (float): That of the interval around it, before it was halved.
        after (float): That of both halves.
    """
    if abs(gap) > _ONE_SIDED * abs(before):
        return gap
    return math.copysign(min(abs(gap), _MENDABLE * abs(after - before)), gap)


def _error(intervals: Sequence[_Summary], norms: Sequence[float]) -> float:
    """What intervals are estimated to miss of a map, of the worst of the maps."""
    errors = [0.0]
    for i, norm in enumerate(norms):
        rough = math.hypot(*(interval.rough(i) for interval in intervals))
        wander = math.hypot(
            *(interval.noise_share[i] * interval.changed[i] for interval in intervals)
        )
        kink = _KINK * max((interval.changed[i] for interval in intervals), default=0.0)
        errors.append(_ratio(max(rough, wander, kink), norm))
    return max(errors)


def _error_of_gaps(intervals: Sequence[_Summary], weights: Sequence[float]) -> float:
    """What gaps say that intervals miss of the weights, of the worst of the layers."""
    errors = [0.0]
    for i, weight in enumerate(weights):
        gaps = [interval.open_gaps[i] for interval in intervals]
        errors.append(_ratio(max(math.hypot(*gaps), abs(sum(gaps))), weight))
    return max(errors)


def _sums(parts: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Sums over all intervals, of each of their tensors."""
    return [torch.stack(tensors).sum(0) for tensors in zip(*parts, strict=True)]


def _ratio(value: float, whole: float) -> float:
    if value == 0:
        return 0.0
    return value / whole if whole > 0 else math.inf


def _norm(map_: Tensor) -> float:
    """L1 norm of the rectified map, or of the signed one where nothing is left."""
    return map_.relu().sum().item() or map_.abs().sum().item()


def refine(
    evaluate: Evaluate,
    estimate: EstimateInterval,
    num_examples: int,
    *,
    tolerance: float,
    n_steps: int,
    batch_size: int,
    shortest: float,
    show_progress: bool = False,
) -> Iterator[RefinedPath]:
    """
    Refined paths of all examples, as they are finished.

    As many examples are under way as fill a batch; a round halves the roughest
    intervals of all of them. What an example gets does not depend on the others.

    Args:
        evaluate (Callable): A point for each of some rows, given their alphas (B,)
            and their examples (B,).
        estimate (Callable): What lies in an interval, given an example's points by
            their alphas, and the alphas of the interval's ends.
        num_examples (int): N.
        tolerance (float): Largest `error` that ends an example's refinement.
        n_steps (int): Most intervals of an example.
        batch_size (int): Points that go through the network together.
        shortest (float): Intervals of this length or less are not halved.
        show_progress (bool): Whether a bar counts the points.

    Yields:
        *RefinedPath*, an example at a time, in no order.

    Warns:
        UserWarning: At the end, if the tolerance was not met for an example.
    """
    waiting = iter(range(num_examples))
    under_way: list[RefinedPath] = []
    missed: list[tuple[float, bool]] = []
    hidden: list[bool] = []
    lost: list[float] = []
    with tqdm(disable=not show_progress, unit="point") as bar:
        while True:
            under_way += [
                RefinedPath(example, tolerance, n_steps, shortest)
                for example in islice(waiting, batch_size - len(under_way))
            ]
            if not under_way:
                break
            _evaluate_wanted(evaluate, under_way, batch_size, bar)
            for path in under_way:
                path.update(estimate)
            finished = [path for path in under_way if not path.wanted]
            under_way = [path for path in under_way if path.wanted]
            for path in finished:
                if path.error > tolerance:
                    missed.append((path.error, path.exhausted))
                elif not path.resolved:
                    hidden.append(path.exhausted)
                elif path.lost > tolerance:
                    lost.append(path.lost)
            while finished:
                yield finished.pop()  # its points need not wait for the others'
    _warn_of_misses(tolerance, n_steps, num_examples, missed, hidden, lost)


def _warn_of_misses(
    tolerance: float,
    n_steps: int,
    num_examples: int,
    missed: Sequence[tuple[float, bool]],
    hidden: Sequence[bool],
    lost: Sequence[float],
) -> None:
    """
    Warn, once, of examples whose maps may be worse than asked for.

    Args:
        tolerance (float): What was asked for.
        n_steps (int): Most intervals of an example.
        num_examples (int): N.
        missed (sequence of tuple): Estimated errors above the tolerance, and whether
            all intervals were used.
        hidden (sequence of bool): The latter of examples that are not resolved.
        lost (sequence of float): What unit integrals miss of the output's growth, in
            shares of the weights, though nothing else is rough.
    """
    reasons = []
    if missed:
        errors, spent = zip(*missed, strict=True)
        more = "more n_steps or " if any(spent) else ""
        reasons.append(
            f"was not met within n_steps = {n_steps} intervals for {len(missed)} of "
            f"{num_examples} examples, whose estimated errors go up to "
            f"{max(errors):.2g}: allow {more}a larger tolerance"
        )
    if hidden:
        remedy = (
            "allow more n_steps"
            if any(hidden)
            else "explain an output that does not jump, which gradients cannot show"
        )
        reasons.append(
            f"is not sure to be met within n_steps = {n_steps} intervals for "
            f"{len(hidden)} of {num_examples} examples, where more than a third of the "
            f"output's changes lie in one interval: {remedy}"
        )
    if lost:
        reasons.append(
            f"is not sure to be met for {len(lost)} of {num_examples} examples, where "
            "the unit integrals add up to something else than the output's growth (by "
            f"up to {max(lost):.2g} of their size) and finer steps do not change that: "
            "ignore it if the output also depends on the inputs by a way around the "
            "layer; otherwise the output changes where gradients do not show it"
        )
    if reasons:
        warn(f"tolerance {tolerance} {'; it '.join(reasons)}")


def _evaluate_wanted(
    evaluate: Evaluate, paths: Sequence[RefinedPath], batch_size: int, bar: Any
) -> None:
    """Evaluate the points that the paths want, and give each to its path."""
    wanted = [(alpha, path) for path in paths for alpha in path.wanted]
    for first in range(0, len(wanted), batch_size):
        batch = wanted[first : first + batch_size]
        alphas = torch.tensor([alpha for alpha, _ in batch], dtype=torch.float64)
        examples = torch.tensor([path.example for _, path in batch])
        points = evaluate(alphas, examples)
        for (alpha, path), point in zip(batch, points, strict=True):
            path.points[alpha] = point
        bar.update(len(batch))
