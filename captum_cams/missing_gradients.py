"""Why a layer has no gradient, found out by running the model again."""

import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_hook

from captum_cams._nested import find_tensors


class Missing(NamedTuple):
    """A tensor of a layer that got no gradient."""

    layer: Module
    description: str  # of the layer, and which of its tensors it is
    position: int  # among the layer's tensors
    is_only: bool  # whether the layer has no other tensor


def why_missing(
    missing: Missing,
    run: Callable[[Callable[[Tensor], Tensor], bool], Tensor],
    name: Callable[[Module], str],
) -> str:
    """
    The cause and the remedy, in words.

    Args:
        missing (Missing): What has no gradient.
        run (Callable): Gives the outputs of a pass, of a function that replaces the
            tensor by what the layer gives instead, and of whether autograd records.
        name (Callable): Describes a module of the model.
    """
    y = run(lambda tensor: tensor, False)
    changes = (torch.zeros_like, lambda tensor: tensor + 1)
    if all(torch.equal(y, run(change, False)) for change in changes):
        remedy = "choose a layer on the way to the output"
        if not missing.is_only:
            remedy += (
                ", select the others with a reshape_transform, or pass "
                "grad_kwargs={'materialize_grads': True} for a map of zeros"
            )
        return f"it is the same whatever {missing.description} gives; {remedy}"
    trace = _Trace()
    handle = register_module_forward_hook(trace.after)
    try:
        run(trace.start, True)
    finally:
        handle.remove()
    if trace.inference:
        return (
            f"at or behind {missing.description} the model runs in "
            "torch.inference_mode(), which records nothing; explain it without that"
        )
    if trace.function:
        return (
            f"{missing.description} runs inside of {trace.function}, which records "
            "nothing inside; for torch.utils.checkpoint pass use_reentrant=False, or "
            "switch it off while explaining, or choose a layer outside of it"
        )
    last = missing.description if trace.last is None else name(trace.last)
    return (
        f"the way from {missing.description} to the output is recorded no further than "
        f"{last}; look behind it for torch.no_grad(), .detach(), rounding, NumPy or "
        "quantized modules, and explain the model without them"
    )


class _Trace:
    """Follows a tensor through the modules of a pass, as far as autograd records."""

    def __init__(self) -> None:
        self.inference = False
        self.function = ""  # name of the autograd.Function that runs the layer
        self.last: Module | None = None  # last one with an output that depends on it
        self._thread = threading.get_ident()
        self._node: Any = None

    def start(self, tensor: Tensor) -> Tensor:
        self.inference = torch.is_inference_mode_enabled()
        frame: Any = sys._getframe()
        while frame is not None:
            held = frame.f_locals.values()
            contexts = [value for value in held if isinstance(value, FunctionCtx)]
            if contexts:
                self.function = type(contexts[0]).__name__.removesuffix("Backward")
                break
            frame = frame.f_back
        if self.inference:
            return tensor
        torch.set_grad_enabled(True)
        leaf = tensor.detach().requires_grad_()
        copy = leaf.clone()
        self._node = copy.grad_fn
        return copy

    def after(self, module: Module, _: Any, outputs: Any) -> None:
        if threading.get_ident() == self._thread and self._node is not None:
            tensors = [tensor for _, tensor in find_tensors(outputs)]
            self.inference |= any(tensor.is_inference() for tensor in tensors)
            if any(map(self._is_connected, tensors)):
                self.last = module

    def _is_connected(self, tensor: Tensor) -> bool:
        waiting, seen = [tensor.grad_fn], set()
        while waiting:
            node = waiting.pop()
            if node is self._node:
                return True
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [following for following, _ in node.next_functions]
        return False
