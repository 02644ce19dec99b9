"""ROAD: the output while pixels are removed, and imputed from those around them."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_cams._captum import TargetType
from captum_cams._validation import check_count, check_number, check_seed
from captum_cams.masks import descending_ranks
from captum_cams.metrics._faithfulness import Examples, check_examples
from captum_cams.metrics._metric import metric, resized


@metric(higher_is_better=False)
def road_morf_curve(  # noqa: PLR0913
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 10,
    stdevs: float = 0.01,
    seed: int = 0,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Output while the most relevant pixels are imputed first; lower is better.

    After step t = 0 .. n_steps - 1, the floor(t * pixels / n_steps) largest pixels of
    the map, upsampled to the input, are removed. In their place comes what their
    surroundings tell (the paper's noisy linear imputation): each removed pixel is the
    weighted mean of its 8 neighbors, 1/6 for the direct and 1/12 for the diagonal ones,
    removed neighbors included, so that all of them are one sparse system of linear
    equations; and each has Gaussian noise of its own. At the border the weights of the
    neighbors that exist are scaled to a sum of 1. Where a blur or a color shows the
    shape of what was removed, and the model may read that, an imputed pixel is hard to
    tell from others.

    Signals and volumes, which the paper does not have, are treated alike: a direct
    neighbor weighs twice as much as any other one. There is no last step, as without
    any pixel nothing can be imputed.

    Equal pixels go as they are read, row by row. A map with NaN or infinity gives NaN.
    Values are outputs as they are. Solving the equations takes about half a second of
    one core for each step and picture of 224 x 224 pixels.

    Source: Y. Rong, T. Leemann, V. Borisov, G. Kasneci, E. Kasneci, "A Consistent and
    Efficient Evaluation Strategy for Attribution Methods", ICML 2022,
    https://arxiv.org/abs/2202.00449

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (Tensor or tuple of Tensor): Examples, (N, C, \*spatial), with 1 to 3
            spatial axes. Each tensor of a tuple loses its own pixels in each step.
        attributions (Tensor or tuple of Tensor): Maps, as in :func:`average_drop`.
        additional_forward_args (Any, optional): As in :func:`average_drop`.
        target (int, tuple, Tensor or list, optional): As there.
        n_steps (int): Parts into which the pixels are divided, at least 2, with one
            forward pass each. Default: 10, which removes 10% to 90%
        stdevs (float): Standard deviation of the noise, in the inputs' scales.
            Default: 0.01, as in pytorch-grad-cam
        seed (int): Draws the noise, one picture of it for all examples and steps;
            PyTorch's global generators are left alone. Default: 0
        max_examples_per_batch (int, optional): As there; steps of all examples are
            batched together.

    Returns:
        *Tensor*, (N, n_steps), from the input on.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> curve = road_morf_curve(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... )
        >>> curve.shape
        torch.Size([2, 4])
    """
    examples = _check(
        forward_func,
        inputs,
        attributions,
        additional_forward_args,
        target,
        max_examples_per_batch,
    )
    return _curves(examples, n_steps, stdevs, seed, [False])[:, 0]  # (N, n_steps)


