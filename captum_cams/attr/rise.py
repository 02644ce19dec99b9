"""RISE."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor
from tqdm import tqdm

from captum_cams._captum import BaselineType, TargetType, log_usage
from captum_cams._numerics import precise
from captum_cams._validation import (
    check_baselines,
    check_callable,
    check_count,
    check_flags,
    check_generator,
    check_inputs,
    check_number,
    shape_of,
    warn,
)
from captum_cams.attr._cam import ShownByName, TensorOrTuple, check_no_overflow
from captum_cams.attr._mask_scores import masked_outputs
from captum_cams.attr.registry import register
from captum_cams.masks import random_cells, shifted
from captum_cams.target_output import Batch, TargetOutput, rows_per_batch

_BLOCK = 100  # masks between two looks at the tolerance


@register(
    "rise",
    colors={"baselines": "black"},
    seed_arguments=lambda seed: {"generator": torch.Generator().manual_seed(seed)},
    test_arguments={"n_masks": 5, "grid_size": 2},
    axioms={"linearity", "implementation_invariance", "input_invariance"},
    homogeneity=1,
)
class Rise(ShownByName, PerturbationAttribution):
    r"""
    RISE: randomized input sampling for explanation.

    The mean of many random masks, each weighted by the output at the input that it
    masks,

    .. math::
        \mathrm{map} = \frac{1}{p\,m} \sum_{i=1}^m
            y\bigl(x \odot M_i + \tilde x \odot (1 - M_i)\bigr)\, M_i

    (eq. 6), with the baseline :math:`\tilde x` of 0 in the paper. A mask is a grid of
    cells that are 1 with probability :math:`p` and 0 otherwise, enlarged linearly to
    one cell more than the input and cut out at a random place. All examples share
    their masks, so that the map of one does not depend on the others.

    Where this class leaves the paper: a cell's side is that of the input divided by
    the grid's and rounded up, not down, as the enlarged grid is else too small for
    some sizes.

    Source: V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for
    Explanation of Black-box Models", BMVC 2018, https://arxiv.org/abs/1806.07421

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it. The paper explains softmax outputs.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> rise = Rise(model)
        >>> rise.attribute(pictures.images, target=pictures.labels, n_masks=50).shape
        torch.Size([2, 1, 128, 128])
    """

    forward_func: Callable[..., Any]

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        check_callable("forward_func", forward_func)
        super().__init__(forward_func)

    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0913
        self,
        inputs: TensorOrTuple,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_masks: int = 4000,
        *,
        grid_size: int | tuple[int, ...] = 7,
        probability: float = 0.5,
        generator: torch.Generator | None = None,
        tolerance: float | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> TensorOrTuple:
        r"""
        Maps over the input, from `n_masks` forward passes an example.

        Masks are made when their turn comes and kept as running sums: memory does not
        grow with their number.

        Arguments that are not described here are those of :meth:`GroupCam.attribute`.

        Args:
            inputs (Tensor or tuple of Tensor): Examples to explain,
                (N, C, \*spatial), of a floating dtype. Every tensor of a tuple is
                masked at its own size by the same grids.
            baselines (Tensor, number or tuple, optional): What shows where a mask is
                0: tensors of the inputs' shapes, or with 1 in the first place, or
                numbers. Default: 0 (after a mean/std normalization that is not black)
            n_masks (int): m, with a tolerance the most of them. Default: 4000, the
                paper's for VGG-16 (8000 for ResNet-50)
            grid_size (int or tuple of int): Cells along all spatial axes, or along
                each. Default: 7
            probability (float): p, that a cell shows the input. Default: 0.5
            generator (torch.Generator, optional): Draws the masks. Default: None, a
                new one with seed 0, so that maps repeat. PyTorch's global generators
                are left alone either way.
            tolerance (float, optional): Ends an example's passes early. After every
                100 masks the standard error of the map is estimated: for each pixel
                the sample standard deviation of y M_i / p over the masks so far,
                divided by the square root of their number; then the root mean square
                over the pixels. An example is done where this is at most `tolerance`
                times the difference of the map's largest and smallest value (for a
                tuple of inputs, in each of its maps). Default: None, no such test

        Returns:
            *Tensor* of **maps** (N, 1, \*input spatial), detached, in units of the
            output; a tuple of them for a tuple of inputs.

        Raises:
            ValueError, TypeError: If an argument does not fit.

        Warns:
            UserWarning: If some example does not reach `tolerance`.
        """
        n_masks = check_count("n_masks", n_masks)
        probability = check_number("probability", probability, "(0, 1)")
        check_generator(generator)
        if tolerance is not None:
            tolerance = check_number("tolerance", tolerance, "(0, inf)")
        check_flags(show_progress=show_progress)
        inputs_tuple = check_inputs(inputs)
        _check_spatial_axes(inputs_tuple)
        grid = _check_grid(grid_size, [x.shape[2:] for x in inputs_tuple])
        baselines_tuple = check_baselines(baselines, inputs_tuple)
        output = TargetOutput(
            self.forward_func, inputs_tuple, target, additional_forward_args
        )
        generator = generator or torch.Generator().manual_seed(0)
        batch_size = rows_per_batch(inputs_tuple, internal_batch_size)

        everything = Batch(
            torch.arange(len(inputs_tuple[0])), inputs_tuple, baselines_tuple
        )
        estimates = _Estimates(inputs_tuple)
        active = everything.examples  # those that still need masks
        used, errors = 0, torch.zeros(0)
        with tqdm(
            total=len(active) * n_masks, disable=not show_progress, unit="mask"
        ) as bar:
            while used < n_masks and len(active):
                block = min(_BLOCK, n_masks - used)
                cells, shifts = random_cells(block, grid, probability, generator)
                for part in torch.split(
                    torch.arange(block), max(1, batch_size // len(active))
                ):
                    masks = [
                        shifted(cells[part].to(x), shifts[part], x.shape[2:])
                        for x in inputs_tuple
                    ]
                    scores = _scores(output, everything, masks, active, batch_size)
                    estimates.add(
                        active, scores, [mask / probability for mask in masks]
                    )
                    bar.update(len(scores) * len(active))
                used += block
                if tolerance is not None:
                    errors = estimates.errors(active)  # (n,)
                    bar.total -= int((errors <= tolerance).sum()) * (n_masks - used)
                    # NaN where squares overflow or vanish
                    active = active[~(errors <= tolerance)]
        if tolerance is not None and len(active):
            warn(
                f"the maps of {len(active)} of {len(everything.examples)} examples "
                f"have not reached the tolerance of {tolerance} after {n_masks} masks: "
                f"their standard error is up to {errors.max():.3g} of the map's range; "
                "raise n_masks or tolerance"
            )
        maps = estimates.maps()
        return maps if isinstance(inputs, tuple) else maps[0]


def _scores(
    output: TargetOutput,
    everything: Batch,
    masks: list[Tensor],
    active: Tensor,
    batch_size: int,
) -> Tensor:
    """The output of every active example behind every mask, (B, n)."""
    row = torch.arange(len(masks[0]) * len(active))
    mask, example = row // len(active), active[row % len(active)]
    outputs = masked_outputs(
        output, everything, example, lambda rows, i: masks[i][mask[rows]], batch_size
    )
    return outputs.view(-1, len(active))  # (B, n)


class _Estimates:
    """Maps over several inputs, from running sums."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        self.dtypes = [x.dtype for x in inputs]
        self.estimates = [_Estimate(x) for x in inputs]

    def add(self, examples: Tensor, scores: Tensor, masks: Sequence[Tensor]) -> None:
        """Some scores, (B, n), and the masks that belong to them, for each input."""
        for estimate, mask in zip(self.estimates, masks, strict=True):
            estimate.add(examples, scores, mask)

    def errors(self, examples: Tensor) -> Tensor:
        """Of each example the largest relative standard error of its maps, (n,)."""
        return torch.stack([e.error(examples) for e in self.estimates]).amax(0)

    def maps(self) -> tuple[Tensor, ...]:
        """The mean maps."""
        return tuple(
            check_no_overflow(estimate.mean().to(dtype))
            for estimate, dtype in zip(self.estimates, self.dtypes, strict=True)
        )


