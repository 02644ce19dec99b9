"""Deletion and insertion: the output while important pixels are removed or shown."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_cams._captum import BaselineType, TargetType
from captum_cams._validation import check_count
from captum_cams.baselines import blurred
from captum_cams.masks import descending_ranks
from captum_cams.metrics._faithfulness import Examples, check_examples
from captum_cams.metrics._metric import metric, resized


@metric(higher_is_better=False)
def deletion_curve(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Output while the map's largest pixels are removed, step by step; lower is better.

    After step t = 0 .. n_steps, the floor(t * pixels / n_steps) largest pixels of the
    map, upsampled to the input, show the baseline (Group-CAM, section 4.3, after RISE).
    Equal pixels go as they are read, row by row, so that a zero or constant map is
    read from its first pixel to its last. A map with NaN or infinity gives NaN.
    Values are outputs as they are: in [0, 1] for confidences, zero confidence included.

    Sources: Q. Zhang et al., "Group-CAM", https://arxiv.org/abs/2103.13859;
    V. Petsiuk et al., "RISE", https://arxiv.org/abs/1806.07421

    Args:
        forward_func (Callable): The model or any function of it.
        inputs (Tensor or tuple of Tensor): Examples, (N, C, \*spatial), with 1 to 3
            spatial axes. Each tensor of a tuple loses its own pixels in each step.
        attributions (Tensor or tuple of Tensor): Maps, as in :func:`average_drop`.
        baselines (Tensor, number or tuple, optional): What shows instead of the
            input. Default: None, the input under a Gaussian blur of 51 taps and sigma
            50, which needs sides of 26 pixels (``baselines.blurred(inputs, ...)``
            makes smaller ones; 0 is RISE's choice)
        additional_forward_args (Any, optional): As in :func:`average_drop`.
        target (int, tuple, Tensor or list, optional): As there.
        n_steps (int): Number of steps, at least 1, with one forward pass each.
            Default: 100
        max_examples_per_batch (int, optional): As there; steps of all examples are
            batched together.

    Returns:
        *Tensor*, (N, n_steps + 1), from the input to the baseline.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> curve = deletion_curve(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... )
        >>> curve.shape
        torch.Size([2, 5])
    """
    examples = check_examples(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        max_examples_per_batch=max_examples_per_batch,
        default_baseline=blurred,
    )
    return curves(examples, n_steps, [False])[0]


