"""The output of a model without one of a layer's channels."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_cams._nested import map_tensors
from captum_cams._validation import check_finite, shape_of
from captum_cams.layer_eval import LayerEvaluator, check_batch
from captum_cams.target_output import outputs_in_batches


def outputs_without(
    evaluator: LayerEvaluator,
    points: tuple[Tensor, ...],
    examples: Tensor,
    channels: Tensor,
    batch_size: int,
    bar: Any,
) -> Tensor:
    """
    The output y where one channel of a layer's last use is 0.

    Args:
        evaluator (LayerEvaluator): The layer, which has been evaluated before.
        points (tuple of Tensor): All examples.
        examples (Tensor): The example of each row, (B,), on the CPU.
        channels (Tensor): The channel that is 0 in it, (B,), or -1 for none.
        batch_size (int): Rows that go through the network together.
        bar (tqdm): Counts the rows.

    Returns:
        *Tensor*, (B,).
    """
    output, uses = evaluator.output, evaluator.capture.use_counts[evaluator.layers[0]]
    without, use = channels, 0  # those of the rows under way

    def rows(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        nonlocal without, use
        here, without, use = examples[start:stop], channels[start:stop], 0
        bar.update(stop - start)
        return tuple(x[here] for x in points), here

    def hook(_: Module, __: Module, inputs: Any, outputs: Any = None) -> Any:
        nonlocal use
        use += 1
        if use < uses:
            return None
        given = evaluator.capture.select(inputs, outputs)
        return evaluator.capture.hook_result(
            inputs, _ablated(evaluator, given, without)
        )

    hooks = partial(evaluator.capture.hooked, hook)
    outputs = outputs_in_batches(output, rows, len(examples), batch_size, hooks)
    check_finite("forward_func's output", outputs, examples)
    return outputs


def _ablated(evaluator: LayerEvaluator, given: Any, channels: Tensor) -> Any:
    """What a layer gave, without a channel in each row, (B,), where it is not -1."""
    transform = evaluator.reshape_transform
    tensors = evaluator.capture.tensors(given)
    row = torch.arange(len(channels))[channels >= 0]
    if transform is None:
        check_batch(tensors[0], len(channels))
        lost = torch.zeros_like(tensors[0], dtype=torch.bool)
        lost[row, channels[row]] = True
        masks = {id(tensors[0]): lost}
    else:
        with torch.inference_mode(False), torch.enable_grad():
            raw = {id(t): torch.zeros_like(t, requires_grad=True) for t in tensors}
            maps = transform(map_tensors(lambda t: raw.get(id(t), t), given))
        check_batch(maps, len(channels))
        _check_recorded(maps)
        ones = torch.zeros_like(maps)
        ones[row, channels[row]] = 1
        # The transform is linear: its gradient carries the channels back.
        found = torch.autograd.grad(maps, list(raw.values()), ones, allow_unused=True)
        masks = {
            key: gradient != 0
            for key, gradient in zip(raw, found, strict=True)
            if gradient is not None
        }
    return map_tensors(
        lambda t: t.masked_fill(masks[id(t)], 0) if id(t) in masks else t, given
    )


def _check_recorded(maps: Tensor) -> None:
    """Maps from which a gradient leads back to what a layer gave."""
    if not maps.requires_grad:
        raise ValueError(
            "reshape_transform must rearrange by operations that autograd records, "
            "without .detach(), NumPy or torch.no_grad(), to tell what belongs to a "
            f"channel, got maps of shape {shape_of(maps)} without a record"
        )
