"""Activations and gradients of layers at chosen points, and walks along paths."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import DataParallel, Module

from captum_cams._nested import find_tensors, map_tensors
from captum_cams._validation import (
    check_batch,
    check_feature_maps,
    check_finite,
    check_positional,
    check_spatial,
    check_transformed,
    warn_of_axes,
    warn_of_uses,
    warn_of_zeros,
)
from captum_cams.missing_gradients import Missing, why_missing
from captum_cams.model_state import version_of
from captum_cams.reshape import (
    Transform,
    can_be_enlarged,
    fits,
    remedy,
    sized,
)
from captum_cams.target_output import (
    TargetOutput,
    check_recording,
    hooked,
    in_evaluation,
)
from captum_cams.watch import generators_kept


class Evaluation(NamedTuple):
    """
    A layer and the output at some rows. Tensors are detached.

    One tensor for each tensor of each layer: `activations` A and `gradients` dy/dA of
    shape (B, K, *spatial); `outputs` y of shape (B,).
    """

    activations: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    outputs: Tensor
    sizes: Sequence[int]
    """The number of tensors of each layer."""

    def by_layer(self, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """What belongs to the layers' tensors, a tuple for each layer."""
        return _split(tensors, self.sizes)

    def rows(self, part: slice, copy: bool = False) -> "Evaluation":
        """Some of the rows, as views of all or as copies that set all free."""

        def take(tensor: Tensor) -> Tensor:
            return tensor[part].clone() if copy else tensor[part]

        return Evaluation(
            tuple(map(take, self.activations)),
            tuple(map(take, self.gradients)),
            take(self.outputs),
            self.sizes,
        )


