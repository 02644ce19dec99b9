"""Methods as they are asked for, and the maps that they make of a layer."""

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import util
from typing import Any, NamedTuple

from captum.attr import LayerGradCam
from torch import Tensor
from torch.nn import Module

from captum_cams.attr.gradient_cams import GradientCamAttribution
from captum_cams.attr.registry import METHODS, Method
from captum_cams.evaluation.errors import UserError, brief_error, closest_names
from captum_cams.evaluation.layers import LayerInfo
from captum_cams.evaluation.networks import Network, transform_name
from captum_cams.evaluation.processes import seeded
from captum_cams.evaluation.user_code import import_object, parse_call
from captum_cams.reshape import Transform


class MethodSpec(NamedTuple):
    """A method as it is asked for, such as ``group-cam(groups=8)``."""

    label: str
    """Its name in results, of which :func:`parse_method` makes the same again."""
    name: str
    method: Method
    arguments: Mapping[str, Any]


def parse_method(text: str) -> MethodSpec:
    """
    A method, with arguments of its `attribute` or without.

    Args:
        text (str): A name of :data:`METHODS`, or ``module:class`` for a class of the
            user's own, which need not be registered: where it is, it goes by the first
            name that it has, with what was declared of it, else by this text and what
            :class:`Method` has by default.

    Raises:
        UserError: If there is no such method, or the arguments are not literals.
    """
    if not isinstance(text, str):
        raise UserError(
            "a method must be a name like 'grad-cam' or 'group-cam(groups=8)', got "
            f"{text!r}"
        )
    name, arguments = parse_call(text)
    name, method = _find_method(name)
    if arguments is None:
        raise UserError(
            f"a method's arguments must be like group-cam(groups=8), got {text!r}"
        )
    known = method.arguments
    for key in arguments:
        if not method.takes(key) or key in ("self", "inputs", "target"):
            raise UserError(
                f"{name} has no argument {key!r}; {closest_names(key, known)}"
            )
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    label = f"{name}({shown})" if arguments else name
    return MethodSpec(label, name, method, arguments)


def _find_method(name: str) -> tuple[str, Method]:
    """A registered method, or a class of the user's own."""
    if name in METHODS:
        return name, METHODS[name]
    if ":" not in name:
        raise UserError(f"there is no method {name!r}; {closest_names(name, METHODS)}")
    try:
        found = import_object(name)
    except Exception as error:  # the user's own code
        raise UserError(f"cannot import method {name}: {brief_error(error)}") from error
    for known, method in METHODS.items():
        if method.attribution is found:
            return known, method
    try:
        return name, Method(found)
    except TypeError as error:
        raise UserError(f"{name} is no method: {error}") from error


class _GradCam(GradientCamAttribution):
    """Captum's LayerGradCam for layers whose output needs a transform."""

    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The mean of the gradients."""
        return gradients.mean((2, 3), keepdim=True)  # (n, K, 1, 1)


def check_transforms(spec: MethodSpec, layers: Sequence[LayerInfo]) -> None:
    """
    Whether a method takes the transforms that layers need.

    Raises:
        UserError: If a layer needs one and the method's class takes none.
    """
    attribution = spec.method.attribution
    if not spec.method.has_layer or attribution is LayerGradCam:
        return
    parameters = inspect.signature(attribution).parameters.values()
    if any(
        p.name == "reshape_transform" or p.kind is p.VAR_KEYWORD for p in parameters
    ):
        return
    for layer in layers:
        if layer.transform is not None:
            raise UserError(
                f"{spec.label} cannot explain layer {layer.name}, whose output needs "
                f"the reshape_transform {transform_name(layer.transform)}, which "
                f"{attribution.__name__} does not take; give it that argument, or name "
                "a layer that gives feature maps (N, K, h, w)"
            )


def missing_library(name: str, libraries: Mapping[str, str]) -> str | None:
    """A sentence where modules are not installed that a method or metric imports."""
    missing = [library for library in libraries if util.find_spec(library) is None]
    if not missing:
        return None
    extra = libraries[missing[0]]
    return f"{name} needs {' and '.join(missing)}; pip install '{extra}' brings it"


def missing_module(name: str, method: Method, model: Module) -> str | None:
    """A sentence where a model lacks the modules that a method changes."""
    kind = method.needs_module
    if kind is None or any(isinstance(module, kind) for module in model.modules()):
        return None
    return (
        f"{name} needs a module {kind.__name__} in the model, as it changes the "
        "gradients of such modules alone, and the model has none"
    )


BLUR = 51, 50.0
"""Taps and sigma of the paper's blur (Group-CAM, authors' code), for 224 pixels."""


def blur_of(side: int) -> tuple[int, float]:
    """The paper's blur, narrower in proportion where a side is too short for it."""
    taps = min(BLUR[0], 2 * side - 1)
    return taps, BLUR[1] * taps / BLUR[0]


