"""The output of a model without one of a layer's channels."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_cams._checks import check_finite
from captum_cams.layer_eval import (
    TargetOutput,
    Transform,
    alone,
    outputs_in_chunks,
)


@contextmanager
def counting(output: TargetOutput, layer: Module) -> Iterator[list[None]]:
    """Notes each use of the layer: in one pass it may have several."""
    uses: list[None] = []
    with alone(output):
        handle = layer.register_forward_pre_hook(lambda *_: uses.append(None))
        try:
            yield uses
        finally:
            handle.remove()


def outputs_without(
    output: TargetOutput,
    layer: Module,
    points: tuple[Tensor, ...],
    examples: Tensor,
    channels: Tensor,
    chunk: int,
    attribute_to_layer_input: bool,
    uses: int,
    reshape_transform: Transform | None,
    bar: Any,
) -> Tensor:
    """
    The output y where one channel of the layer is 0.

    Args:
        output (TargetOutput): y.
        layer (Module): The layer.
        points (tuple of Tensor): All examples.
        examples (Tensor): The example of each row, (B,), on the CPU.
        channels (Tensor): The channel that is 0 in it, (B,), or -1 for none.
        chunk (int): Rows that go through the network together.
        attribute_to_layer_input (bool): Whether channels are those of the layer's
            input or of its output.
        uses (int): Uses of the layer in a pass; channels are 0 in the last one.
        reshape_transform (Callable, optional): Gives the feature maps whose channels
            are counted.
        bar (tqdm): Counts the rows.

    Returns:
        *Tensor*, (B,).
    """
    without, use = channels, 0  # those of the rows under way

    def rows(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        nonlocal without, use
        here, without, use = examples[start:stop], channels[start:stop], 0
        bar.update(stop - start)
        return tuple(x[here] for x in points), here

    def ablated(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(ablated, value))
        row = torch.arange(len(without))[without >= 0]
        if reshape_transform is not None:
            return value.masked_fill(units(reshape_transform, value, row), 0)
        value = value.clone()
        value[row, without[row]] = 0
        return value

    def units(transform: Transform, value: Tensor, row: Tensor) -> Tensor:
        """The units of the layer's own tensor that make up the channels."""
        with torch.enable_grad():
            raw = torch.zeros_like(value, requires_grad=True)
            maps = transform(raw)
        channels = torch.zeros_like(maps)
        channels[row, without[row]] = 1
        # The transform is linear: its gradient carries the channels back.
        return torch.autograd.grad(maps, raw, channels)[0] != 0

    def hook(_: Module, *values: Any) -> Any:
        nonlocal use
        use += 1
        return ablated(values[-1]) if use == uses else None

    with alone(output):
        if attribute_to_layer_input:
            handle = layer.register_forward_pre_hook(hook)
        else:
            handle = layer.register_forward_hook(hook)
        try:
            outputs = outputs_in_chunks(output, rows, len(examples), chunk)
        finally:
            handle.remove()
    check_finite("forward_func's output", outputs, examples)
    return outputs
