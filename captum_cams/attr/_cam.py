"""What all class activation maps here share: the constructor, pooling, combining."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor
from torch.nn import Module

from captum_cams._captum import BaselineType, TargetType
from captum_cams._checks import check_baselines, check_inputs, check_layer
from captum_cams.layer_eval import Evaluation, LayerEvaluator, TargetOutput, walks
from captum_cams.masks import spatial_axes
from captum_cams.path import straight_line


def precise(tensor: Tensor) -> torch.dtype:
    """The dtype to sum in: at least single precision."""
    return torch.promote_types(tensor.dtype, torch.float32)


def total(maps: Tensor) -> Tensor:
    r"""Sum over the spatial axes, (N, K, \*spatial) to (N, K, 1, ...)."""
    axes = spatial_axes(maps)
    return maps.sum(axes, keepdim=True, dtype=precise(maps)) if axes else maps


def pool(maps: Tensor) -> Tensor:
    r"""Mean over the spatial axes, (N, K, \*spatial) to (N, K, 1, ...)."""
    axes = spatial_axes(maps)
    return maps.mean(axes, keepdim=True, dtype=precise(maps)) if axes else maps


def combine(weights: Tensor, maps: Tensor, *, relu: bool, summation: bool) -> Tensor:
    r"""
    Weighted feature maps, summed over the channels and rectified.

    Args:
        weights (Tensor): w, (N, K, 1, ...) or of `maps`' shape.
        maps (Tensor): A, (N, K, \*spatial).
        relu (bool): Whether negative values become 0.
        summation (bool): Whether the channels are summed.

    Returns:
        *Tensor* in `maps`' dtype, (N, 1, \*spatial), or `maps`' shape without
        summation.
    """
    weighted = weights * maps
    if summation:
        weighted = weighted.sum(1, keepdim=True)  # (N, 1, *spatial)
    return (weighted.relu() if relu else weighted).to(maps.dtype)


class CamAttribution(LayerAttribution, GradientAttribution):
    """
    Base of the class activation maps: a model, and a layer inside it.

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it.
        layer (torch.nn.Module): The layer whose activations are mapped.
        device_ids (list of int, optional): Needed only where `forward_func` applies a
            `DataParallel` model without being one itself.
    """

    forward_func: Callable[..., Any]
    layer: Any

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Module | list[Module],
        device_ids: list[int] | None = None,
    ) -> None:
        check_layer(layer)
        module: Any = layer  # Captum's type variable knows no union
        LayerAttribution.__init__(self, forward_func, module, device_ids)
        GradientAttribution.__init__(self, forward_func)

    def _format(self, values: Sequence[Any]) -> Any:
        """One value a layer, in a list where a list of layers was given."""
        return list(values) if isinstance(self.layer, list) else values[0]

    def _format_maps(self, evaluator: LayerEvaluator, maps: Sequence[Tensor]) -> Any:
        """As Captum: a tensor, or a tuple where the layer gives several."""
        layers = evaluator.by_layer(maps)
        return self._format([maps if len(maps) > 1 else maps[0] for maps in layers])


class PathCamAttribution(CamAttribution):
    """Base of the methods that walk from a baseline to the input."""

    def _walks(
        self,
        alphas: Sequence[float],
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType,
        target: TargetType,
        additional_forward_args: object,
        internal_batch_size: int | None,
        attribute_to_layer_input: bool,
        grad_kwargs: dict[str, Any] | None,
        show_progress: bool,
    ) -> tuple[LayerEvaluator, Iterator[Iterator[Evaluation]]]:
        """The layer along the path, a few examples at a time."""
        ends = check_inputs(inputs)
        starts = check_baselines(baselines, ends)
        evaluator = LayerEvaluator(
            TargetOutput(self.forward_func, ends, target, additional_forward_args),
            self.layer,
            self.device_ids,
            attribute_to_layer_input,
            grad_kwargs,
        )
        return evaluator, walks(
            evaluator,
            straight_line,
            ends,
            starts,
            alphas,
            internal_batch_size,
            show_progress,
        )


def concatenate(results: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The results of all walks, each put together along the examples."""
    return tuple(map(torch.cat, zip(*results, strict=True)))