class AsModule(Module):
    """A network's explained outputs as a module, which some of Captum's want."""

    def __init__(self, network: Network, log: bool) -> None:
        super().__init__()
        self.model = network.model
        self.outputs = network.log_explained if log else network.explained
        self.training = network.model.training

    def forward(self, inputs: Tensor) -> Tensor:
        return self.outputs(inputs)


class ExplainTask(NamedTuple):
    """What a method explains: the outputs for N pictures' targets."""

    network: Network
    inputs: Tensor  # (N, 3, H, W)
    targets: Tensor  # (N,)

    def forward(self, inputs: Tensor) -> Tensor:
        """The confidences that are measured, (N, classes)."""
        return self.network.forward(inputs)

    @property
    def colors(self) -> Mapping[str, Tensor]:
        """A black and a white picture as the network takes them, (1, 3, H, W)."""
        return self.network.colors(self.inputs)

    def explain(
        self, spec: MethodSpec, layers: Sequence[LayerInfo], seed: int = 0
    ) -> list[Tensor]:
        """
        Maps by a method, (N, 1, h, w) for each layer.

        A method that knows no layers gives one map of all.

        Raises:
            UserError: If the method cannot explain the layers, or gives no such maps.
        """
        check_transforms(spec, layers)
        method = spec.method
        if need := missing_module(spec.label, method, self.network.model):
            raise UserError(need)
        # A method of the user's own may draw from torch's common generators.
        with seeded(seed, self.inputs.device):
            if not method.has_layer:
                maps = [self._attribute(spec, seed)]
            elif method.several_layers and share_transform(layers):
                modules = [layer.module for layer in layers]
                found = self._attribute(spec, seed, modules, layers[0].transform)
                maps = _check_one_each(spec, found, len(layers))
            else:
                maps = [
                    self._attribute(
                        spec, seed, layer.module, layer.transform, layer.shape[0]
                    )
                    for layer in layers
                ]
        return [self._check_maps(spec, one) for one in maps]

    def _attribute(
        self,
        spec: MethodSpec,
        seed: int,
        layer: Module | list[Module] | None = None,
        transform: Transform | None = None,
        channels: int | None = None,
    ) -> Any:
        """What the method gives of one layer, of a list, or of the whole model."""
        method = spec.method
        attribution: Any = method.attribution
        built_with: dict[str, Any] = {}
        if transform is not None:
            attribution = _GradCam if attribution is LayerGradCam else attribution
            built_with["reshape_transform"] = transform
        options: dict[str, Any] = {}
        if channels is not None and (limited := method.limited_by_channels):
            options[limited] = min(method.arguments[limited].default, channels)
        network = self.network
        if "confidence_func" in method.arguments and not network.measures_explained:
            options["confidence_func"] = network.to_measured
        if "blur_kernel_size" in method.arguments:
            blur = blur_of(min(self.inputs.shape[2:]))
            options |= dict(zip(("blur_kernel_size", "blur_sigma"), blur, strict=True))
        options |= method.defaults
        options |= {key: self.colors[color] for key, color in method.colors.items()}
        options |= {} if method.seed_arguments is None else method.seed_arguments(seed)
        options |= spec.arguments
        model = AsModule(network, log=method.explains_log)
        cam = attribution(model, *[layer] * method.has_layer, **built_with)
        with _unsurprised(attribution):
            found = cam.attribute(self.inputs, target=self.targets, **options)
        return method.maps(found)

    def _check_maps(self, spec: MethodSpec, maps: object) -> Tensor:
        """A map of each picture, detached; a user's own method may give anything."""
        given = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        number = len(self.inputs)
        if not isinstance(maps, Tensor) or given[:2] != (number, 1) or maps.dim() != 4:
            raise UserError(
                f"{spec.label} must give a map of each of {number} pictures, "
                f"({number}, 1, h, w), got {given}"
            )
        return maps.detach()


@contextmanager
def _unsurprised(attribution: type) -> Iterator[None]:
    """Without warnings of what Captum's own methods do as they are meant to."""
    if not attribution.__module__.startswith("captum."):
        yield
        return
    with warnings.catch_warnings():
        for text in (
            "Setting backward hooks on ReLU",
            "Input Tensor [0-9]+ did not already require gradients",
            "Internal batch size cannot be less than the number of input examples",
        ):
            warnings.filterwarnings("ignore", text)
        yield


def share_transform(layers: Sequence[LayerInfo]) -> bool:
    """Whether one call can explain all of these layers."""
    return len({transform_name(layer.transform) for layer in layers}) == 1


def _check_one_each(spec: MethodSpec, maps: Any, number: int) -> list[Any]:
    """Checks that a method gives a list with what belongs to each layer."""
    if not isinstance(maps, (list, tuple)) or len(maps) != number:
        raise UserError(
            f"{spec.label} must give a list of maps for a list of {number} layers, as "
            f"it is declared with several_layers, got {type(maps).__name__}"
            + (f" of {len(maps)}" if isinstance(maps, (list, tuple)) else "")
        )
    return list(maps)