def _split(tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[tuple[Tensor, ...]]:
    """A row of tensors in parts of some sizes."""
    rest = iter(tensors)
    return [tuple(islice(rest, size)) for size in sizes]


class _Use(NamedTuple):
    """What a layer gave in a pass, on one device."""

    given: Any  # with `leaves` in the places of its tensors
    leaves: list[Tensor]
    versions: list[int]


_Uses = dict[Module, dict[torch.device, _Use]]


class LayerEvaluator:
    """
    Activations of layers and gradients of y with respect to them.

    A layer's tensors are leaves: no gradient runs from one of them through another.
    The part of the network before the first of the layers records no autograd graph:
    recording is switched on by a hook on the layer itself.

    Args:
        output (TargetOutput): y.
        layer (Module or list of Module): The layers.
        device_ids (list of int, optional): As in Captum, for `DataParallel`.
        attribute_to_layer_input (bool): Whether A is a layer's input or its output.
        grad_kwargs (dict, optional): Passed to `torch.autograd.grad`.
        reshape_transform (Callable, optional): Linear; makes A of what a layer gives,
            and dy/dA of its gradients, which it is handed in the same form. It is told
            the inputs' size where it asks for it.
    """

    def __init__(
        self,
        output: TargetOutput,
        layer: Module | list[Module],
        device_ids: list[int] | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        reshape_transform: Transform | None = None,
    ) -> None:
        self.output = output
        self.layers = layer if isinstance(layer, list) else [layer]
        model: Any = output.forward_func
        self.device_ids = device_ids or getattr(model, "device_ids", None)
        self.attribute_to_layer_input = attribute_to_layer_input
        self.grad_kwargs = grad_kwargs or {}
        self.reshape_transform = sized(reshape_transform, output.shapes)
        self.sizes: list[int] = []
        self.shapes: list[torch.Size] = []
        self.raw_shapes: list[torch.Size] = []  # before the transform
        self.unresponsive = torch.ones(output.num_examples, dtype=torch.bool)
        self.uses: Counter[Module] = Counter()
        """How often a pass uses each layer: the last time counts."""
        self.outputs = torch.empty(0)
        """y at the points of the last call of `activations`."""
        several = device_ids is not None and len(device_ids) > 1
        # Whether layers run in other threads, whose outputs are gathered elsewhere;
        # whether all of a pass is recorded, and was without success; whether the model
        # writes to A.
        self._elsewhere = isinstance(model, DataParallel) or several
        self._whole = self._elsewhere
        self._tried = False
        self._copies = False

    def __call__(self, points: tuple[Tensor, ...], examples: Tensor) -> Evaluation:
        """A, dy/dA and y at `points`, whose rows belong to `examples` (B,)."""
        check_recording()
        with self.output.guarded():
            uses, y, gradients = self._recorded(points, examples)
            missing = self._missing(uses, gradients)
            if missing and not self._whole and not self._tried:
                # The model sets its own grad mode, which undoes that of the hook.
                self._whole = True
                again = self._recorded(points, examples)
                if len(self._missing(again[0], again[2])) < len(missing):
                    uses, y, gradients = again
                    missing = self._missing(uses, gradients)
                else:
                    self._whole, self._tried = False, True
            zeros = map(self.grad_kwargs.get, ("materialize_grads", "allow_unused"))
            if missing and not (y.requires_grad and any(zeros)):
                raise ValueError(_INDEPENDENT + self._why(missing[0], points, examples))
        y = y.detach()
        activations = self._maps(uses, lambda leaf: leaf.detach())
        slopes = self._maps(uses, lambda leaf: gradients[id(leaf)])
        self._check(activations, examples)
        check_finite("forward_func's output", y, examples)
        for gradient in slopes:
            check_finite("the output's gradients", gradient, examples)
        if self.unresponsive[examples].any():
            for gradient in slopes:
                self.mark_responsive(examples, (gradient != 0).flatten(1).any(1))
        return Evaluation(activations, slopes, y, self.sizes)

    def activations(
        self, points: tuple[Tensor, ...], examples: Tensor
    ) -> tuple[Tensor, ...]:
        """A alone, without a backward pass."""
        with self.output.guarded():
            uses, y = self._pass(points, examples, record=False)
        self.outputs = y.detach()
        maps = self._maps(uses, lambda leaf: leaf)
        self._check(maps, examples)
        return maps

    def hooked(self, hook: Callable[..., Any]) -> AbstractContextManager[None]:
        """A hook that sees the layers' inputs, or their outputs, in this evaluation."""
        return hooked(
            self.output,
            self.layers,
            hook,
            self.attribute_to_layer_input,
            self._elsewhere,
        )

    def tensors(self, given: Any) -> list[Tensor]:
        """The layer's tensors in what it gave: those that are mapped or transformed."""
        if self.reshape_transform is None:
            return check_feature_maps(given)
        found = [tensor for _, tensor in find_tensors(given)]
        tensors = [tensor for tensor in found if tensor.is_floating_point()]
        return tensors or check_feature_maps(given)

    def given(self, inputs: tuple[Any, ...], outputs: Any) -> Any:
        """What is mapped of what a layer's hook is given."""
        if not self.attribute_to_layer_input:
            return outputs
        check_positional(inputs)
        return inputs[0] if len(inputs) == 1 else inputs

    def handed(self, inputs: tuple[Any, ...], replaced: Any) -> Any:
        """What a layer's hook returns to put something in the place of `given`."""
        single = self.attribute_to_layer_input and len(inputs) == 1
        return (replaced,) if single else replaced

    def mark_responsive(self, examples: Tensor, moved: Tensor) -> None:
        """Note for which examples, (B,), the layer moved the output, (B,)."""
        self.unresponsive[examples[moved.cpu()]] = False

    def emit_warnings(self, silence: str | None = None) -> None:
        """Warn, once all is done, of what makes maps wrong or 0."""
        self.warn_of_layer()
        if self.unresponsive.any():
            examples = self.unresponsive.nonzero().flatten().tolist()
            warn_of_zeros(examples, silence or _SILENT)

    def warn_of_layer(self) -> None:
        """Warn of layers whose maps mislead, however they are used."""
        inputs = self.output.shapes
        for raw, shape in zip(self.raw_shapes, self.shapes, strict=True):
            if not fits(shape, inputs):
                plain = self.reshape_transform is None
                name = "layer" if plain else "reshape_transform"
                warn_of_axes(name, shape, inputs, remedy(raw, inputs))
                break
        for layer, uses in self.uses.items():
            if uses > 1:
                warn_of_uses(layer, uses)

    def check_masks(self) -> None:
        """Maps that can be enlarged to the inputs, as those that mask them must be."""
        inputs = self.output.shapes
        for raw, shape in zip(self.raw_shapes, self.shapes, strict=True):
            fit = can_be_enlarged(shape, inputs)
            check_spatial(fit, shape, inputs, remedy(raw, inputs))

    def by_layer(self, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """The layers' tensors, which methods see in one row, a tuple for each layer."""
        return _split(tensors, self.sizes)

    def _pass(
        self, points: tuple[Tensor, ...], examples: Tensor, record: bool
    ) -> tuple[_Uses, Tensor]:
        """The last use of each layer, and y."""
        uses: _Uses = {layer: {} for layer in self.layers}
        count: Counter[tuple[Module, torch.device]] = Counter()

        def hook(layer: Module, _: Module, inputs: Any, outputs: Any = None) -> Any:
            use, replaced = self._use(self.given(inputs, outputs), record)
            device = use.leaves[0].device if use.leaves else torch.device("cpu")
            uses[layer][device] = use
            count[layer, device] += 1
            if not record:
                return None
            if in_evaluation():  # the mode of another thread is its own
                torch.set_grad_enabled(True)
            return self.handed(inputs, replaced)

        with torch.set_grad_enabled(record and self._whole), self.hooked(hook):
            y = self.output(points, examples)
        if not all(uses.values()):
            if self._elsewhere:
                raise ValueError(_UNREACHED)
            # forward_func may run the layer in threads of its own.
            self._elsewhere = self._whole = True
            return self._pass(points, examples, record)
        for (layer, _), times in count.items():
            self.uses[layer] = times
        return uses, y

    def _use(self, given: Any, record: bool) -> tuple[_Use, Any]:
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
        if self.reshape_transform is None:
            kept: Any = tuple(leaves[id(tensor)] for tensor in wanted)
        else:
            kept = map_tensors(lambda tensor: leaves.get(id(tensor), tensor), given)
        versions = [version_of(leaf) for leaf in leaves.values()]
        return _Use(kept, list(leaves.values()), versions), replaced

    def _leaf(self, tensor: Tensor) -> Tensor:
        """A tensor of the layer whose gradient is that of what is handed on."""
        if tensor.is_inference():
            return tensor.clone().requires_grad_()
        if tensor.requires_grad:  # a graph before the layer, which other layers need
            return tensor.clone() if self._copies else tensor.view_as(tensor)
        leaf = tensor.detach()
        return (leaf.clone() if self._copies else leaf).requires_grad_()

    def _recorded(
        self, points: tuple[Tensor, ...], examples: Tensor
    ) -> tuple[_Uses, Tensor, dict[int, Tensor | None]]:
        """The layers, y and its gradient at each leaf, or None where it has none."""
        uses, y = self._pass(points, examples, record=True)
        if not self._copies and any(map(_is_overwritten, _all_uses(uses))):
            self._copies = True  # by the model, behind the layer
            return self._recorded(points, examples)
        leaves = [leaf for use in _all_uses(uses) for leaf in use.leaves]
        if not y.requires_grad:
            return uses, y, dict.fromkeys(map(id, leaves))
        options = {**self.grad_kwargs, "allow_unused": True}
        options.pop("materialize_grads", None)
        try:
            with torch.enable_grad():
                found = torch.autograd.grad(torch.unbind(y), leaves, **options)
        except RuntimeError as error:
            if "reentrant" in str(error) or "Checkpointing is not" in str(error):
                raise ValueError(_INDEPENDENT + _REENTRANT) from error
            raise
        return uses, y, dict(zip(map(id, leaves), found, strict=True))

    def _missing(
        self, uses: _Uses, gradients: dict[int, Tensor | None]
    ) -> list[Missing]:
        """The layers' tensors that must have a gradient, but have none."""
        missing = []
        for number, layer in enumerate(self.layers):
            words = "the layer"
            if len(self.layers) > 1:
                words = f"layer {number} of the list ({type(layer).__name__})"
            for use in uses[layer].values():
                found = [gradients[id(leaf)] is not None for leaf in use.leaves]
                # A transform selects: what it leaves out need not have a gradient.
                if all(found) or (self.reshape_transform is not None and any(found)):
                    continue
                i, alone = found.index(False), len(found) == 1
                named = words if alone else f"tensor {i} of {words}"
                missing.append(Missing(layer, named, i, alone))
        return missing

    def _why(
        self, missing: Missing, points: tuple[Tensor, ...], examples: Tensor
    ) -> str:
        """Why a tensor has no gradient."""

        def run(change: Callable[[Tensor], Tensor], record: bool) -> Tensor:
            """y where a change is made to the tensor."""

            def hook(layer: Module, _: Module, inputs: Any, outputs: Any = None) -> Any:
                if layer is not missing.layer:
                    return None
                given = self.given(inputs, outputs)
                wanted = self.tensors(given)[missing.number]
                changed = map_tensors(lambda t: change(t) if t is wanted else t, given)
                return self.handed(inputs, changed)

            with (
                generators_kept(),  # chance is the same in every pass
                torch.set_grad_enabled(record),
                self.hooked(hook),
            ):
                return self.output(points, examples).detach()

        return why_missing(missing, run, self.output.state.name)

    def _maps(
        self, uses: _Uses, value: Callable[[Tensor], Tensor | None]
    ) -> tuple[Tensor, ...]:
        """A, or what belongs to it, given a value for each leaf; None stands for 0."""
        self.sizes, self.raw_shapes, maps = [], [], []
        for layer in self.layers:
            parts = []
            for use in self._in_order(uses[layer]):
                found = {id(leaf): value(leaf) for leaf in use.leaves}
                given = map_tensors(partial(_filled, found), use.given)
                parts.append(self._transformed(given))
            joined = [_joined(tensors) for tensors in zip(*parts, strict=True)]
            self.sizes.append(len(joined))
            leaves = next(iter(uses[layer].values())).leaves
            self.raw_shapes += [leaf.shape for leaf in leaves[: len(joined)]]
            maps += joined
        return tuple(maps)

    def _in_order(self, uses: dict[torch.device, _Use]) -> list[_Use]:
        """By devices, in the order in which `DataParallel` fills them."""
        order = list(self.device_ids or [])

        def place(device: torch.device) -> int:
            return order.index(device.index) if device.index in order else 0

        return [uses[device] for device in sorted(uses, key=place)]

    def _transformed(self, given: Any) -> tuple[Tensor, ...]:
        if self.reshape_transform is None:
            tensors: tuple[Tensor, ...] = given
            return tensors
        return (check_transformed(self.reshape_transform(given), given),)

    def _check(self, activations: tuple[Tensor, ...], examples: Tensor) -> None:
        self.shapes = [tensor.shape for tensor in activations]
        for tensor in activations:
            check_batch(tensor, len(examples))
            check_finite("the layer's activations", tensor, examples)


def _filled(values: dict[int, Tensor | None], tensor: Tensor) -> Tensor:
    """The value of a leaf, 0 where that is None; other tensors as they are."""
    found = values.get(id(tensor), tensor)
    return torch.zeros_like(tensor).detach() if found is None else found.detach()


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """The parts of several devices, on the first one."""
    first = tensors[0]
    return torch.cat([t.to(first) for t in tensors]) if len(tensors) > 1 else first


def _all_uses(uses: _Uses) -> list[_Use]:
    return [use for of_layer in uses.values() for use in of_layer.values()]


def _is_overwritten(use: _Use) -> bool:
    return [version_of(leaf) for leaf in use.leaves] != use.versions


_UNREACHED = (
    "layer must be used by forward_func, but the forward pass did not reach it; pass a "
    "module of this very model, which must be neither traced nor exported"
)
_INDEPENDENT = (
    "forward_func's target output must depend on every tensor of the layer by "
    "operations that autograd records, but "
)
_REENTRANT = (
    "the model has a reentrant torch.utils.checkpoint behind the layer, which hands "
    "gradients to parameters alone; pass it use_reentrant=False, or switch it off "
    "while explaining"
)
_SILENT = (
    "the output's gradients at the layer are all 0 (the output is saturated, units are "
    "dead, or it does not depend on this part of the layer)"
)
