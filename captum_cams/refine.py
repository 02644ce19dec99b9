"""
Points along a path where they are needed, until a tolerance is met.

Knows no model: what a point is and what lies between two of them is the caller's.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from captum_cams._checks import warn

# Neighbours whose disagreement is this close to an example's largest are halved with
# it: fewer, fuller batches for hardly more points.
_SHARE = 0.5
# No interval may hold more of the output's variation: two flat ends of a saturated
# network agree, whatever lies between them.
_STEEPEST = 1 / 3


class Interval(NamedTuple):
    """What a method makes of the stretch between two neighbouring points."""

    maps: tuple[Tensor, ...]  # what it adds to each map, (1, 1, *spatial)
    disagreements: tuple[Tensor, ...]  # what its end adds more than its start
    growth: Tensor  # of the output, ()
    gap: Tensor  # what the unit integrals miss of it, ()


Point = Any
Pair = tuple[float, float]  # places of neighbouring points
Evaluate = Callable[[Tensor, Tensor], list[Point]]
Sketch = Callable[[dict[float, Point], float, float], Interval]


class _Known(NamedTuple):
    """An interval in numbers."""

    maps: tuple[Tensor, ...]
    roughness: list[float]  # a map
    gap: float
    growth: float


class Refined:
    """
    The path of one example, refined where it is rough.

    What an interval adds to a map differs by D between the rules that go by its start
    and by its end alone. The mean of both misses a share of D that falls with the
    interval's length where the integrand is smooth, and is constant where it wanders
    at random, as gradients of deep networks do. Half-way between, sqrt(b - a) |D| is
    taken for an interval's error; independent errors add up in squares. `error` is the
    root of that sum relative to the map, in L1 norms: an estimate, no bound. It is
    `resolved` where no interval holds too much of the output's variation.
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
        self.resolved = False
        self._intervals: dict[Pair, _Known] = {}

    @property
    def spent(self) -> bool:
        """Whether all intervals were used."""
        return len(self.points) > self.n_steps

    @property
    def alphas(self) -> list[float]:
        """The points' places, ascending."""
        return sorted(self.points)

    def update(self, sketch: Sketch) -> None:
        """Takes the points that came in into account, and says which are `wanted`."""
        self._intervals = {
            pair: self._intervals.get(pair) or self._know(sketch, *pair)
            for pair in pairwise(self.alphas)
        }
        intervals = list(self._intervals.values())
        norms = [
            _norm(sum(parts[1:], start=parts[0]))
            for parts in zip(*(interval.maps for interval in intervals), strict=True)
        ]
        variation = sum(interval.growth for interval in intervals)
        steep = [
            pair
            for pair, known in self._intervals.items()
            if known.growth > _STEEPEST * variation
        ]
        self.error = _error(intervals, norms)
        self.resolved = not steep
        long = [pair for pair in self._intervals if pair[1] - pair[0] > self.shortest]
        final = [self._intervals[pair] for pair in self._intervals.keys() - long]
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
            pair: max(map(_ratio, self._intervals[pair].roughness, norms))
            + _ratio(self._intervals[pair].gap, variation)
            for pair in pairs
        }
        least = _SHARE * max(indicators.values(), default=0)
        ordered = sorted(pairs, key=indicators.__getitem__, reverse=True)
        return [pair for pair in ordered if indicators[pair] >= least]

    def _know(self, sketch: Sketch, start: float, end: float) -> _Known:
        interval = sketch(self.points, start, end)
        # One transfer from the device for all numbers of an interval.
        *norms, gap, growth = torch.stack(
            [
                *(difference.abs().sum() for difference in interval.disagreements),
                interval.gap.abs(),
                interval.growth.abs(),
            ]
        ).tolist()
        width = math.sqrt(end - start)
        return _Known(interval.maps, [width * norm for norm in norms], gap, growth)


def _error(intervals: Sequence[_Known], norms: Sequence[float]) -> float:
    """What intervals are estimated to miss of a map, of the worst of the maps."""
    return max(
        _ratio(math.hypot(*(known.roughness[i] for known in intervals)), norm)
        for i, norm in enumerate(norms)
    )


def _ratio(value: float, whole: float) -> float:
    if value == 0:
        return 0.0
    return value / whole if whole > 0 else math.inf


def _norm(map_: Tensor) -> float:
    """L1 norm of the rectified map, or of the signed one where nothing is left."""
    return map_.relu().sum().item() or map_.abs().sum().item()


def refine(
    evaluate: Evaluate,
    sketch: Sketch,
    num_examples: int,
    tolerance: float,
    n_steps: int,
    chunk: int,
    shortest: float,
    show_progress: bool = False,
) -> Iterator[Refined]:
    """
    Refined paths of all examples, as they are finished.

    As many examples are under way as fill a batch; a round halves the roughest
    intervals of all of them. What an example gets does not depend on the others.

    Args:
        evaluate (Callable): A point for each of some rows, given their places alpha
            (B,) and their examples (B,).
        sketch (Callable): What the method makes of an interval, given an example's
            points by their places, and the interval's two ends.
        num_examples (int): N.
        tolerance (float): Largest `error` that ends an example's refinement.
        n_steps (int): Most intervals of an example.
        chunk (int): Rows that go through the network together.
        shortest (float): Intervals of this length or less are not halved.
        show_progress (bool): Whether a bar counts the points.

    Yields:
        *Refined*, an example at a time, in no order.

    Warns:
        UserWarning: At the end, if the tolerance was not met for an example.
    """
    waiting = iter(range(num_examples))
    under_way: list[Refined] = []
    missed: list[tuple[float, bool]] = []
    hidden: list[bool] = []
    with tqdm(disable=not show_progress, unit="point") as bar:
        while True:
            under_way += [
                Refined(example, tolerance, n_steps, shortest)
                for example in islice(waiting, chunk - len(under_way))
            ]
            if not under_way:
                break
            _visit(evaluate, under_way, chunk, bar)
            for walk in under_way:
                walk.update(sketch)
            finished = [walk for walk in under_way if not walk.wanted]
            under_way = [walk for walk in under_way if walk.wanted]
            for walk in finished:
                if walk.error > tolerance:
                    missed.append((walk.error, walk.spent))
                elif not walk.resolved:
                    hidden.append(walk.spent)
            while finished:
                yield finished.pop()  # its points need not wait for the others'
    _tell(tolerance, n_steps, num_examples, missed, hidden)


def _tell(
    tolerance: float,
    n_steps: int,
    num_examples: int,
    missed: Sequence[tuple[float, bool]],
    hidden: Sequence[bool],
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
    if reasons:
        warn(f"tolerance {tolerance} {'; it '.join(reasons)}")


def _visit(evaluate: Evaluate, walks: Sequence[Refined], chunk: int, bar: Any) -> None:
    """Evaluates the wanted points and gives each to its path."""
    rows = [(alpha, walk) for walk in walks for alpha in walk.wanted]
    for first in range(0, len(rows), chunk):
        part = rows[first : first + chunk]
        alphas = torch.tensor([alpha for alpha, _ in part], dtype=torch.float64)
        examples = torch.tensor([walk.example for _, walk in part])
        points = evaluate(alphas, examples)
        for (alpha, walk), point in zip(part, points, strict=True):
            walk.points[alpha] = point
        bar.update(len(part))