@metric(higher_is_better=True)
def insertion_curve(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Output while the map's largest pixels are shown, step by step; higher is better.

    After step t, the pixels that :func:`deletion_curve` removes show the input, all
    others the baseline (Group-CAM, section 4.3). Zero, constant and broken maps are
    treated as there.

    All arguments are those of :func:`deletion_curve`.

    Returns:
        *Tensor*, (N, n_steps + 1), from the baseline to the input.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> curve = insertion_curve(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... )
        >>> curve[:, -1].round()  # the whole picture
        tensor([1., 1.])
    """
    examples = check_examples(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        max_examples_per_batch=max_examples_per_batch,
        default_baseline=blurred,
    )
    return curves(examples, n_steps, [True])[0]


@metric(higher_is_better=False)
def deletion_auc(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Area under the deletion curve; lower is better.

    By the trapezoid rule over equal spacing, on an axis from 0 to 1: a mean of the
    outputs, and in their range (Group-CAM, section 4.3). Zero, constant and broken
    maps are treated as in :func:`deletion_curve`.

    All arguments are those of :func:`deletion_curve`.

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> deletion_auc(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... ).shape
        torch.Size([2])
    """
    curve = deletion_curve(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        n_steps=n_steps,
        max_examples_per_batch=max_examples_per_batch,
    )
    return _area(curve)


@metric(higher_is_better=True)
def insertion_auc(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Area under the insertion curve; higher is better.

    By the trapezoid rule over equal spacing, on an axis from 0 to 1: a mean of the
    outputs, and in their range (Group-CAM, section 4.3). Zero, constant and broken
    maps are treated as in :func:`deletion_curve`.

    All arguments are those of :func:`deletion_curve`.

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> insertion_auc(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... ).shape
        torch.Size([2])
    """
    curve = insertion_curve(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        n_steps=n_steps,
        max_examples_per_batch=max_examples_per_batch,
    )
    return _area(curve)


@metric(higher_is_better=True)
def overall(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType = None,
    additional_forward_args: object = None,
    target: TargetType = None,
    *,
    n_steps: int = 100,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    r"""
    Insertion less deletion, as areas; higher is better.

    In [-1, 1] for confidences (Group-CAM, section 4.3). Both curves share one order of
    the pixels and one baseline. Zero, constant and broken maps are treated as in
    :func:`deletion_curve`.

    All arguments are those of :func:`deletion_curve`.

    Returns:
        *Tensor*, (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> maps = torch.rand(2, 1, 8, 8)
        >>> overall(
        ...     model, pictures.images, maps, target=pictures.labels, n_steps=4
        ... ).shape
        torch.Size([2])
    """
    examples = check_examples(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        max_examples_per_batch=max_examples_per_batch,
        default_baseline=blurred,
    )
    deletion, insertion = curves(examples, n_steps, [False, True])
    return _area(insertion) - _area(deletion)


def curves(examples: Examples, n_steps: int, insertions: list[bool]) -> list[Tensor]:
    """
    One or both curves, insertion (True) and deletion (False), (N, n_steps + 1) each.

    The second begins where the first ends, and ends where it begins: these outputs are
    taken from there.
    """
    n_steps = check_count("n_steps", n_steps)
    ranks = tuple(
        descending_ranks(resized(maps, x.shape[2:]))  # (N, 1, *input spatial)
        for x, maps in zip(examples.inputs, examples.maps, strict=True)
    )
    N, batch_size = len(examples.inputs[0]), examples.batch_size
    # A batch holds as many steps of each of its examples as fill it.
    together = max(n for n in range(1, min(N, batch_size) + 1) if batch_size % n == 0)

    of_curve = [range(n_steps + 1), range(1, n_steps)][: len(insertions)]
    steps = torch.tensor([step for own in of_curve for step in own])  # (S,)
    inserts = torch.tensor(insertions).repeat_interleave(
        torch.tensor([len(own) for own in of_curve])
    )  # (S,)

    def outputs(first: int) -> Tensor:
        batch = slice(first, min(first + together, N))
        numbers = torch.arange(N)[batch]
        n = len(numbers)

        def rows(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
            at = slice(start // n, stop // n)

            def pictures(x: Tensor, baseline: Tensor, rank: Tensor) -> Tensor:
                count, insert = (
                    of_step[at].view(-1, *[1] * x.dim()).to(rank.device)
                    for of_step in (steps * rank[0].numel() // n_steps, inserts)
                )  # (p, 1, 1, ...)
                largest = rank[batch] < count  # (p, n, 1, *spatial)
                # `blend` by masks of 0 and 1, without the arithmetic.
                shown = torch.where(largest == insert, x[batch], baseline[batch])
                return shown.flatten(0, 1)  # (p * n, C, *spatial)

            tensors = zip(examples.inputs, examples.baselines, ranks, strict=True)
            shown = tuple(pictures(*of_input) for of_input in tensors)
            return shown, numbers.repeat(len(steps[at]))

        size = len(steps) * n
        return examples.outputs(rows, size, batch_size // n * n).view(-1, n).T  # (n, S)

    found = examples.nan_where_broken(
        torch.cat([outputs(first) for first in range(0, N, together)])
    )  # (N, S)
    curve, between = found[:, : n_steps + 1], found[:, n_steps + 1 :]
    swapped = torch.cat([curve[:, -1:], between, curve[:, :1]], 1)  # (N, n_steps + 1)
    return [curve, swapped][: len(insertions)]


def _area(curves: Tensor) -> Tensor:
    """By the trapezoid rule on an axis from 0 to 1, (N,)."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1), dim=1)  # (N,)
