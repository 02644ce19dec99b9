"""Stability: how maps react to normalization and to changes of the inputs."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from captum_cams._numerics import difference
from captum_cams._validation import check_callable, check_number
from captum_cams.masks import min_max
from captum_cams.metrics._metric import check_any_maps, metric, nan_where_broken


def normalize(attributions: Tensor, eps: float = 1e-8) -> Tensor:
    r"""
    Each map scaled to [0, 1], or to less where its range is close to `eps`.

    .. math::
        \hat L = \frac{L - \min L}{\max L - \min L + \epsilon}

    (RSI-Grad-CAM, eq. 25-26). Calculated in single precision at least: a zero or
    constant map gives zeros in every dtype, float16 too, in which 1e-8 is 0. A map with
    NaN or infinity gives NaN.

    Source: M. Lucas et al., "RSI-Grad-CAM", https://arxiv.org/abs/2205.10900

    Args:
        attributions (Tensor): Maps, (N, 1, \*spatial) or (N, \*spatial), of a floating
            dtype.
        eps (float): Above 0. Default: 1e-8

    Returns:
        *Tensor* of `attributions`' shape and dtype, detached.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> normalize(torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]))
        tensor([[[0.0000, 0.2500],
                 [0.5000, 1.0000]]])
    """
    eps = check_number("eps", eps, "(0, inf)")
    maps = check_any_maps(attributions)  # (N, pixels)
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    extent = difference(high, low)  # (N, 1)
    scaled = torch.where(extent == 0, 0, (maps - low) / (extent + eps))
    return nan_where_broken(scaled, maps).view_as(attributions).to(attributions.dtype)


def scaled(maps: Tensor, eps: float | None) -> Tensor:
    """Maps scaled to [0, 1], exactly or by :func:`normalize`."""
    return min_max(maps) if eps is None else normalize(maps, eps)


@metric(higher_is_better=False)
def dark_heatmaps(attributions: Tensor, eps: float = 1e-8) -> Tensor:
    r"""
    1 where a map stays dark when it is normalized, else 0; lower is better.

    Dark is a range r = max - min with r / (r + eps) < 0.5: the largest value of the
    normalized map (RSI-Grad-CAM, section 4.3.2, which reports their share). A zero or
    constant map is dark. A map with NaN or infinity gives NaN.

    Source: M. Lucas et al., "RSI-Grad-CAM", https://arxiv.org/abs/2205.10900

    Args:
        attributions (Tensor): Maps, (N, 1, \*spatial) or (N, \*spatial), as they came
            from `attribute`, of a floating dtype.
        eps (float): Above 0. Default: 1e-8

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> maps = torch.rand(2, 1, 8, 8)
        >>> maps[1] *= 1e-9
        >>> dark_heatmaps(maps)
        tensor([0., 1.])
    """
    eps = check_number("eps", eps, "(0, inf)")
    maps = check_any_maps(attributions)  # (N, pixels)
    extent = difference(maps.amax(1), maps.amin(1))  # (N,)
    # Where the maps' dtype rounds `eps` to 0, a constant map gives NaN: not bright.
    bright = extent / (extent + eps) >= 0.5
    return nan_where_broken((~bright).to(maps), maps)


@metric(higher_is_better=True)
def heatmap_mean(attributions: Tensor) -> Tensor:
    r"""
    Mean of each map; higher is better before normalizing.

    A mean close to 0 before normalizing indicates vanishing gradients (RSI-Grad-CAM,
    section 4.3). After it, the mean of ``normalize(attributions)`` lies in [0, 1] and
    shows how much of the picture the map covers. A zero map gives 0, a constant map its
    value, a map with NaN or infinity NaN.

    Source: M. Lucas et al., "RSI-Grad-CAM", https://arxiv.org/abs/2205.10900

    Args:
        attributions (Tensor): Maps, (N, 1, \*spatial) or (N, \*spatial), of a floating
            dtype.

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> maps = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
        >>> heatmap_mean(maps), heatmap_mean(normalize(maps))
        (tensor([2.7500]), tensor([0.4375]))
    """
    maps = check_any_maps(attributions)  # (N, pixels)
    return nan_where_broken(maps.mean(1), maps)  # (N,)


def explanation_func(
    attribute: Callable[..., Any],
) -> Callable[..., tuple[Tensor, ...]]:
    """
    A layer attribution as Captum's ``sensitivity_max`` wants its first argument.

    Captum takes apart the one tensor that `attribute` of a layer attribution gives, as
    if it were a tuple: several examples then raise or are mixed up, and for one example
    the value is wrong. Here maps always come back in a tuple.

    Args:
        attribute (Callable): The `attribute` of any attribution, of this package or of
            Captum.

    Returns:
        *Callable* with the arguments of `attribute`, which returns a *tuple of Tensor*.

    Examples::

        >>> from captum.metrics import sensitivity_max
        >>> from captum_cams import LayerRSIGradCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> rsi = LayerRSIGradCam(model, model.block5)
        >>> sensitivity_max(
        ...     explanation_func(rsi.attribute),
        ...     pictures.images,
        ...     target=pictures.labels,
        ...     n_steps=5,
        ...     n_perturb_samples=2,
        ... ).shape
        torch.Size([2])
    """
    check_callable("attribute", attribute)

    @wraps(attribute)
    def explain(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        maps = attribute(*args, **kwargs)
        return tuple(maps) if isinstance(maps, (tuple, list)) else (maps,)

    return explain
