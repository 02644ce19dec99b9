"""Precision of sums, and what rounding may make of a number."""

import torch
from torch import Tensor


def precise(tensor: Tensor) -> torch.dtype:
    """The dtype to sum in: at least single precision."""
    return torch.promote_types(tensor.dtype, torch.float32)


def rounding(magnitudes: Tensor) -> Tensor:
    """
    By how much numbers of such magnitudes may differ through rounding alone.

    The last digits of a network's output for an example depend on the example's row in
    the batch and on the batch's size. In trained and untrained networks of torchvision
    the largest output changed by up to 70 times its dtype's machine epsilon. In half
    precision, whose sums are taken in single precision, no output changed, so that
    every difference counts.

    Args:
        magnitudes (Tensor): Of any shape: the largest number that went into each.

    Returns:
        *Tensor* of `magnitudes`' shape.
    """
    step = torch.finfo(magnitudes.dtype).eps
    return magnitudes.abs() * (64 * step if step < 1e-4 else 0)


def difference(after: Tensor, before: Tensor) -> Tensor:
    """`after` less `before`, or 0 where rounding alone may explain the difference."""
    increase = after - before
    noise = rounding(torch.maximum(after.abs(), before.abs()))
    return torch.where(increase.abs() > noise, increase, 0)


def divide(numerator: Tensor | float, denominator: Tensor, noise: Tensor) -> Tensor:
    """Their quotient, 0 where the denominator is no more than rounding leaves of 0."""
    return torch.where(denominator.abs() <= noise, 0, numerator / denominator)


def unsqueezed(values: Tensor, like: Tensor) -> Tensor:
    """Values with further axes of 1, as many axes in all as `like` has."""
    return values.view(*values.shape, *[1] * (like.dim() - values.dim()))
