"""Gaussian blur over all spatial axes."""

import torch
from torch import Tensor

from captum_cams._validation import check_count, check_floating, check_number, shape_of


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


def check_blur(inputs: Tensor, kernel_size: object, sigma: object) -> tuple[int, float]:
    """A Gaussian kernel that fits every spatial side under a reflected border."""
    check_floating("inputs", inputs)
    if inputs.dim() < 3:
        raise ValueError(
            "a blur needs inputs with spatial axes, (N, C, *spatial), got shape "
            f"{shape_of(inputs)}; give baselines as a tensor or a number instead"
        )
    taps, deviation = check_kernel(kernel_size, sigma)
    side = min(inputs.shape[2:])
    if side <= taps // 2:
        raise ValueError(
            f"the blur's kernel size {taps} needs sides of at least "
            f"{taps // 2 + 1} pixels, got inputs of shape {shape_of(inputs)}; "
            f"a kernel size of {2 * side - 1} or less fits"
        )
    return taps, deviation


def check_kernel(kernel_size: object, sigma: object) -> tuple[int, float]:
    """Taps and standard deviation of a Gaussian blur."""
    taps = check_count("the blur's kernel size", kernel_size)
    if taps % 2 == 0:
        raise ValueError(f"the blur's kernel size must be odd, got {kernel_size}")
    return taps, check_number("the blur's sigma", sigma, "(0, inf)")