class _Estimate:
    """Mean of y M / p over masks, and its standard error, from running sums."""

    def __init__(self, inputs: Tensor) -> None:
        self.size = inputs.shape[2:]
        dtype = precise(inputs)
        n, pixels = len(inputs), self.size.numel()
        self.sums = inputs.new_zeros(n, pixels, dtype=dtype)
        self.squares = torch.zeros_like(self.sums)
        self.counts = inputs.new_zeros(n, 1, dtype=dtype)

    def add(self, examples: Tensor, scores: Tensor, masks: Tensor) -> None:
        weights = scores.T.to(self.sums)  # (n, B)
        values = masks.flatten(1).to(self.sums)  # (B, pixels)
        self.sums[examples] += weights @ values
        self.squares[examples] += weights.square() @ values.square()
        self.counts[examples] += len(masks)

    def mean(self) -> Tensor:
        return (self.sums / self.counts).view(-1, 1, *self.size)  # (N, 1, *spatial)

    def error(self, examples: Tensor) -> Tensor:
        """The standard error as a share of the map's range, (n,), on the CPU."""
        counts = self.counts[examples]  # (n, 1)
        means = self.sums[examples] / counts  # (n, pixels)
        squares = self.squares[examples] / counts  # (n, pixels)
        spreads = (squares - means.square()).relu()
        # Squares too small for their dtype leave the error unknown.
        spreads[(squares == 0) & (means != 0)] = torch.nan
        errors = (spreads / (counts - 1).clamp(min=1)).mean(1).sqrt()  # (n,)
        ranges = means.amax(1) - means.amin(1)  # (n,)
        return torch.where(errors == 0, 0, errors / ranges).cpu()


def _check_spatial_axes(inputs: Sequence[Tensor]) -> None:
    """Inputs with spatial axes, the same number of them in each."""
    for tensor in inputs:
        if not 3 <= tensor.dim() <= 5 or tensor.dim() != inputs[0].dim():
            shapes = ", ".join(shape_of(tensor) for tensor in inputs)
            raise ValueError(
                "inputs must have 1 to 3 spatial axes to be masked, (N, C, *spatial), "
                f"all the same number, got shapes {shapes}; pass what is not to be "
                "masked as additional_forward_args"
            )


def _check_grid(grid_size: object, sizes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Cells along every spatial axis, no more than pixels."""
    axes = len(sizes[0])
    cells = grid_size if isinstance(grid_size, tuple) else (grid_size,) * axes
    if len(cells) != axes:
        raise ValueError(
            "grid_size must be one number of cells, or one for each of the inputs' "
            f"{axes} spatial axes, got {len(cells)}"
        )
    counts = tuple(check_count("grid_size", count) for count in cells)
    for size in sizes:
        if any(count > side for count, side in zip(counts, size, strict=True)):
            raise ValueError(
                "grid_size must be at most the number of pixels of each axis, "
                f"{tuple(size)}, got {counts}"
            )
    return counts
