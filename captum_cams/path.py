r"""
Paths from a baseline to an input, and quadrature rules along them.

A path is a function of inputs and baselines, (B, \*shape), and of a place alpha in
[0, 1] for each row, (B,). It gives the rows' points, (B, \*shape): the baselines at 0,
the inputs at 1. Where the inputs are a tuple, it is called for each tensor.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from captum_cams._validation import (
    check_blur,
    check_callable,
    check_choice,
    check_count,
    check_kernel,
    check_nodes,
    check_parametrisation,
    check_path_end,
    check_points,
)

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

# Nearer to 1 than this, 1 - y and the gradient are rounding errors.
_PROBABLE = 1e-12, 1 - 1e-4
# Trained networks' units follow y (1 - y) within a factor of 2 from one end of an
# interval to the other, but for the longest ones.
_DRIFT = math.log(3)
# Units that cancel make the sum a rough judge of a rule.
_WORSE = 2


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


def reparametrized(f: Callable[[Tensor], Tensor], path: Path = straight_line) -> Path:
    r"""
    A path walked at another speed (Integrated Grad-CAM, eq. 2).

    .. math::
        \gamma(\alpha) = x' + f(\alpha) (x - x'), \qquad f(0) = 0, \quad f(1) = 1

    on the straight line, :math:`f` being monotone. RSI-Grad-CAM's integral is that of
    the path itself: `f` only moves its points, and with them the error of a sum.
    Integrated Grad-CAM's is an integral over :math:`\alpha`: `f` weighs the maps along
    the path by the time spent there, and gives another map.

    Args:
        f (Callable): Gives, for alphas (B,), places on `path` in [0, 1], (B,).
        path (Callable): The path that is walked. Default: the straight line

    Returns:
        *Callable*, a path.

    Raises:
        ValueError: If `f` does not rise from 0 to 1.

    Examples::

        >>> slow_start = reparametrized(torch.square)
        >>> ends, starts = torch.full((3, 1), 8.0), torch.zeros(3, 1)
        >>> slow_start(ends, starts, torch.tensor([0.0, 0.5, 1.0])).flatten()
        tensor([0., 2., 8.])
        >>> from captum_cams import LayerIntegratedGradCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> igc = LayerIntegratedGradCam(model, model.block4)
        >>> maps = igc.attribute(
        ...     pictures.images, target=pictures.labels, n_steps=8, path=slow_start
        ... )
    """
    check_callable("f", f)
    check_callable("path", path)
    check_parametrisation(f)

    def points(inputs: Tensor, baselines: Tensor, alphas: Tensor) -> Tensor:
        return path(inputs, baselines, f(alphas))

    return points


def blur_path(kernel_size: int = 51, sigma: float = 50.0) -> Path:
    r"""
    From the blurred input to the input, ever sharper: its Gaussian scale space.

    The point at :math:`\alpha` is the input under a Gaussian blur of standard
    deviation :math:`(1 - \alpha) \sigma`, as in Blur Integrated Gradients. No new
    colours or edges come up on the way. The baselines that belong to it are
    ``captum_cams.baselines.blurred(inputs, kernel_size, sigma)``; others are refused.

    Source: S. Xu, S. Venugopalan, M. Sundararajan, "Attribution in Scale and Space",
    CVPR 2020, https://arxiv.org/abs/2004.03383. There the kernel is not cut off; for
    `kernel_size` well above 6 `sigma` it makes no difference.

    Args:
        kernel_size (int): Number of taps, odd, no matter how large the blur. Every
            spatial side is longer than half of it. Default: 51 (Group-CAM)
        sigma (float): Standard deviation at the baseline, in pixels, above 0.
            Default: 50 (Group-CAM). With 51 taps a blur of 10 is almost as strong:
            the path does most of its way at its end.

    Returns:
        *Callable*, a path for inputs (B, C, \*spatial).

    Examples::

        >>> from captum_cams import LayerRSIGradCam
        >>> from captum_cams.baselines import blurred
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> rsi = LayerRSIGradCam(model, model.block5)
        >>> maps = rsi.attribute(
        ...     pictures.images,
        ...     blurred(pictures.images, 51, 10),
        ...     target=pictures.labels,
        ...     n_steps=8,
        ...     path=blur_path(51, 10),
        ... )
    """
    kernel_size, sigma = check_kernel(kernel_size, sigma)

    def points(inputs: Tensor, baselines: Tensor, alphas: Tensor) -> Tensor:
        check_blur(inputs, kernel_size, sigma)
        return gaussian_blur(inputs, kernel_size, (1 - alphas.cpu().double()) * sigma)

    return points


def gaussian_blur(inputs: Tensor, kernel_size: int, sigmas: Tensor) -> Tensor:
    r"""
    Gaussian blur over all spatial axes, with reflected borders.

    The blur is separable: each axis is multiplied once by a matrix that holds kernel
    and border together.

    Args:
        inputs (Tensor): (B, C, \*spatial).
        kernel_size (int): Number of taps, odd.
        sigmas (Tensor): Standard deviation in pixels, of all rows, (), or of each,
            (B,), in double precision on the CPU; 0 blurs nothing.

    Returns:
        *Tensor* of `inputs`' shape.
    """
    result = inputs
    with torch.autocast(inputs.device.type, enabled=False):  # would round to bfloat16
        for axis in range(2, inputs.dim()):
            blur = _blur_matrices(inputs.shape[axis], kernel_size, sigmas).to(inputs)
            lines = result.movedim(axis, -1)  # (B, C, ..., side)
            blurred = (lines.flatten(1, -2) @ blur.mT).view_as(lines)
            result = blurred.movedim(-1, axis)
    return result


def _blur_matrices(side: int, kernel_size: int, sigmas: Tensor) -> Tensor:
    """Row i of a matrix holds the weights of an axis' pixels in its blurred pixel i."""
    reach = kernel_size // 2
    offsets = torch.arange(-reach, reach + 1).to(sigmas)  # (kernel_size,)
    scaled = offsets / sigmas.clamp(min=1e-9).unsqueeze(-1)
    kernels = torch.exp(-0.5 * scaled**2).unsqueeze(-2)  # (..., 1, kernel_size)
    kernels = kernels / kernels.sum(-1, keepdim=True)
    pixels = torch.arange(side)
    sources = (pixels[:, None] + offsets.long()).abs()  # (side, kernel_size)
    sources = torch.where(sources < side, sources, 2 * (side - 1) - sources)
    shape = (*sigmas.shape, side)
    matrices = kernels.new_zeros(*shape, side)  # (..., side, side)
    index, weights = (part.expand(*shape, kernel_size) for part in (sources, kernels))
    return matrices.scatter_add_(-1, index, weights)


