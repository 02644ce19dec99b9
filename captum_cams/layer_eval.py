"""Activations and gradients of layers at given points."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import DataParallel, Module

from captum_cams._nested import describe, map_tensors
from captum_cams._validation import check_finite, kind_of, shape_of, warn
from captum_cams.layer_capture import LayerCapture, LayerUse, LayerUses, PassMode
from captum_cams.missing_gradients import Missing, why_missing
from captum_cams.model_state import version_of
from captum_cams.reshape import (
    Transform,
    can_be_upsampled,
    fits,
    remedy,
    sized,
)
from captum_cams.target_output import (
    TargetOutput,
    check_recording,
)
from captum_cams.watch import generators_kept


class LayerEvaluation(NamedTuple):
    """
    Activations, gradients and target outputs of a batch. Tensors are detached.

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
        return split_by_layer(tensors, self.sizes)

    def rows(self, part: slice, copy: bool = False) -> "LayerEvaluation":
        """Some of the rows: views, or copies that do not keep the other rows alive."""

        def take(tensor: Tensor) -> Tensor:
            return tensor[part].clone() if copy else tensor[part]

        return LayerEvaluation(
            tuple(map(take, self.activations)),
            tuple(map(take, self.gradients)),
            take(self.outputs),
            self.sizes,
        )


