"""Complexity: on how few pixels a map puts its weight."""

import torch
from torch import Tensor

from captum_cams.metrics._metric import check_any_maps, metric, nan_where_broken


@metric(higher_is_better=False)
def complexity(attributions: Tensor) -> Tensor:
    r"""
    Entropy of each map's shares; lower is better.

    A pixel's share is its fractional contribution to the map, and

    .. math::
        P(i) = \frac{|L_i|}{\sum_j |L_j|}, \qquad
        \mathrm{complexity} = -\sum_i P(i) \ln P(i),

    from 0, where one pixel has it all, to the logarithm of the number of pixels, where
    all have as much: maps are compared at one size. A zero map has no shares and gives
    NaN, as a map with NaN or infinity does.

    Source: U. Bhatt, A. Weller, J. M. F. Moura, "Evaluating and Aggregating
    Feature-based Model Explanations", IJCAI 2020, https://arxiv.org/abs/2005.00631
    (there "complexity")

    Args:
        attributions (Tensor): Maps, (N, 1, \*spatial) or (N, \*spatial), of a floating
            dtype.

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
        >>> complexity(maps)
        tensor([0.0000, 1.3863])
    """
    maps = check_any_maps(attributions)  # (N, pixels)
    entropies = torch.special.entr(_shares(maps)).sum(1)  # (N,)
    return nan_where_broken(entropies, maps)


@metric(higher_is_better=True)
def sparseness(attributions: Tensor) -> Tensor:
    r"""
    Gini index of each map's magnitudes; higher is better.

    With the d magnitudes in ascending order, :math:`v_1 \le \dots \le v_d`,

    .. math::
        G = 1 - 2 \sum_{k=1}^d \frac{v_k}{\sum_j v_j} \cdot \frac{d - k + 1/2}{d},

    from 0, where all pixels are alike, to 1 - 1/d, where one has it all. A zero map
    gives NaN, as a map with NaN or infinity does.

    Source: P. Chalasani, J. Chen, A. R. Chowdhury, S. Jha, X. Wu, "Concise Explanations
    of Neural Networks using Adversarial Training", ICML 2020,
    https://arxiv.org/abs/1810.06583 (there "Gini index")

    Args:
        attributions (Tensor): Maps, (N, 1, \*spatial) or (N, \*spatial), of a floating
            dtype.

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
        >>> sparseness(maps)
        tensor([0.7500, 0.0000])
    """
    maps = check_any_maps(attributions)  # (N, pixels)
    d = maps.shape[1]
    shares = _shares(maps).sort(1).values  # (N, d), ascending
    ranks = torch.arange(1, d + 1, dtype=shares.dtype, device=shares.device)  # (d,)
    indices = (shares * (2 * ranks - d - 1)).sum(1) / d  # (N,), as shares add up to 1
    return nan_where_broken(indices, maps)


def _shares(maps: Tensor) -> Tensor:
    """Of the sum of each map's magnitudes, (N, pixels); NaN for a zero map."""
    # Of the largest one first: the sum of large values might overflow.
    magnitudes = maps.abs() / maps.abs().amax(1, keepdim=True)
    return magnitudes / magnitudes.sum(1, keepdim=True)
