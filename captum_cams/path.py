"""Paths from a baseline to an input, and quadrature rules along them."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

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

Path = Callable[[Tensor, Tensor, Tensor], Tensor]


def straight_line(inputs: Tensor, baselines: Tensor, alphas: Tensor) -> Tensor:
    r"""
    Points :math:`\gamma(\alpha) = x' + \alpha (x - x')` of the straight line.

    Both ends are met exactly: rounding does not move ``alpha = 1`` off the input.

    Args:
        inputs (Tensor): Ends of the path, (B, \*shape).
        baselines (Tensor): Starts of the path, (B, \*shape).
        alphas (Tensor): Position of each row's point in [0, 1], (B,).

    Returns:
        *Tensor* of **points**, (B, \*shape).

    Examples::

        >>> import torch
        >>> ends, starts = torch.full((3, 1), 8.0), torch.zeros(3, 1)
        >>> straight_line(ends, starts, torch.tensor([0.0, 0.25, 1.0])).flatten()
        tensor([0., 2., 8.])
    """
    weights = alphas.view(-1, *[1] * (inputs.dim() - 1))  # (B, 1, ...)
    return torch.lerp(baselines, inputs, weights)


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
    if method == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n_steps)
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
    1/2: the trapezoid rule.

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
    if method == "riemann_left":
        return torch.ones_like(before), torch.zeros_like(before)
    if method == "riemann_right":
        return torch.zeros_like(before), torch.ones_like(before)
    dtype = torch.promote_types(before.dtype, torch.float32)
    before, after = before.to(dtype), after.to(dtype)
    half = torch.full_like(before, 0.5)
    if method == "riemann_trapezoid":
        return half, half
    nodes, weights = quadrature("gausslegendre", 32)
    u, weight = before.new_tensor(nodes), before.new_tensor(weights)  # (32,)
    # Nearer to 1 than this, 1 - y and the gradient are rounding errors.
    start, end = (y.clamp(1e-12, 1 - 1e-4) for y in (before, after))
    logits = torch.lerp(start.logit()[:, None], end.logit()[:, None], u)  # (n, 32)
    steepness = weight * logits.sigmoid() * (-logits).sigmoid()  # (n, 32)
    at_start = (steepness * (1 - u)).sum(1) / (start * (1 - start))  # (n,)
    at_end = (steepness * u).sum(1) / (end * (1 - end))  # (n,)
    probable = (torch.minimum(before, after) >= 0) & (torch.maximum(before, after) <= 1)
    return torch.where(probable, at_start, half), torch.where(probable, at_end, half)
