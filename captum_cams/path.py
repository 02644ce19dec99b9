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
