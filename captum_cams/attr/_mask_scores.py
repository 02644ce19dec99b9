"""Outputs and confidence of inputs that masks blend with their baselines."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_cams._numerics import difference
from captum_cams._validation import check_finite
from captum_cams.masks import blend, upsample
from captum_cams.target_output import Batch, TargetOutput, outputs_in_batches


def masked_outputs(
    output: TargetOutput,
    batch: Batch,
    example_of_row: Tensor,
    masks: Callable[[slice, int], Tensor],
    batch_size: int,
) -> Tensor:
    r"""
    The output y of inputs that are blended with their baselines by masks.

    Args:
        output (TargetOutput): y.
        batch (Batch): n examples.
        example_of_row (Tensor): Which of them each row shows, (B,).
        masks (Callable): Gives, for some rows and the number of an input tensor, masks
            of its size, (b, 1, \*spatial), when their turn comes.
        batch_size (int): Rows that go through the network together.

    Returns:
        *Tensor*, (B,).
    """

    def blends(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        rows = slice(start, stop)
        here = example_of_row[rows]
        return tuple(
            blend(x[here], baseline[here], masks(rows, number))
            for number, (x, baseline) in enumerate(
                zip(batch.inputs, batch.baselines, strict=True)
            )
        ), batch.examples[here]

    outputs = outputs_in_batches(output, blends, len(example_of_row), batch_size)
    check_finite("forward_func's output", outputs, batch.examples[example_of_row])
    return outputs


def masked_score_gains(
    confidence: TargetOutput,
    batch: Batch,
    masks: Tensor,
    batch_size: int,
    bar: Any,
    enlarge: Callable[[Tensor, Sequence[int]], Tensor] = upsample,
) -> Tensor:
    r"""
    Confidence of each masked input less that of its baseline.

    A mask that is 0 everywhere leaves the baseline and gains 0 without a pass. Gains
    that may be rounding are 0.

    Args:
        confidence (TargetOutput): The output that is to gain.
        batch (Batch): n examples.
        masks (Tensor): (n, G, \*layer spatial).
        batch_size (int): Inputs that go through the network together.
        bar (tqdm): Counts the masks and the baselines.
        enlarge (Callable): Makes a mask of an input's spatial size. Default: linear
            interpolation

    Returns:
        *Tensor*, (n, G).
    """
    # An empty mask in the first place makes the baseline one of the blends.
    masks = torch.cat([torch.zeros_like(masks[:, :1]), masks], 1)  # (n, G + 1, ...)
    shown = (masks != 0).flatten(2).any(2).cpu()  # (n, G + 1)
    bar.update(int((~shown[:, 1:]).sum()))
    shown[:, 0] = True
    n, r = shown.nonzero(as_tuple=True)

    def enlarged(rows: slice, number: int) -> Tensor:
        x = batch.inputs[number]
        here = masks[n[rows], r[rows]].unsqueeze(1)  # (b, 1, *layer spatial)
        bar.update(len(here) * (number == 0))
        return enlarge(here, x.shape[2:]).to(x.dtype)  # (b, 1, *input spatial)

    outputs = masked_outputs(confidence, batch, n, enlarged, batch_size)
    scores = outputs[r == 0].unsqueeze(1).repeat(1, masks.shape[1])  # (n, G + 1)
    scores[n, r] = outputs
    return difference(scores[:, 1:], scores[:, :1])


def upsampled_to_inputs(cam: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    r"""A layer's map at the size of each input, (N, 1, \*input spatial)."""
    return tuple(upsample(cam, x.shape[2:]).to(x.dtype) for x in inputs)