def split_by_layer(
    tensors: Sequence[Tensor], sizes: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    """Tensors in a row as a tuple for each layer, of so many each."""
    rest = iter(tensors)
    return [tuple(islice(rest, size)) for size in sizes]


class LayerEvaluator:
    """
    Activations of layers and gradients of y with respect to them.

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
        self.grad_kwargs = grad_kwargs or {}
        self.reshape_transform = sized(reshape_transform, output.shapes)
        several = device_ids is not None and len(device_ids) > 1
        threads = isinstance(model, DataParallel) or several
        self.mode = PassMode(other_threads=threads, record_all=threads)
        self.capture = LayerCapture(
            output,
            self.layers,
            attribute_to_layer_input,
            reshape_transform is not None,
            self.mode,
        )
        self.sizes: list[int] = []
        self.shapes: list[torch.Size] = []
        self.raw_shapes: list[torch.Size] = []  # before the transform
        self.unresponsive = torch.ones(output.num_examples, dtype=torch.bool)
        """The examples whose output the layer has not moved so far."""
        self.outputs = torch.empty(0)
        """y at the points of the last call of `activations`."""

    def __call__(self, points: tuple[Tensor, ...], examples: Tensor) -> LayerEvaluation:
        """A, dy/dA and y at `points`, whose rows belong to `examples` (B,)."""
        check_recording()
        with self.output.guarded():
            uses, y, gradients = self._gradients(points, examples)
            missing = self._without_gradient(uses, gradients)
            mode = self.mode
            if missing and not mode.record_all and not mode.record_all_failed:
                # The model may set its own grad mode, which undoes that of the hook.
                mode.record_all = True
                again = self._gradients(points, examples)
                if len(self._without_gradient(again[0], again[2])) < len(missing):
                    uses, y, gradients = again
                    missing = self._without_gradient(uses, gradients)
                else:
                    mode.record_all, mode.record_all_failed = False, True
            options = self.grad_kwargs
            zeros = options.get("materialize_grads") or options.get("allow_unused")
            if missing and not (y.requires_grad and zeros):
                raise ValueError(
                    _INDEPENDENT + self._explain_missing(missing[0], points, examples)
                )
        y = y.detach()
        activations = self._maps(uses, lambda leaf: leaf.detach())
        gradient_maps = self._maps(uses, lambda leaf: gradients[id(leaf)])
        self._check(activations, examples)
        check_finite("forward_func's output", y, examples)
        for gradient in gradient_maps:
            check_finite("the output's gradients", gradient, examples)
        if self.unresponsive[examples].any():
            for gradient in gradient_maps:
                self.mark_responsive(examples, (gradient != 0).flatten(1).any(1))
        return LayerEvaluation(activations, gradient_maps, y, self.sizes)

    def activations(
        self, points: tuple[Tensor, ...], examples: Tensor
    ) -> tuple[Tensor, ...]:
        """A alone, without a backward pass."""
        with self.output.guarded():
            uses, y = self.capture.run(points, examples, record=False)
        self.outputs = y.detach()
        maps = self._maps(uses, lambda leaf: leaf)
        self._check(maps, examples)
        return maps

    def mark_responsive(self, examples: Tensor, moved: Tensor) -> None:
        """Note for which examples, (B,), the layer moved the output, (B,)."""
        self.unresponsive[examples[moved.cpu()]] = False

    def emit_warnings(self, reason: str | None = None) -> None:
        """Warn, once all is done, of what makes maps wrong or 0."""
        self.warn_of_layer()
        if self.unresponsive.any():
            examples = self.unresponsive.nonzero().flatten().tolist()
            _warn_of_zeros(examples, reason or _ZERO_GRADIENTS)

    def warn_of_layer(self) -> None:
        """Warn of layers whose maps mislead, however they are used."""
        inputs = self.output.shapes
        for raw, shape in zip(self.raw_shapes, self.shapes, strict=True):
            if not fits(shape, inputs):
                plain = self.reshape_transform is None
                name = "layer" if plain else "reshape_transform"
                warn_of_axes(name, shape, inputs, remedy(raw, inputs))
                break
        for layer, uses in self.capture.use_counts.items():
            if uses > 1:
                _warn_of_uses(layer, uses)

    def check_masks(self) -> None:
        """Refuse maps that cannot be upsampled to the inputs that they mask."""
        inputs = self.output.shapes
        for raw, shape in zip(self.raw_shapes, self.shapes, strict=True):
            fit = can_be_upsampled(shape, inputs)
            _check_spatial(fit, shape, inputs, remedy(raw, inputs))

    def _gradients(
        self, points: tuple[Tensor, ...], examples: Tensor
    ) -> tuple[LayerUses, Tensor, dict[int, Tensor | None]]:
        """The layers, y and its gradient at each leaf, or None where it has none."""
        uses, y = self.capture.run(points, examples, record=True)
        if not self.mode.copy_leaves and any(map(_is_overwritten, _all_uses(uses))):
            self.mode.copy_leaves = True  # the model writes to them behind the layer
            return self._gradients(points, examples)
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

    def _without_gradient(
        self, uses: LayerUses, gradients: dict[int, Tensor | None]
    ) -> list[Missing]:
        """The layers' tensors that must have a gradient, but have none."""
        missing = []
        for number, layer in enumerate(self.layers):
            description = "the layer"
            if len(self.layers) > 1:
                description = f"layer {number} of the list ({type(layer).__name__})"
            for use in uses[layer].values():
                found = [gradients[id(leaf)] is not None for leaf in use.leaves]
                # A transform selects: what it leaves out need not have a gradient.
                if all(found) or (self.reshape_transform is not None and any(found)):
                    continue
                i, is_only = found.index(False), len(found) == 1
                named = description if is_only else f"tensor {i} of {description}"
                missing.append(Missing(layer, named, i, is_only))
        return missing

    def _explain_missing(
        self, missing: Missing, points: tuple[Tensor, ...], examples: Tensor
    ) -> str:
        """Why a tensor has no gradient."""

        def run(change: Callable[[Tensor], Tensor], record: bool) -> Tensor:
            """y where a change is made to the tensor."""

            def hook(layer: Module, _: Module, inputs: Any, outputs: Any = None) -> Any:
                if layer is not missing.layer:
                    return None
                given = self.capture.select(inputs, outputs)
                wanted = self.capture.tensors(given)[missing.position]
                changed = map_tensors(lambda t: change(t) if t is wanted else t, given)
                return self.capture.hook_result(inputs, changed)

            with (
                generators_kept(),  # chance is the same in every pass
                torch.set_grad_enabled(record),
                self.capture.hooked(hook),
            ):
                return self.output(points, examples).detach()

        return why_missing(missing, run, self.output.state.name)

    def _maps(
        self, uses: LayerUses, value: Callable[[Tensor], Tensor | None]
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

    def _in_order(self, uses: dict[torch.device, LayerUse]) -> list[LayerUse]:
        """By devices, in the order in which `DataParallel` fills them."""
        order = list(self.device_ids or [])

        def rank(device: torch.device) -> int:
            return order.index(device.index) if device.index in order else 0

        return [uses[device] for device in sorted(uses, key=rank)]

    def _transformed(self, given: Any) -> tuple[Tensor, ...]:
        """The feature maps in what a layer gave."""
        if self.reshape_transform is None:
            tensors: tuple[Tensor, ...] = given
            return tensors
        return (_check_transformed(self.reshape_transform(given), given),)

    def _check(self, activations: tuple[Tensor, ...], examples: Tensor) -> None:
        """Activations with a row for each example, and finite."""
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


def _all_uses(uses: LayerUses) -> list[LayerUse]:
    return [use for of_layer in uses.values() for use in of_layer.values()]


def _is_overwritten(use: LayerUse) -> bool:
    return [version_of(leaf) for leaf in use.leaves] != use.versions


_INDEPENDENT = (
    "forward_func's target output must depend on every tensor of the layer by "
    "operations that autograd records, but "
)
_REENTRANT = (
    "the model has a reentrant torch.utils.checkpoint behind the layer, which hands "
    "gradients to parameters alone; pass it use_reentrant=False, or switch it off "
    "while explaining"
)
_ZERO_GRADIENTS = (
    "the output's gradients at the layer are all 0 (the output is saturated, units are "
    "dead, or it does not depend on this part of the layer)"
)


def _check_transformed(maps: object, given: object) -> Tensor:
    """What a transform made of what a layer gave: feature maps."""
    if (
        not isinstance(maps, Tensor)
        or maps.dim() < 3
        or not maps.is_floating_point()
        or maps.numel() == 0
    ):
        raise ValueError(
            "reshape_transform must give feature maps (N, K, *spatial) of a floating "
            f"dtype, got {kind_of(maps)} for the layer's {describe(given)}"
        )
    return maps


def _check_spatial(
    fit: bool, maps: Sequence[int], inputs: Sequence[Sequence[int]], remedy: str
) -> None:
    """Maps that can be enlarged to every input."""
    if not fit:
        raise ValueError(
            "layer must give feature maps (N, K, *spatial) whose spatial axes fit the "
            f"inputs' axes, got shape {tuple(maps)} for inputs of shape "
            f"{', '.join(str(tuple(shape)) for shape in inputs)}; choose a "
            f"convolutional layer, or give {remedy}"
        )


def check_batch(tensor: Tensor, rows: int) -> None:
    """A row for each example, also where a layer's tensor was transformed."""
    if tensor.shape[0] != rows:
        raise ValueError(
            f"layer must give one row for each of its {rows} examples, got shape "
            f"{shape_of(tensor)}; choose another layer, or a reshape_transform that "
            "keeps the rows"
        )


def warn_of_axes(
    name: str, maps: Sequence[int], inputs: Sequence[Sequence[int]], remedy: str
) -> None:
    """A tensor that may hold no maps: its spatial axes do not fit the inputs."""
    given, *shapes = (
        f"(N, {', '.join(map(str, shape[1:]))})" for shape in (maps, *inputs)
    )
    warn(
        f"{name} gives shape {given} for inputs of shape {', '.join(shapes)}: its "
        "second axis is taken for channels, the others for places, which do not fit "
        "those of the inputs; if they are none, as with a transformer's tokens or "
        f"channels last, the map is wrong: pass {remedy}"
    )


def _warn_of_uses(layer: Module, uses: int) -> None:
    """A layer that a pass uses more than once."""
    warn(
        f"layer ({type(layer).__name__}) is used {uses} times in a pass: the map is "
        "that of its last use; to explain another one, let it run through a "
        "copy.deepcopy of the layer, or of the part of the model that holds it"
    )


def _warn_of_zeros(examples: Sequence[int], reason: str) -> None:
    """Examples whose maps are 0 for one reason."""
    some = ", ".join(map(str, examples[:10])) + ", ..." * (len(examples) > 10)
    warn(f"the map is 0 for example{'s' * (len(examples) > 1)} {some}: {reason}")
