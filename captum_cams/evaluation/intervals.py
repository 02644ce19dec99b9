"""Intervals of 95% for shares, which hold also where all or none of few say yes."""

import math
from collections.abc import Sequence
from typing import TypeAlias

Z = 1.959963984540054
"""The normal distribution's quantile of 97.5%."""

Interval: TypeAlias = tuple[float, float]


def wilson(share: float, number: int) -> Interval:
    """
    Wilson's score interval of a share of `number` independent answers of yes or no.

    Source: E. Wilson, "Probable Inference, the Law of Succession, and Statistical
    Inference", 1927

    Examples::

        >>> low, high = wilson(0, 16)
        >>> round(low, 3), round(high, 3)
        (0.0, 0.194)
    """
    weight = Z * Z / number
    center = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    # Rounding must not part the interval from its share.
    return min(max(center - half, 0.0), share), max(min(center + half, 1.0), share)


def of_mean(shares: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """
    The interval of the mean of independent shares, from an interval of each.

    Source: G. Zou, A. Donner, "Construction of confidence limits about effect
    measures: a general approach", 2008 (MOVER), for a sum.

    Examples::

        >>> of_mean([0.5], [(0.25, 0.75)])
        (0.25, 0.75)
    """
    mean = math.fsum(shares) / len(shares)
    pairs = [*zip(shares, intervals, strict=True)]
    below = math.hypot(*(share - low for share, (low, _) in pairs)) / len(shares)
    above = math.hypot(*(high - share for share, (_, high) in pairs)) / len(shares)
    return max(mean - below, 0.0), min(mean + above, 1.0)