@metric(higher_is_better=True)
def road_lerf_curve(  # noqa: PLR0913
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 10,
    stdevs: float = 0.01,
    seed: int = 0,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Output while the least relevant pixels are imputed first; higher is better.

    As :func:`road_morf_curve`, but from the smallest pixel of the map on. Equal pixels
    go as they are read here, too, so that the two curves of a constant map are one.

    All arguments are those of :func:`road_morf_curve`.

    Returns:
        *Tensor*, (N, n_steps), from the input on.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> curve = road_lerf_curve(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... )
        >>> curve.shape
        torch.Size([2, 4])
    """
    examples = _check(
        forward_func,
        inputs,
        attributions,
        additional_forward_args,
        target,
        max_examples_per_batch,
    )
    return _curves(examples, n_steps, stdevs, seed, [True])[:, 0]  # (N, n_steps)


@metric(higher_is_better=True)
def road(  # noqa: PLR0913
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 10,
    stdevs: float = 0.01,
    seed: int = 0,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Half of what least relevant first keeps over most relevant first; higher is better.

    .. math::
        \mathrm{road} = \frac{1}{T - 1} \sum_{t=1}^{T-1}
            \frac{\mathrm{LeRF}_t - \mathrm{MoRF}_t}{2}

    of the curves of :func:`road_lerf_curve` and :func:`road_morf_curve` with T
    `n_steps`: in [-1/2, 1/2] for confidences, and 0 for a constant map. The paper
    compares the two orders curve by curve; that they are one number is
    pytorch-grad-cam's choice (its `ROADCombined`).

    All arguments are those of :func:`road_morf_curve`.

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> road(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... ).shape
        torch.Size([2])
    """
    examples = _check(
        forward_func,
        inputs,
        attributions,
        additional_forward_args,
        target,
        max_examples_per_batch,
    )
    curves = _curves(examples, n_steps, stdevs, seed, [False, True], first=1)
    morf, lerf = curves.mean(2).unbind(1)  # (N,) each
    return (lerf - morf) / 2


def _check(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    additional_forward_args: object,
    target: TargetType,
    max_examples_per_batch: int | None,
) -> Examples:
    return check_examples(
        forward_func,
        inputs,
        attributions,
        None,
        additional_forward_args,
        target,
        max_examples_per_batch=max_examples_per_batch,
        default_baseline=torch.zeros_like,  # there is none
    )


def _curves(
    examples: Examples,
    n_steps: int,
    stdevs: float,
    seed: int,
    least_first: list[bool],
    first: int = 0,
) -> Tensor:
    """Outputs of each order from step `first` on, (N, orders, steps)."""
    n_steps = check_count("n_steps", n_steps, least=2)
    stdevs = check_number("stdevs", stdevs, "[0, inf)")
    generator = torch.Generator().manual_seed(check_seed(seed))
    noises = [
        stdevs * torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
        for x in examples.inputs
    ]  # (C, *spatial) each
    maps = [
        resized(maps, x.shape[2:])
        for x, maps in zip(examples.inputs, examples.maps, strict=True)
    ]
    ranks = [
        torch.cat([descending_ranks(-m if least else m) for least in least_first], 1)
        for m in maps
    ]  # (N, orders, *spatial) each
    N, orders = len(examples.inputs[0]), len(least_first)
    rows = torch.cartesian_prod(
        torch.arange(N), torch.arange(orders), torch.arange(first, n_steps)
    )  # (R, 3)

    def pictures(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        here = rows[start:stop]
        imputed = []
        for x, rank, noise in zip(examples.inputs, ranks, noises, strict=True):
            pixels = rank[0, 0].numel()
            made = [
                _imputed(x[n], rank[n, order] < step * pixels // n_steps, noise)
                for n, order, step in here.tolist()
            ]
            imputed.append(torch.stack(made))  # (r, C, *spatial)
        return tuple(imputed), here[:, 0]

    found = examples.outputs(pictures, len(rows), examples.batch_size)  # (R,)
    return examples.nan_where_broken(found.view(N, orders, -1))


def _imputed(picture: Tensor, removed: Tensor, noise: Tensor) -> Tensor:
    r"""
    A picture whose removed pixels are weighted means of their neighbors, and noise.

    Args:
        picture (Tensor): (C, \*spatial).
        removed (Tensor): Of bool, (\*spatial); some pixel is left.
        noise (Tensor): (C, \*spatial), on the CPU.

    Returns:
        *Tensor* of `picture`'s shape.
    """
    if not removed.any():
        return picture
    values = picture.flatten(1).double().cpu().numpy()  # (C, pixels)
    mask = removed.cpu().numpy()  # (*spatial)
    solved = torch.from_numpy(_solved(values, mask))  # (removed, C)
    noisy = solved.T + noise[:, removed.cpu()]  # (C, removed)
    imputed = picture.clone()
    imputed[:, removed] = noisy.to(picture)
    return imputed


def _solved(values: Any, mask: Any) -> Any:
    """Of what neighbors say about each removed pixel, the solution, (removed, C)."""
    # Here, as it takes its time.
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import splu

    places = np.argwhere(mask)  # (removed, axes)
    count = len(places)
    number = np.full(mask.size, -1)  # of each removed pixel, -1 for the others
    number[mask.ravel()] = np.arange(count)
    totals = np.zeros(count)
    known = np.zeros((count, len(values)))  # (removed, C)
    entries = []
    for offset in itertools.product((-1, 0, 1), repeat=mask.ndim):
        distance = np.abs(offset).sum()
        if distance == 0:
            continue
        weight = 2.0 if distance == 1 else 1.0  # 1/6 and 1/12 of 8, scaled
        near = places + offset
        inside = ((near >= 0) & (near < mask.shape)).all(1)
        rows = np.flatnonzero(inside)
        pixels = np.ravel_multi_index(tuple(near[inside].T), mask.shape)
        totals[rows] += weight
        missing = number[pixels] >= 0
        known[rows[~missing]] += weight * values[:, pixels[~missing]].T
        rows, columns = rows[missing], number[pixels[missing]]
        entries.append((np.full(len(rows), -weight), rows, columns))
    entries.append((totals, np.arange(count), np.arange(count)))
    coefficients, rows, columns = map(np.concatenate, zip(*entries, strict=True))
    entries_at = coefficients, (rows, columns)
    system = csc_matrix(entries_at, shape=(count, count))  # type: ignore[no-untyped-call]
    # It is symmetric, and each row's largest number is on the diagonal.
    factors = splu(  # type: ignore[no-untyped-call]
        system,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    return factors.solve(known)
