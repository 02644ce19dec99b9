"""Baselines: inputs without information, at which a path or a masked input starts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from captum_cams._numerics import precise
from captum_cams._validation import (
    check_all_positive,
    check_baselines,
    check_callable,
    check_count,
    check_flags,
    check_floating,
    check_generator,
    check_inputs,
    check_number,
    check_numbers,
)
from captum_cams.blur import check_blur, gaussian_blur
from captum_cams.target_output import TargetOutput, output_and_gradient, rows_per_batch


def blurred(inputs: Tensor, kernel_size: int = 51, sigma: float = 50.0) -> Tensor:
    r"""
    Gaussian blur over all spatial axes, with reflected borders.

    The result is that of torchvision's ``gaussian_blur``, for signals and volumes
    too.

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
    kernel_size, sigma = check_blur(inputs, kernel_size, sigma)
    return gaussian_blur(inputs, kernel_size, torch.tensor(sigma, dtype=torch.float64))


def black(
    inputs: Tensor, mean: float | Sequence[float], std: float | Sequence[float]
) -> Tensor:
    r"""
    The black picture of a model whose inputs are normalized.

    A picture in [0, 1] enters such a model as (picture - mean) / std; 0 is then the
    mean color, and black is -mean / std.

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
    return constant(inputs, 0.0, mean, std)


def constant(
    inputs: Tensor,
    value: float | Sequence[float],
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> Tensor:
    r"""
    A picture of one color.

    Args:
        inputs (Tensor): (N, C, \*spatial), for shape, dtype and device.
        value (float or sequence of float): Of all channels, or one for each: in the
            inputs' own units, or before the normalization by `mean` and `std`.
        mean (float or sequence of float): Likewise. Default: 0
        std (float or sequence of float): Likewise, above 0. Default: 1

    Returns:
        *Tensor* of `inputs`' shape, (value - mean) / std in every pixel.

    Raises:
        ValueError: If there are neither 1 nor C numbers, or a `std` is not above 0.

    Examples::

        >>> inputs = torch.rand(2, 3, 8, 8)
        >>> constant(inputs, [1, 0, 0])[0, :, 0, 0]
        tensor([1., 0., 0.])
        >>> gray = constant(inputs, 0.5, mean=[0.5, 0.4, 0.2], std=[0.5, 0.2, 0.2])
        >>> gray[0, :, 0, 0]
        tensor([0.0000, 0.5000, 1.5000])
    """
    values = _per_channel("value", value, inputs)
    return _normalized(values, mean, std, inputs).expand_as(inputs)


def uniform_noise(
    inputs: Tensor,
    generator: torch.Generator | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> Tensor:
    r"""
    Noise of uniformly distributed values from 0 to 1.

    Args:
        inputs (Tensor): (N, C, \*spatial), for shape, dtype and device.
        generator (torch.Generator, optional): Draws the noise. Default: None, a new
            one with seed 0, so that the noise is always the same. PyTorch's global
            generators are not used either way.
        mean (float or sequence of float): Of all channels, or one for each, where
            pictures enter the model as (picture - mean) / std. Default: 0
        std (float or sequence of float): Likewise, above 0. Default: 1

    Returns:
        *Tensor* of `inputs`' shape, (noise - mean) / std.

    Raises:
        ValueError: If there are neither 1 nor C numbers, or a `std` is not above 0.

    Examples::

        >>> noise = uniform_noise(torch.zeros(2, 3, 100, 100))
        >>> round(noise.mean().item(), 2), bool((noise >= 0).all())
        (0.5, True)
    """
    check_floating("inputs", inputs)
    check_generator(generator)
    generator = generator or torch.Generator().manual_seed(0)
    noise = torch.rand(
        inputs.shape,
        generator=generator,
        device=generator.device,
        dtype=precise(inputs),
    )
    return _normalized(noise, mean, std, inputs)


def neutral(  # noqa: PLR0913
    forward_func: Callable[..., Any],
    inputs: Tensor,
    additional_forward_args: object = None,
    *,
    black: Tensor | float = 0.0,
    n_steps: int = 200,
    lr: float = 0.001,
    output_func: Callable[[Tensor], Tensor] | None = None,
    internal_batch_size: int | None = None,
    show_progress: bool = False,
) -> Tensor:
    r"""
    Nearly black inputs for which the model predicts all classes as equally likely.

    A path that starts there shows the evidence for a class, also where the model
    prefers some class for black. Starting at black, RMSprop minimizes over inputs
    :math:`b`

    .. math::
        0.99 \, \max_c \Big| p_c(b) - \frac{1}{C} \Big|
        + 0.01 \, \mathrm{mean} (b - \mathrm{black})^2,

    and the best of all its steps is returned, for each example its own. This is the
    automatic baseline of the authors of RSI-Grad-CAM.

    The model is left as found: its gradients, mode and buffers do not change.

    Args:
        forward_func (Callable): The model or any function of it, whose output is the
            probabilities of C classes, (N, C); see `output_func` for logits.
        inputs (Tensor): Examples, (N, \*shape), of a floating dtype; only for shape,
            dtype and device.
        additional_forward_args (Any, optional): Passed to `forward_func` behind the
            inputs. Tensors with N rows follow their examples. Where there are none,
            and black is the same for all examples, one search serves them all.
        black (Tensor or number): The black input, of the inputs' shape, or with 1 in
            the first place, or a number. Default: 0. For inputs normalized as
            (picture - mean) / std it is :func:`black`\ ``(inputs, mean, std)``.
        n_steps (int): Number of steps. Default: 200
        lr (float): Size of a step in the inputs' own units: about what a value changes
            by, at first ten times as much. Default: 0.001, for inputs in [0, 1] or
            normalized ones; those in [0, 255] need 255 times as much. Steps that are
            too large miss the narrow minimum.
        output_func (Callable, optional): Applied to `forward_func`'s output to make
            probabilities of it: ``lambda y: y.softmax(1)`` for logits.
        internal_batch_size (int, optional): Most inputs that go through the network
            together, at least 1. Default: None, chosen by device and input size
        show_progress (bool): Whether a progress bar shows the steps. Default: False

    Returns:
        *Tensor* of `inputs`' shape, detached.

    Raises:
        ValueError, TypeError: If an argument does not fit; if the outputs are no
            probabilities, or do not depend on the inputs.

    Examples::

        >>> from captum_cams import LayerRSIGradCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> baselines = neutral(model, pictures.images, n_steps=100)
        >>> bool((model(baselines).detach() - 1 / 8).abs().max() < 0.1)  # black: 0.32
        True
        >>> rsi = LayerRSIGradCam(model, model.block5)
        >>> maps = rsi.attribute(pictures.images, baselines, pictures.labels)
    """
    check_callable("forward_func", forward_func)
    (ends,) = check_inputs((inputs,))
    (starts,) = check_baselines(black, (ends,), "black baselines")
    n_steps = check_count("n_steps", n_steps)
    lr = check_number("lr", lr, "(0, inf)")
    check_callable("output_func", output_func, optional=True)
    check_flags(show_progress=show_progress)

    def imbalance(output: Tensor) -> Tensor:
        p = output if output_func is None else output_func(output)
        _check_probabilities(p)
        return (p - 1 / p.shape[1]).abs().amax(1)  # (B,)

    y = TargetOutput(
        forward_func, (ends,), None, additional_forward_args, output_func=imbalance
    )
    # One search serves all examples if the model sees no difference between them.
    same = not y.arguments and bool((starts == starts[:1]).all())
    rows = torch.arange(1 if same else len(ends))
    batch_size = rows_per_batch((ends,), internal_batch_size)
    best = []
    with tqdm(total=len(rows) * n_steps, disable=not show_progress, unit="step") as bar:
        for examples in torch.split(rows, batch_size):
            best.append(_descend(y, starts[examples], examples, n_steps, lr, bar))
    return torch.cat(best).expand_as(ends)


def _descend(
    y: TargetOutput, black: Tensor, examples: Tensor, n_steps: int, lr: float, bar: Any
) -> Tensor:
    """The inputs with the lowest loss among the steps of RMSprop from black."""
    # Small steps would be lost in half precision.
    values = black.to(precise(black), copy=True)
    optimizer = torch.optim.RMSprop([values], lr=lr)
    best, lowest = black.clone(), torch.full((len(black),), torch.inf).to(values)
    for step in range(n_steps + 1):
        point = values.to(black.dtype)
        # (B,), and like point
        imbalance, gradient = output_and_gradient(y, point, examples)
        distance = values - black
        loss = 0.99 * imbalance + 0.01 * distance.square().flatten(1).mean(1)  # (B,)
        better = loss < lowest
        best[better], lowest[better] = point[better], loss[better].to(lowest)
        if step < n_steps:
            values.grad = 0.99 * gradient + 0.02 * distance / distance[0].numel()
            optimizer.step()
            bar.update(len(examples))
    return best


def _per_channel(name: str, value: float | Sequence[float], inputs: Tensor) -> Tensor:
    """Numbers of all channels or of each, in double precision, (C or 1, 1, ...)."""
    values = check_numbers(name, value).reshape(-1)  # (C,) or (1,)
    _check_per_channel(name, values, inputs)
    return values.view(-1, *[1] * (inputs.dim() - 2))  # (C or 1, 1, ...)


def _normalized(
    pictures: Tensor,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    inputs: Tensor,
) -> Tensor:
    """Pictures as they enter a model, like `inputs`."""
    means, stds = (
        _per_channel(name, value, inputs).to(pictures)
        for name, value in (("mean", mean), ("std", std))
    )
    check_all_positive("std", stds)
    return ((pictures - means) / stds).to(inputs)


def _check_per_channel(name: str, values: Tensor, inputs: Tensor) -> None:
    """A number of all channels, or one for each."""
    check_floating("inputs", inputs)
    if inputs.dim() < 3:
        raise ValueError(
            f"inputs must be pictures (N, C, *spatial), got shape {tuple(inputs.shape)}"
        )
    if values.numel() not in (1, inputs.shape[1]):
        raise ValueError(
            f"{name} must hold 1 number or one for each of the {inputs.shape[1]} "
            f"channels, got {values.numel()}"
        )
    if not values.isfinite().all():
        raise ValueError(f"{name} must be finite, got {values.tolist()}")


def _check_probabilities(p: Tensor) -> None:
    """Probabilities of two or more classes, up to rounding in half precision."""
    if p.dim() != 2 or p.shape[1] < 2:
        raise ValueError(
            "forward_func must give the probabilities of two or more classes, (N, C), "
            f"got shape {tuple(p.shape)}; output_func may reshape them"
        )
    sums = p.sum(1)
    if not ((p >= 0).all() and (sums - 1).abs().max() < 0.02):
        raise ValueError(
            "forward_func must give probabilities, numbers of at least 0 whose sum is "
            f"1, got a least one of {p.min():.3g} and a largest sum of "
            f"{sums.max():.3g}; pass output_func=lambda y: y.softmax(1) for logits"
        )
