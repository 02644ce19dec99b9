"""
From records to means and standard errors, in one pass over the records.

Equal records in their order give equal numbers, to the bit.
"""

import itertools
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, norm, t  # type: ignore[attr-defined]

from captum_cams.evaluation.intervals import Interval, of_mean, wilson
from captum_cams.evaluation.metrics import ABSENT, METRICS, value_of
from captum_cams.evaluation.papers import PAPERS
from captum_cams.evaluation.records import Explained, Record, Run

Array = NDArray[np.float64]

_RESAMPLES = 2000  # of the bootstrap
_ROUNDING = 1e-5  # relative: numbers so near are equal
FEWEST = 6
"""Pictures on which two methods must differ before one is called better: were either
as likely to be ahead, 5 would agree by chance in 6% of all cases, 6 in 3%."""


class Mean(NamedTuple):
    """The mean of the values that have a meaning; `missing` counts those without."""

    mean: float | None
    standard_error: float | None
    number: int
    missing: int = 0
    interval: Interval | None = None
    """Of 95%, where the values are 0 or 1: their standard error is 0 if all agree."""


class Difference(NamedTuple):
    """The mean difference of two methods on the same maps, and its 95% interval."""

    mean: float
    low: float
    high: float
    apart: int
    """The number of pictures on which they differ."""

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0, or pictures are too few for an interval."""
        return self.low <= 0 <= self.high or self.apart < FEWEST


class Means:
    """Running means of several numbers a record (Welford's recurrence)."""

    def __init__(self, size: int) -> None:
        self.count = np.zeros(size, np.int64)
        self.missing = np.zeros(size, np.int64)
        self._mean = np.zeros(size)
        self._squares = np.zeros(size)

    def add(self, values: Array) -> None:
        """Adds numbers: NaN is one without a meaning, infinity stands for none."""
        known = np.isfinite(values)
        self.count += known
        self.missing += np.isnan(values)
        away = np.where(known, values, self._mean) - self._mean
        self._mean += away / np.maximum(self.count, 1)
        self._squares += away * (np.where(known, values, self._mean) - self._mean)

    def __getitem__(self, position: int) -> Mean:
        """The mean of one of the numbers."""
        count, missing = int(self.count[position]), int(self.missing[position])
        if count == 0:
            return Mean(None, None, 0, missing)
        error = None
        if count > 1:
            error = math.sqrt(self._squares[position] / (count - 1) / count)
        return Mean(float(self._mean[position]), error, count, missing)


class Class(NamedTuple):
    """A class by its index in the model's output: names need not be unique."""

    target: int
    name: str


class _Layout:
    """Which numbers of a row are the values of which metric."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self.start: dict[str, int] = {}
        self.texts: list[str] = []
        for metric in names:
            self.start[metric] = len(self.texts)
            self.texts += [
                metric if at is None else f"{metric}[{at}]"
                for at in METRICS[metric].at(run)
            ]

    def row(self, record: Explained) -> Array:
        """A record's numbers, as :meth:`Means.add` takes them."""
        row = np.full(len(self.texts), ABSENT)
        for metric, start in self.start.items():
            value = value_of(record, metric)
            values = value if isinstance(value, list) else [value]
            if value != ABSENT:
                row[start : start + len(values)] = np.array(values, dtype=float)
        return row


_Key: TypeAlias = tuple[str, str, str, Class | None]  # protocol, method, layer, class


class Summary:
    """
    All means of an evaluation, and what became of its pictures.

    For paired differences one number is kept of each map and metric that is ranked.
    """

    def __init__(self, run: Run, records: Iterable[Record]) -> None:
        self.run = run
        self.read = 0
        self.skipped: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.pictures = dict.fromkeys(run["methods"], 0)
        self.targets = dict.fromkeys(run["methods"], 0)
        self._layouts = {
            protocol: (_Layout(run, keys), _Layout(run, _by_class(protocol, keys)))
            for protocol, keys in run["metrics"].items()
        }
        self._ranked = {
            protocol: [
                key
                for key in keys
                if METRICS[key].higher_is_better is not None
                and METRICS[key].at(run) == [None]
            ]
            for protocol, keys in run["metrics"].items()
        }
        self._shown: dict[str, array[int]] = {key: array("q") for key in run["methods"]}
        self._examples: dict[tuple[str, str, str], array[int]] = {}
        self._values: dict[tuple[str, str, str, str], array[float]] = {}
        self._means: dict[_Key, Means] = {}
        self._costs: dict[tuple[str, str], Means] = {}
        self._differences: dict[tuple[object, ...], list[Difference | None]] = {}
        cost = _BatchCosts(self._costs)
        last = -1
        last_used: dict[str, tuple[int, int]] = {}
        for record in records:
            if "skipped" in record:
                self.skipped[record["skipped"]] += 1
                continue
            index = record["index"]
            if index != last:
                self.read += 1
                self.left_out.update(record["left_out"])
            last = index
            if "method" not in record:
                continue
            for protocol in protocols_of(run, record):
                before = last_used.get(protocol, (-1, -1))
                last_used[protocol] = now = index, record["target"]
                self.pictures[protocol] += before[0] != index
                if before != now:
                    self.targets[protocol] += 1
                    self._shown[protocol].extend(now)
                self._add(protocol, record)
            cost.add(record)
        cost.close()
        present = {of_class for *_, of_class in self._means}
        self.classes = sorted(of_class for of_class in present if of_class)
        self._named = Counter(name for _, name in self.classes)

    def _add(self, protocol: str, record: Explained) -> None:
        of_class = Class(record["target"], record["category"])
        for layout, of in zip(self._layouts[protocol], (None, of_class), strict=True):
            if layout.texts:
                key = protocol, record["method"], record["layer"], of
                row = layout.row(record)
                self._means.setdefault(key, Means(len(row))).add(row)
        map_of = protocol, record["method"], record["layer"]
        example = self.targets[protocol]
        self._examples.setdefault(map_of, array("q")).append(example)
        for metric in self._ranked[protocol]:
            value = value_of(record, metric)
            number = math.nan if value is None or isinstance(value, list) else value
            self._values.setdefault((*map_of, metric), array("d")).append(number)

    def label(self, of_class: Class) -> str:
        """Its name, with its index where two classes share one."""
        shared = self._named[of_class.name] > 1
        return f"{of_class.name} ({of_class.target})" if shared else of_class.name

    def layers(self, protocol: str) -> list[str]:
        """Those with results; ``""`` alone if only methods without a layer have any."""
        found = {layer for name, _, layer, _ in self._means if name == protocol}
        named = [layer for layer in self.run["layers"] if layer in found]
        return named or [layer for layer in found if not layer]

    def mean(
        self,
        protocol: str,
        method: str,
        layer: str,
        metric: str,
        position: int = 0,
        of_class: Class | None = None,
    ) -> Mean:
        """A value's mean at a layer, or without one for a method that knows none."""
        for name in (layer, ""):
            means = self._means.get((protocol, method, name, of_class))
            layout = self._layouts[protocol][of_class is not None]
            if means is not None and metric in layout.start:
                return _with_interval(means[layout.start[metric] + position], metric)
        return Mean(None, None, 0)

    def across(
        self,
        protocol: str,
        methods: Sequence[str],
        layer: str,
        metric: str,
        position: int = 0,
        of_class: Class | None = None,
    ) -> list[Mean]:
        """The means of several methods."""
        return [
            self.mean(protocol, method, layer, metric, position, of_class)
            for method in methods
        ]

    def curve(self, protocol: str, method: str, layer: str, metric: str) -> list[Mean]:
        """The means of a metric with several values."""
        return [
            self.mean(protocol, method, layer, metric, position)
            for position, _ in enumerate(METRICS[metric].at(self.run))
        ]

    def differences(
        self, protocol: str, methods: Sequence[str], layer: str, metric: str
    ) -> list[Difference | None]:
        """
        How far each method is from the best of them, on the maps that both have.

        None for all where nothing is ranked or nothing can be compared, and for methods
        without values. The best differs by 0 from itself.
        """
        key = protocol, *methods, layer, metric
        if key not in self._differences:  # tables and verdict ask for the same
            self._differences[key] = self._to_best(protocol, methods, layer, metric)
        return self._differences[key]

    def _to_best(
        self, protocol: str, methods: Sequence[str], layer: str, metric: str
    ) -> list[Difference | None]:
        rows = [self.values(protocol, method, layer, metric) for method in methods]
        means = [np.nanmean(row[1]) if row is not None else math.nan for row in rows]
        if sum(not math.isnan(mean) for mean in means) < 2:
            return [None] * len(methods)
        sign = 1 if METRICS[metric].higher_is_better else -1
        best = rows[int(np.nanargmax(sign * np.array(means)))]
        pictures = np.array(self._shown[protocol])[::2]
        return [
            None if row is None or best is None else _difference(row, best, pictures)
            for row in rows
        ]

    def example(self, protocol: str, number: int) -> tuple[int, int]:
        """The index and the target of an example, which count from 1."""
        index, target = self._shown[protocol][2 * number - 2 : 2 * number]
        return index, target

    def values(
        self, protocol: str, method: str, layer: str, metric: str
    ) -> tuple[NDArray[np.int64], Array] | None:
        """The numbers of the examples that have a value, and the values."""
        for name in (layer, ""):
            values = self._values.get((protocol, method, name, metric))
            if values is not None:
                numbers = np.array(values)
                known = np.isfinite(numbers)
                examples = np.array(self._examples[protocol, method, name])
                return (examples[known], numbers[known]) if known.any() else None
        return None

    def cost(self, method: str, layer: str, passes: bool = False) -> Mean:
        """The seconds that a picture takes, or the passes; one sample a batch."""
        means = self._costs.get((method, layer)) or self._costs.get((method, ""))
        return means[int(passes)] if means else Mean(None, None, 0)

    def over_classes(self, protocol: str, method: str, layer: str, metric: str) -> Mean:
        """The mean of the classes' means: each class counts alike."""
        each = [
            self.mean(protocol, method, layer, metric, of_class=of_class)
            for of_class in self.classes
        ]
        each = [mean for mean in each if mean.number]
        if not each:
            return Mean(None, None, 0)
        intervals = [mean.interval for mean in each]
        errors = [mean.standard_error for mean in each]
        known = [error for error in errors if error is not None]
        squares = math.fsum(error * error for error in known)
        return Mean(
            math.fsum(mean.mean or 0 for mean in each) / len(each),
            math.sqrt(squares) / len(each) if len(known) == len(each) else None,
            len(each),
            interval=of_mean(
                [mean.mean or 0 for mean in each],
                [interval for interval in intervals if interval is not None],
            )
            if METRICS[metric].yes_or_no
            else None,
        )

    def rows(self) -> Iterator[list[object]]:
        """
        The long form: protocol, method, layer, category, metric and its mean.

        With the ends of its interval, where it has one.
        """
        layers = ["", *self.run["layers"]]
        for protocol, methods in self.run["methods"].items():
            for method, layer in itertools.product(methods, layers):
                of = protocol, method, layer
                for of_class in (None, *self.classes):
                    if (means := self._means.get((*of, of_class))) is None:
                        continue
                    category = self.label(of_class) if of_class else "all"
                    texts = self._layouts[protocol][of_class is not None].texts
                    for position, text in enumerate(texts):
                        mean = _with_interval(means[position], text.partition("[")[0])
                        if mean.number or mean.missing:
                            yield [*of, category, text, *_flat(mean)]
                if (*of, None) in self._means:
                    for metric in _over_classes(protocol):
                        mean = self.over_classes(*of, metric)
                        if mean.number:
                            yield [*of, "mean of classes", metric, *_flat(mean)]


class _BatchCosts:
    """
    Seconds and passes, of which a batch is one sample.

    Its pictures go through the network together, and their shares of one time are not
    so many times.
    """

    def __init__(self, means: dict[tuple[str, str], Means]) -> None:
        self._means = means
        self._batch: dict[tuple[str, str], Means] = {}
        self._number = -1

    def add(self, record: Explained) -> None:
        """A record; those of a batch follow each other."""
        if record["explained_in"] != self._number:
            self.close()
            self._number = record["explained_in"]
        of = record["method"], record["layer"]
        cost = np.array([record["seconds"], record["passes"]])
        self._batch.setdefault(of, Means(2)).add(cost)

    def close(self) -> None:
        """The batch is over."""
        for of, means in self._batch.items():
            cost = np.array([means[0].mean, means[1].mean])
            self._means.setdefault(of, Means(2)).add(cost)
        self._batch = {}


def _with_interval(mean: Mean, metric: str) -> Mean:
    """A share of answers of yes or no with its interval."""
    if mean.mean is None or not METRICS[metric].yes_or_no:
        return mean
    return mean._replace(interval=wilson(mean.mean, mean.number))


def _flat(mean: Mean) -> list[object]:
    return [*mean[:4], *(mean.interval or (None, None))]


def _by_class(protocol: str, keys: Sequence[str]) -> list[str]:
    """Metrics that a table has by class."""
    shown = [of.metrics for of in PAPERS[protocol].tables if of.rows == "classes"]
    return [key for key in keys if key in itertools.chain(*shown)]


def _over_classes(protocol: str) -> list[str]:
    """Metrics of which a table has the mean over classes."""
    shown = [of.metrics for of in PAPERS[protocol].tables if of.mean_over_classes]
    return [*itertools.chain(*shown)]


def _difference(
    row: tuple[NDArray[np.int64], Array],
    best: tuple[NDArray[np.int64], Array],
    pictures: NDArray[np.int64],
) -> Difference | None:
    """
    The paired difference to the best method.

    Pictures are drawn, not maps: those of one picture's classes are not independent.
    The quantiles are those of the expanded percentile bootstrap (Hesterberg 2015, "What
    Teachers Should Know About the Bootstrap"), as the plain one is too narrow for few.

    Args:
        row (tuple of array): Numbers of examples, from 1 on, and the method's values.
        best (tuple of array): The same of the best method.
        pictures (array): The picture of each example.
    """
    common, here, there = np.intersect1d(row[0], best[0], return_indices=True)
    own, other = row[1][here], best[1][there]
    _, of = np.unique(pictures[common - 1], return_inverse=True)
    differences = np.where(np.isclose(own, other, _ROUNDING, 1e-9), 0, own - other)
    sums, counts = np.bincount(of, differences), np.bincount(of)
    n = len(sums)
    if n < 2:
        return None
    mean = float(differences.mean())
    apart = int(np.count_nonzero(np.bincount(of, differences != 0)))
    if (differences == differences[0]).all():
        return Difference(mean, mean, mean, apart)
    wide = math.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1)
    found: Any = bootstrap(
        (sums, counts),
        lambda sums, counts, axis=-1: sums.sum(axis) / counts.sum(axis),
        n_resamples=_RESAMPLES,
        batch=max(1, 10**7 // n),
        paired=True,
        vectorized=True,
        confidence_level=1 - 2 * norm.cdf(-wide),
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return Difference(mean, float(found.low), float(found.high), apart)


def protocols_of(run: Run, record: Explained) -> list[str]:
    """The protocols to which a record counts."""
    return [
        protocol
        for protocol, methods in run["methods"].items()
        if protocol in record["protocols"] and record["method"] in methods
    ]
