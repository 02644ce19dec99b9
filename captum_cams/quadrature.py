"""Quadrature rules of integrals along a path."""

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from captum_cams._numerics import precise
from captum_cams._validation import check_choice, check_count

Rule = Literal[
    "riemann_trapezoid",
    "riemann_left",
    "riemann_middle",
    "riemann_right",
    "gausslegendre",
]

RULES: tuple[Rule, ...] = (
    "riemann_trapezoid",
    "riemann_left",
    "riemann_middle",
    "riemann_right",
    "gausslegendre",
)

# Rules over the ends of intervals; alone they may weigh ends by the outputs there.
IntervalRule = Literal[
    "riemann_trapezoid", "riemann_left", "riemann_right", "logistic_trapezoid"
]

INTERVAL_RULES: tuple[IntervalRule, ...] = (
    "riemann_trapezoid",
    "riemann_left",
    "riemann_right",
    "logistic_trapezoid",
)

# Outputs are clamped to this range: nearer to 0 than it, logarithms overflow; nearer
# to 1, 1 - y and the gradient are rounding errors.
_PROBABLE = 1e-12, 1 - 1e-4
# Trained networks' units follow y (1 - y) within a factor of 2 from one end of an
# interval to the other, but for the longest ones.
_DRIFT = math.log(3)
# Units that cancel make the sum a rough judge of a rule.
_WORSE = 2


def quadrature(method: Rule, n_steps: int) -> tuple[list[float], list[float]]:
    r"""
    Nodes and weights of an integral over [0, 1] in `n_steps` intervals.

    Captum's rules by the same names, but with weights that sum to 1 for every rule:
    those of Captum 0.9's ``riemann_trapezoid`` sum to :math:`1 - 1/n`.

    Args:
        method (str): One of ``riemann_trapezoid`` (`n_steps` + 1 nodes),
            ``riemann_left``, ``riemann_middle``, ``riemann_right`` and
            ``gausslegendre`` (`n_steps` nodes each).
        n_steps (int): Number of intervals, at least 1.

    Returns:
        2-element tuple of **nodes** and **weights**, two lists of floats, ascending
        in the nodes.

    Examples::

        >>> quadrature("riemann_trapezoid", 2)
        ([0.0, 0.5, 1.0], [0.25, 0.5, 0.25])
    """
    check_choice("method", method, RULES)
    n_steps = check_count("n_steps", n_steps)
    check_nodes(n_steps, method)
    if method == "gausslegendre":
        nodes, weights = _gauss_legendre(n_steps)
        return ((1 + nodes) / 2).tolist(), (weights / 2).tolist()
    ends = [step / n_steps for step in range(n_steps + 1)]
    inner = [1 / n_steps] * (n_steps - 1)
    if method == "riemann_trapezoid":
        return ends, [0.5 / n_steps, *inner, 0.5 / n_steps]
    if method == "riemann_left":
        return ends[:-1], [*inner, 1 / n_steps]
    if method == "riemann_right":
        return ends[1:], [*inner, 1 / n_steps]
    middles = [(step + 0.5) / n_steps for step in range(n_steps)]
    return middles, [*inner, 1 / n_steps]


@lru_cache
def _gauss_legendre(n: int) -> tuple[Any, Any]:
    """Nodes and weights over [-1, 1]; to find them takes longer than to use them."""
    return np.polynomial.legendre.leggauss(n)


@lru_cache
def _nodes(n: int) -> Tensor:
    """Nodes and weights over [0, 1], (2, n)."""
    rule = quadrature("gausslegendre", n)
    return torch.tensor(rule, dtype=torch.float64, device="cpu")


