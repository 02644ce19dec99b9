"""What layers give in a pass of the model, and what is handed on in its place."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from captum_cams._nested import find_tensors, map_tensors
from captum_cams.model_state import version_of
from captum_cams.reshape import check_feature_maps
from captum_cams.target_output import TargetOutput, hooked, in_own_pass


class LayerUse(NamedTuple):
    """What a layer gave when a pass used it, on one device."""

    given: Any  # with `leaves` in the places of its tensors
    leaves: list[Tensor]
    versions: list[int]


LayerUses = dict[Module, dict[torch.device, LayerUse]]


@dataclass
class PassMode:
    """How a model must be run, as far as its passes have shown."""

    other_threads: bool
    """Whether it runs layers in threads of their own."""
    record_all: bool
    """Whether autograd records the whole pass, not just what follows the layers."""
    record_all_failed: bool = False
    """Whether that was tried, and brought no gradient that was missing."""
    copy_leaves: bool = False
    """Whether it writes to what the layers gave."""


class LayerCapture:
    """
    The tensors of layers in a pass.

    They become leaves: no gradient runs from one of them through another. The part of
    the network before the first of the layers records no autograd graph: recording is
    switched on by a hook on the layer itself.

    Args:
        output (TargetOutput): What runs the model.
        layers (list of Module): The layers.
        layer_input (bool): Whether a layer's input is wanted, or its output.
        reshaped (bool): Whether a transform follows, which takes what a layer gives in
            its own form.
        mode (PassMode): How to run the model.
    """

    def __init__(
        self,
        output: TargetOutput,
        layers: list[Module],
        layer_input: bool,
        reshaped: bool,
        mode: PassMode,
    ) -> None:
        self.output = output
        self.layers = layers
        self.layer_input = layer_input
        self.reshaped = reshaped
        self.mode = mode
        self.use_counts: Counter[Module] = Counter()
        """How often a pass uses each layer: the last time counts."""

    def run(
        self, points: tuple[Tensor, ...], examples: Tensor, record: bool
    ) -> tuple[LayerUses, Tensor]:
        """The last use of each layer, and y, (B,)."""
        uses: LayerUses = {layer: {} for layer in self.layers}
        count: Counter[tuple[Module, torch.device]] = Counter()

        def hook(layer: Module, _: Module, inputs: Any, outputs: Any = None) -> Any:
            use, replaced = self._capture(self.select(inputs, outputs), record)
            device = use.leaves[0].device if use.leaves else torch.device("cpu")
            uses[layer][device] = use
            count[layer, device] += 1
            if not record:
                return None
            if in_own_pass():  # the mode of another thread is its own
                torch.set_grad_enabled(True)
            return self.hook_result(inputs, replaced)

        mode = self.mode
        with torch.set_grad_enabled(record and mode.record_all), self.hooked(hook):
            y = self.output(points, examples)
        if not all(uses.values()):
            if mode.other_threads:
                raise ValueError(_UNREACHED)
            # forward_func may run the layer in threads of its own.
            mode.other_threads = mode.record_all = True
            return self.run(points, examples, record)
        for (layer, _), times in count.items():
            self.use_counts[layer] = times
        return uses, y

    def hooked(self, hook: Callable[..., Any]) -> AbstractContextManager[None]:
        """A hook that sees the layers' inputs, or outputs, in this evaluation alone."""
        threads = self.mode.other_threads
        return hooked(self.output, self.layers, hook, self.layer_input, threads)

    def select(self, inputs: tuple[Any, ...], outputs: Any) -> Any:
        """What is mapped of what a layer's hook is given."""
        if not self.layer_input:
            return outputs
        if not inputs:
            raise ValueError(_NO_POSITIONAL_INPUT)
        return inputs[0] if len(inputs) == 1 else inputs

    def hook_result(self, inputs: tuple[Any, ...], replaced: Any) -> Any:
        """What a hook returns to replace what :meth:`select` gives."""
        return (replaced,) if self.layer_input and len(inputs) == 1 else replaced

    def tensors(self, given: Any) -> list[Tensor]:
        """The layer's tensors in what it gave: those that are mapped or transformed."""
        if not self.reshaped:
            return check_feature_maps(given)
        found = [tensor for _, tensor in find_tensors(given)]
        tensors = [tensor for tensor in found if tensor.is_floating_point()]
        return tensors or check_feature_maps(given)

    def _capture(self, given: Any, record: bool) -> tuple[LayerUse, Any]:
        """What to keep of what a layer gave, and what to hand on instead of it."""
        wanted = self.tensors(given)
        with ExitStack() as modes:
            if record and torch.is_inference_mode_enabled():
                modes.enter_context(torch.inference_mode(False))
            modes.enter_context(torch.set_grad_enabled(record))
            make = self._leaf if record else torch.clone
            leaves = {id(tensor): make(tensor) for tensor in wanted}
            # The model may write to what it is handed.
            copies = {key: leaf.clone() for key, leaf in leaves.items() if record}
        replaced = map_tensors(lambda tensor: copies.get(id(tensor), tensor), given)
        if self.reshaped:
            kept = map_tensors(lambda tensor: leaves.get(id(tensor), tensor), given)
        else:
            kept = tuple(leaves[id(tensor)] for tensor in wanted)
        versions = [version_of(leaf) for leaf in leaves.values()]
        return LayerUse(kept, list(leaves.values()), versions), replaced

    def _leaf(self, tensor: Tensor) -> Tensor:
        """A tensor of the layer whose gradient is that of what is handed on."""
        copy = self.mode.copy_leaves
        if tensor.is_inference():
            return tensor.clone().requires_grad_()
        if tensor.requires_grad:  # a graph before the layer, which other layers need
            return tensor.clone() if copy else tensor.view_as(tensor)
        leaf = tensor.detach()
        return (leaf.clone() if copy else leaf).requires_grad_()


_UNREACHED = (
    "layer must be used by forward_func, but the forward pass did not reach it; pass a "
    "module of this very model, which must be neither traced nor exported"
)
_NO_POSITIONAL_INPUT = (
    "layer must be called with its input as a positional argument for "
    "attribute_to_layer_input, got none; map its output instead"
)
