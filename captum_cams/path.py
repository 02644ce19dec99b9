r"""
Paths from a baseline to an input.

A path is a function of inputs and baselines, (B, \*shape), and of a place alpha in
[0, 1] for each row, (B,). It gives the rows' points, (B, \*shape): the baselines at 0,
the inputs at 1. Where the inputs are a tuple, it is called for each tensor.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from captum_cams._validation import check_callable, kind_of, shape_of
from captum_cams.blur import check_blur, check_kernel, gaussian_blur
from captum_cams.quadrature import (
    INTERVAL_RULES,
    RULES,
    IntervalRule,
    Rule,
    interval_weights,
    quadrature,
)

__all__ = [
    "INTERVAL_RULES",
    "RULES",
    "IntervalRule",
    "Path",
    "Rule",
    "blur_path",
    "interval_weights",
    "quadrature",
    "reparametrized",
    "straight_line",
]

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
    _check_parametrization(f)

    def points(inputs: Tensor, baselines: Tensor, alphas: Tensor) -> Tensor:
        return path(inputs, baselines, f(alphas))

    return points


def blur_path(kernel_size: int = 51, sigma: float = 50.0) -> Path:
    r"""
    From the blurred input to the input, ever sharper: its Gaussian scale space.

    The point at :math:`\alpha` is the input under a Gaussian blur of standard
    deviation :math:`(1 - \alpha) \sigma`, as in Blur Integrated Gradients. No new
    colors or edges come up on the way. The baselines that belong to it are
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


def checked(
    path: Path,
    inputs: tuple[Tensor, ...],
    baselines: tuple[Tensor, ...],
    batch_size: int,
) -> Path:
    """
    A path whose points are checked: now at both ends, later wherever they are made.

    Args:
        path (Callable): The path.
        inputs (tuple of Tensor): Where it must end.
        baselines (tuple of Tensor): Where it must start.
        batch_size (int): Rows whose points are made together.

    Returns:
        *Callable*, a path that records no graph.

    Raises:
        ValueError, TypeError: If the path misses an end, or a point is no point.
    """

    @torch.no_grad()
    def points(inputs: Tensor, baselines: Tensor, alphas: Tensor) -> Tensor:
        ends, starts = (x.clone() for x in (inputs, baselines))  # free to be written to
        return _check_points(path(ends, starts, alphas), inputs, alphas)

    for end, start in zip(inputs, baselines, strict=True):
        for rows in torch.split(torch.arange(len(end)), batch_size):
            for alpha in (0, 1):
                alphas = end.new_full((len(rows),), alpha)
                point = points(end[rows], start[rows], alphas)
                _check_path_end(point, start[rows], end[rows], alpha)
    return points


def _check_points(points: object, inputs: Tensor, alphas: Tensor) -> Tensor:
    """What a path gave: a finite point for each row; detached."""
    if not isinstance(points, Tensor):
        raise TypeError(f"path must return a tensor of points, got {kind_of(points)}")
    if (points.shape, points.dtype, points.device) != (
        inputs.shape,
        inputs.dtype,
        inputs.device,
    ):
        raise ValueError(
            f"path must return points like its inputs, {_like(inputs)}, got "
            f"{_like(points)}"
        )
    finite = points.reshape(len(points), -1).isfinite().all(1)  # (B,)
    if not finite.all():
        raise ValueError(
            "path must return finite points, got NaN or infinity at alpha = "
            f"{alphas[~finite][0].item():.3g}; look for it in the inputs, in the "
            "baselines and in the path"
        )
    return points.detach()


def _like(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {shape_of(tensor)} on {tensor.device}"


def _check_path_end(points: Tensor, starts: Tensor, ends: Tensor, alpha: int) -> None:
    """A path that is at its start, or at its end, up to rounding."""
    distance = (points - (ends if alpha else starts)).abs().max().item()
    largest = max(ends.abs().max().item(), starts.abs().max().item())
    if distance > torch.finfo(ends.dtype).eps ** 0.5 * largest:
        raise ValueError(
            "path must lead from the baselines at alpha = 0 to the inputs at alpha = "
            f"1, but is up to {distance:.3g} off at alpha = {alpha}; pass the "
            "baselines that belong to it"
        )


def _check_parametrization(f: Callable[[Tensor], Tensor]) -> None:
    """A function that rises from 0 to 1, as far as some places tell."""
    values = f(torch.linspace(0, 1, 101, dtype=torch.float64))
    if not isinstance(values, Tensor) or values.shape != (101,):
        raise ValueError(
            "f must give one place for each alpha, a tensor (B,) for one of shape "
            f"(B,), got {kind_of(values)} for 101 of them"
        )
    start, end = values[0].item(), values[-1].item()
    if not (abs(start) < 1e-6 and abs(end - 1) < 1e-6 and (values.diff() >= 0).all()):
        raise ValueError(
            "f must rise from f(0) = 0 to f(1) = 1 and never fall, got f(0) = "
            f"{start:.3g}, f(1) = {end:.3g} and a smallest growth of "
            f"{values.diff().min():.3g} between 101 equally spaced places"
        )
