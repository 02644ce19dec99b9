"""
What the metrics of faithfulness share: checked arguments, and the model's outputs.

They run the model without a graph, on inputs that show only a part of the examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from captum_cams._captum import BaselineType, TargetType
from captum_cams._validation import (
    check_baselines,
    check_callable,
    check_count,
    check_inputs,
)
from captum_cams.metrics._metric import check_map, nan_where_broken
from captum_cams.target_output import TargetOutput, outputs_in_batches, rows_per_batch

Rows = Callable[[int, int], tuple[tuple[Tensor, ...], Tensor]]
"""Gives the model's inputs of the rows from start to stop, and the rows' examples."""


class Examples(NamedTuple):
    """Checked arguments: the tensors in the tuples have N rows each."""

    inputs: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    output: TargetOutput
    batch_size: int  # most inputs that go through the network together

    def outputs(self, rows: Rows, num_rows: int, batch_size: int) -> Tensor:
        """Outputs at `rows`, (num_rows,), on the inputs' device."""
        outputs = outputs_in_batches(self.output, rows, num_rows, batch_size)
        return outputs.to(self.inputs[0].device)

    def nan_where_broken(self, values: Tensor) -> Tensor:
        """`values`, (N, ...), with NaN for an example one of whose maps is broken."""
        for maps in self.maps:
            values = nan_where_broken(values, maps)
        return values


def check_examples(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: BaselineType,
    additional_forward_args: object,
    target: TargetType,
    *,
    max_examples_per_batch: int | None,
    default_baseline: Callable[[Tensor], Tensor],
) -> Examples:
    """Checked arguments of a metric; `default_baseline` makes one of each input."""
    check_callable("forward_func", forward_func)
    if max_examples_per_batch is not None:
        check_count("max_examples_per_batch", max_examples_per_batch)
    ends = check_inputs(inputs)
    maps = _check_maps(attributions, ends)
    if baselines is None:
        starts = tuple(default_baseline(x) for x in ends)
    else:
        starts = check_baselines(baselines, ends)
    output = TargetOutput(forward_func, ends, target, additional_forward_args)
    batch_size = rows_per_batch(ends, max_examples_per_batch)
    return Examples(ends, starts, maps, output, batch_size)


def _check_maps(
    attributions: Tensor | tuple[Tensor, ...], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """One map an input and example, on the inputs' device."""
    maps = attributions if isinstance(attributions, tuple) else (attributions,)
    if len(maps) != len(inputs):
        raise ValueError(
            f"attributions must be as many as the inputs, {len(inputs)}, got "
            f"{len(maps)}"
        )
    for tensor in inputs:
        if tensor.dim() < 3:
            raise ValueError(
                "inputs must have spatial axes to be masked, (N, C, *spatial), got "
                f"shape {tuple(tensor.shape)}; pass what is not to be masked as "
                "additional_forward_args"
            )
    checked = tuple(
        check_map(values, tensor.shape[0], tensor.dim() - 2)
        for values, tensor in zip(maps, inputs, strict=True)
    )
    for values, tensor in zip(checked, inputs, strict=True):
        if values.device != tensor.device:
            raise ValueError(
                f"attributions must be on the inputs' device {tensor.device}, got "
                f"{values.device}; move them with .to()"
            )
    return checked