def checked(
    path: Path, inputs: tuple[Tensor, ...], baselines: tuple[Tensor, ...], chunk: int
) -> Path:
    """
    A path whose points are checked: now at both ends, later wherever they are made.

    Args:
        path (Callable): The path.
        inputs (tuple of Tensor): Where it must end.
        baselines (tuple of Tensor): Where it must start.
        chunk (int): Rows whose points are made together.

    Returns:
        *Callable*, a path that records no graph.

    Raises:
        ValueError, TypeError: If the path misses an end, or a point is no point.
    """

    @torch.no_grad()
    def points(inputs: Tensor, baselines: Tensor, alphas: Tensor) -> Tensor:
        ends, starts = (x.clone() for x in (inputs, baselines))  # free to be written to
        return check_points(path(ends, starts, alphas), inputs, alphas)

    for end, start in zip(inputs, baselines, strict=True):
        for rows in torch.split(torch.arange(len(end)), chunk):
            for alpha in (0, 1):
                alphas = end.new_full((len(rows),), alpha)
                point = points(end[rows], start[rows], alphas)
                check_path_end(point, start[rows], end[rows], alpha)
    return points


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
    1/2: the trapezoid rule. An output in [0, 1] that is no logistic is not told by its
    values: from 0 to 1 the weight of the start is 1e11. The methods of this package
    take these weights only where the layer's units bear them out, and 1/2 elsewhere.

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
    numbers = torch.stack([x.to(w0) for x in (before, after, *start, *end, w0, w1)])
    fits = [_is_logistic(*row) for row in numbers.T.tolist()]  # quicker for few rows
    where = torch.tensor(fits, device=w0.device)  # (n,)
    return torch.where(where, w0, 0.5), torch.where(where, w1, 0.5)


def _is_logistic(
    y0: float,
    y1: float,
    size0: float,
    sum0: float,
    size1: float,
    sum1: float,
    w0: float,
    w1: float,
) -> bool:
    """Whether the weights w of an interval fit its units better than 1/2 do."""
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
