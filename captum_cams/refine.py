"""
Points along a path where they are needed, until a tolerance is met.

Knows no model: what a point is and what lies between two of them is the caller's.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

# Neighbours whose disagreement is this close to an example's largest are halved with
# it: fewer, fuller batches for hardly more points.
_SHARE = 0.5
# Points of shorter intervals are one in single precision.
_SHORTEST = 2.0**-20
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
    root of that sum relative to the map, in L1 norms: an estimate, no bound.
    """

    def __init__(self, example: int) -> None:
        self.example = example
        self.points: dict[float, Point] = {}
        self.error = math.inf
        self.resolved = False
        self._intervals: dict[tuple[float, float], _Known] = {}
        self._indicators: dict[tuple[float, float], float] = {}

    @property
    def alphas(self) -> list[float]:
        """The points' places, ascending."""
        return sorted(self.points)

    def update(self, sketch: Sketch) -> None:
        """Takes the points that came in since into account."""
        pairs = list(pairwise(self.alphas))
        self._intervals = {
            pair: self._intervals.get(pair) or self._know(sketch, *pair)
            for pair in pairs
        }
        intervals = list(self._intervals.values())
        norms = [
            _norm(sum(parts[1:], start=parts[0]))
            for parts in zip(*(interval.maps for interval in intervals), strict=True)
        ]
        variation = sum(interval.growth for interval in intervals)
        self._indicators = {
            pair: max(map(_ratio, known.roughness, norms))
            + _ratio(known.gap, variation)
            for pair, known in self._intervals.items()
        }
        self.error = max(
            _ratio(math.hypot(*roughness), norm)
            for roughness, norm in zip(
                zip(*(interval.roughness for interval in intervals), strict=True),
                norms,
                strict=True,
            )
        )
        steepest = max(interval.growth for interval in intervals)
        self.resolved = steepest <= _STEEPEST * variation

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

    def middles(self, n_steps: int) -> list[float]:
        """Middles of the intervals to be halved next, the roughest first."""
        rough = sorted(
            (
                (indicator, (start + end) / 2)
                for (start, end), indicator in self._indicators.items()
                if end - start > _SHORTEST
            ),
            reverse=True,
        )
        middles = [m for indicator, m in rough if indicator >= _SHARE * rough[0][0]]
        return middles[: n_steps + 1 - len(self.points)]


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
    show_progress: bool = False,
) -> Iterator[tuple[list[float], list[Point]]]:
    """
    Refined paths of all examples, in order.

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
        show_progress (bool): Whether a bar counts the points.

    Yields:
        2-element tuple of **places**, ascending, and **points** of an example.

    Warns:
        UserWarning: At the end, if an example used up `n_steps`.
    """
    start = [0.0, 0.5, 1.0] if n_steps > 1 else [0.0, 1.0]
    waiting = iter(range(num_examples))
    under_way: list[Refined] = []
    missed: list[float] = []
    with tqdm(disable=not show_progress, unit="point") as bar:
        while True:
            fresh = [Refined(i) for i in islice(waiting, chunk - len(under_way))]
            rows = [(alpha, walk) for walk in fresh for alpha in start]
            rows += [
                (alpha, walk)
                for walk in under_way
                if not _finished(walk, tolerance, n_steps)
                for alpha in walk.middles(n_steps)
            ]
            under_way += fresh
            if not under_way:
                break
            _visit(evaluate, rows, chunk, bar)
            for walk in dict.fromkeys(walk for _, walk in rows):
                walk.update(sketch)
            while under_way and _finished(under_way[0], tolerance, n_steps):
                walk = under_way.pop(0)
                if not _met(walk, tolerance):
                    missed.append(walk.error)
                yield walk.alphas, [walk.points[alpha] for alpha in walk.alphas]
    if missed:
        warnings.warn(
            f"tolerance {tolerance} was not met within n_steps = {n_steps} intervals "
            f"for {len(missed)} of {num_examples} examples, whose estimated errors go "
            f"up to {max(missed):.2g}; allow more n_steps or a larger tolerance",
            stacklevel=2,
        )


def _met(walk: Refined, tolerance: float) -> bool:
    return walk.resolved and walk.error <= tolerance


def _finished(walk: Refined, tolerance: float, n_steps: int) -> bool:
    return _met(walk, tolerance) or (bool(walk.points) and not walk.middles(n_steps))


def _visit(
    evaluate: Evaluate,
    rows: list[tuple[float, Refined]],
    chunk: int,
    bar: Any,
) -> None:
    """Evaluates points and gives each to its path."""
    for first in range(0, len(rows), chunk):
        part = rows[first : first + chunk]
        alphas = torch.tensor([alpha for alpha, _ in part], dtype=torch.float64)
        examples = torch.tensor([walk.example for _, walk in part])
        points = evaluate(alphas, examples)
        for (alpha, walk), point in zip(part, points, strict=True):
            walk.points[alpha] = point
        bar.update(len(part))
