"""Inputs that stand for "nothing to see": what a path or a mask starts from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_cams._checks import check_blur, check_statistics


def blurred(inputs: Tensor, kernel_size: int = 51, sigma: float = 50.0) -> Tensor:
    r"""
    Gaussian blur over all spatial axes, with reflected borders.

    The result is that of torchvision's ``gaussian_blur``, for signals and volumes
    too. The blur is separable: each axis is multiplied once by a matrix that holds
    kernel and border together.

    Args:
        inputs (Tensor): (N, C, \*spatial), every spatial side longer than
            ``kernel_size // 2``.
        kernel_size (int): Number of taps, odd. Default: 51 (Group-CAM)
        sigma (float): Standard deviation in pixels, above 0. Default: 50

    Returns:
        *Tensor* of `inputs`' shape.

    Raises:
        ValueError: If the kernel is even or too large for a side, or `sigma` is not
            above 0.

    Examples::

        >>> from captum_cams.examples import shape_pictures
        >>> images = shape_pictures(2).images
        >>> blurred(images).shape
        torch.Size([2, 3, 128, 128])
    """
    check_blur(inputs, kernel_size, sigma)
    result = inputs
    for axis in range(2, inputs.dim()):
        blur = _blur_matrix(inputs.shape[axis], kernel_size, sigma).to(inputs)
        result = (result.movedim(axis, -1) @ blur.T).movedim(-1, axis)
    return result


def black(
    inputs: Tensor, mean: float | Sequence[float], std: float | Sequence[float]
) -> Tensor:
    r"""
    The black picture of a model whose inputs are normalised.

    A picture in [0, 1] enters such a model as (picture - mean) / std; 0 is then the
    mean colour, and black is -mean / std.

    Args:
        inputs (Tensor): (N, C, \*spatial), for shape, dtype and device.
        mean (float or sequence of float): Of all channels, or one for each.
        std (float or sequence of float): Likewise, above 0.

    Returns:
        *Tensor* of `inputs`' shape.

    Raises:
        ValueError: If there are neither 1 nor C numbers, or a `std` is not above 0.

    Examples::

        >>> inputs = torch.rand(2, 3, 8, 8)
        >>> black(inputs, [0.5, 0.4, 0.2], [0.5, 0.2, 0.2])[0, :, 0, 0]
        tensor([-1., -2., -1.])
    """
    means = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)  # (C,) or (1,)
    stds = torch.as_tensor(std, dtype=torch.float64).reshape(-1)  # (C,) or (1,)
    check_statistics(means, stds, inputs)
    value = (-means / stds).to(inputs)
    value = value.view(-1, *[1] * (inputs.dim() - 2))  # (C, 1, ...)
    return value.expand_as(inputs)


def _blur_matrix(side: int, kernel_size: int, sigma: float) -> Tensor:
    """Row i holds the weights of all pixels of an axis in its blurred pixel i."""
    reach = kernel_size // 2
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    pixels = torch.arange(side)
    sources = (pixels[:, None] + offsets.long()).abs()  # (side, kernel_size)
    sources = torch.where(sources < side, sources, 2 * (side - 1) - sources)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, sources, kernel.expand(side, -1))