def interval_weights(
    method: IntervalRule, before: Tensor, after: Tensor
) -> tuple[Tensor, Tensor]:
    r"""
    Weights of an integrand's values at both ends of an interval of length 1.

    ``logistic_trapezoid`` is for gradients of a probability :math:`y`, which change
    as steeply as :math:`\varphi = y (1 - y)`. It takes :math:`\log(y / (1 - y))` and
    the integrand divided by :math:`\varphi` for linear between the ends, where the
    trapezoid rule takes the integrand itself for linear:

    .. math::
        \omega_0 = \int_0^1 (1 - u) \varphi(u) / \varphi(0) \, du, \qquad
        \omega_1 = \int_0^1 u \, \varphi(u) / \varphi(1) \, du

    Both go to 1/2 as the interval shrinks. Where an end is no probability, they are
    1/2: the trapezoid rule. An output in [0, 1] that is no probability cannot be told
    by its values, and gets weights that are far too large: 1e11 for the start of an
    interval from 0 to 1. The methods of this package take these weights only where the
    layer's units bear them out, and 1/2 elsewhere.

    Args:
        method (str): One of ``INTERVAL_RULES``.
        before (Tensor): Output y at the start of each interval, (n,).
        after (Tensor): Output y at its end, (n,).

    Returns:
        2-element tuple of **weights** of start and end, (n,) each.

    Examples::

        >>> import torch
        >>> y = torch.tensor([0.001, 0.4]), torch.tensor([0.4, 0.401])
        >>> start, end = interval_weights("logistic_trapezoid", *y)
        >>> [round(weight, 2) for weight in (start + end).tolist()]
        [12.13, 1.0]
    """
    check_choice("method", method, INTERVAL_RULES)
    if method == "riemann_left":
        return torch.ones_like(before), torch.zeros_like(before)
    if method == "riemann_right":
        return torch.zeros_like(before), torch.ones_like(before)
    dtype = precise(before)
    before, after = before.to(dtype), after.to(dtype)
    half = torch.full_like(before, 0.5)
    if method == "riemann_trapezoid":
        return half, half
    u, weight = (row.to(before) for row in _nodes(32))  # (32,)
    start, end = (y.clamp(*_PROBABLE) for y in (before, after))
    logits = torch.lerp(start.logit()[:, None], end.logit()[:, None], u)  # (n, 32)
    steepness = weight * logits.sigmoid() * (-logits).sigmoid()  # (n, 32)
    at_start = (steepness * (1 - u)).sum(1) / (start * (1 - start))  # (n,)
    at_end = (steepness * u).sum(1) / (end * (1 - end))  # (n,)
    probable = (torch.minimum(before, after) >= 0) & (torch.maximum(before, after) <= 1)
    return torch.where(probable, at_start, half), torch.where(probable, at_end, half)


def fitted_weights(
    before: Tensor,
    after: Tensor,
    start: tuple[Tensor, Tensor],
    end: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    r"""
    Weights of ``logistic_trapezoid`` where a logistic fits the units, otherwise 1/2.

    An output in [0, 1] need not be a logistic. It is taken for one where

    - the contributions of the units at both ends are as large as :math:`\varphi` says,
      within a factor of 3, and closer to that than to being equally large, as the
      trapezoid rule has them. Where an end is so near to 0 or 1 that :math:`\varphi` is
      a rounding error, they may be smaller; of two such ends nothing is known;
    - their weighted sum misses the output's growth by no more than twice what the
      trapezoid rule misses.

    The first keeps the weights from growing beyond what the units at the other end
    bear out, also where contributions cancel in the sum, or where part of the output
    does not depend on the layer.

    Args:
        before (Tensor): Output y at the start of each interval, (n,).
        after (Tensor): Output y at its end, (n,).
        start (tuple of Tensor): L1 norm and sum over a layer's units of dy/dA at the
            start times the growth of A, (n,) each.
        end (tuple of Tensor): The same at the end.

    Returns:
        2-element tuple of **weights** of start and end, (n,) each.
    """
    w0, w1 = interval_weights("logistic_trapezoid", before, after)
    pairs = (before, after), *zip(start, end, strict=True), (w0, w1)
    numbers = torch.stack([torch.stack([x.to(w0) for x in pair]) for pair in pairs])
    # (4, 2, n), as numbers of Python, which is quicker for few rows
    fits = [_is_logistic(*row) for row in numbers.movedim(2, 0).tolist()]
    where = torch.tensor(fits, device=w0.device)  # (n,)
    return torch.where(where, w0, 0.5), torch.where(where, w1, 0.5)


def _is_logistic(
    outputs: tuple[float, float],
    sizes: tuple[float, float],
    sums: tuple[float, float],
    weights: tuple[float, float],
) -> bool:
    """Whether the weights of an interval's ends fit its units better than 1/2 do."""
    (y0, y1), (size0, size1), (sum0, sum1), (w0, w1) = outputs, sizes, sums, weights
    low, high = _PROBABLE
    known0, known1 = low < y0 < high, low < y1 < high
    if not (known0 or known1) or size0 <= 0 or size1 <= 0:
        return False
    p0, p1 = (min(max(y, low), high) for y in (y0, y1))
    equal = math.log(size0) - math.log(size1)  # 0 where both ends are equally large
    drift = equal - math.log(p0 * (1 - p0)) + math.log(p1 * (1 - p1))  # 0: like phi
    if (drift < 0 and not known0) or (drift > 0 and not known1):
        drift = 0.0
    rise = y1 - y0
    missed, trapezoids = w0 * sum0 + w1 * sum1 - rise, (sum0 + sum1) / 2 - rise
    return abs(drift) <= min(abs(equal), _DRIFT) and abs(missed) <= _WORSE * abs(
        trapezoids
    )


def check_nodes(n_steps: int, method: str = "gausslegendre") -> None:
    """No more nodes of Gauss and Legendre than numpy finds in a moment."""
    if method == "gausslegendre" and n_steps > 1000:
        raise ValueError(
            "n_steps must be at most 1000 for the rule of Gauss and Legendre, got "
            f"{n_steps}; a few tens are enough where the network is smooth"
        )
