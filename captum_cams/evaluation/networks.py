"""Networks, their layers and what a method makes of both, as the commands ask."""

import copy
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor
from torch.nn import Module

from captum_cams import (
    GroupCam,
    LayerAblationCam,
    LayerSmoothGradCamPlusPlus,
    Rise,
    ScoreCam,
)
from captum_cams._checks import UserError
from captum_cams.attr.registry import METHODS
from captum_cams.examples import CLASSES, shapes_model

models: Any = torchvision.models  # its types leave out what is public

# All others take a list of layers, which then share their passes.
_ONE_LAYER = (GroupCam, LayerAblationCam, LayerGradCam, ScoreCam)


class Place(NamedTuple):
    """A layer with spatial output, and the number of classes behind it."""

    name: str
    layer: Module
    shape: tuple[int, ...]  # (K, h, w)
    classes: int


class Subject(NamedTuple):
    """What a method explains: the probabilities of N pictures' targets."""

    forward: Callable[[Tensor], Tensor]
    inputs: Tensor  # (N, 3, H, W)
    colours: Mapping[str, Tensor]  # black and white, (1, 3, H, W)
    targets: Tensor  # (N,)

    def log_forward(self, inputs: Tensor) -> Tensor:
        """Logarithms of the probabilities, (N, classes)."""
        return self.forward(inputs).clamp(min=1e-30).log()

    def explain(
        self,
        name: str,
        places: Sequence[Place],
        arguments: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> list[Tensor]:
        """
        Maps by a method of the registry, (N, 1, h, w) for each place.

        A method that knows no layers gives one map of all.
        """
        method = METHODS[name]
        attribution: Any = method.attribution
        forward = self.log_forward if method.log else self.forward
        options = dict(method.defaults)
        options |= {key: self.colours[name] for key, name in method.colours.items()}
        if attribution is Rise:
            options["generator"] = torch.Generator().manual_seed(seed)
        if attribution is LayerSmoothGradCamPlusPlus:
            options["seed"] = seed
        options |= arguments or {}

        def maps(*layer: object, **more: object) -> Any:
            cam = attribution(forward, *layer)
            return cam.attribute(self.inputs, target=self.targets, **more, **options)

        if not issubclass(attribution, LayerAttribution):
            return [maps()]
        if attribution is GroupCam and "groups" not in options:
            return [maps(at.layer, groups=min(32, at.shape[0])) for at in places]
        if not takes_layers(name):
            return [maps(at.layer) for at in places]
        return list(maps([at.layer for at in places]))


def takes_layers(name: str) -> bool:
    """Whether a method of the registry explains several layers in one go."""
    return not issubclass(METHODS[name].attribution, _ONE_LAYER)


def has_layer(name: str) -> bool:
    """Whether a method of the registry looks at a layer."""
    return issubclass(METHODS[name].attribution, LayerAttribution)


class Network(NamedTuple):
    """A model and the pictures that it wants."""

    name: str
    model: Module
    classes: Sequence[str] = ()
    size: int = 224
    mean: Sequence[float] = (0, 0, 0)
    std: Sequence[float] = (1, 1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Probabilities (N, classes)."""
        outputs = self.model(inputs)
        if not isinstance(outputs, Tensor) or outputs.dim() != 2:
            came = tuple(getattr(outputs, "shape", ())) or type(outputs).__name__
            raise UserError(
                f"{self.name} must give one row of class scores a picture, (N, "
                f"classes), got {came}; wrap it in a module that does"
            )
        if outputs.shape[1] < 2:
            raise UserError(
                f"{self.name} must give two or more class scores a picture, got one, "
                "whose share of all is always 1; wrap it in a module that gives "
                "torch.cat([-score, score], 1)"
            )
        sums = outputs.detach().sum(1)
        if (outputs >= 0).all() and torch.allclose(sums, torch.ones_like(sums)):
            return outputs
        return outputs.softmax(1)

    def normalise(self, images: Tensor) -> Tensor:
        """Pictures in [0, 1] as the model wants them."""
        mean, std = (
            images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std)
        )
        return (images - mean) / std

    def colours(self, images: Tensor) -> dict[str, Tensor]:
        """A black and a white picture as the model wants them, (1, 3, H, W)."""
        return {
            "black": self.normalise(torch.zeros_like(images[:1])),
            "white": self.normalise(torch.ones_like(images[:1])),
        }


def load_network(
    model: str | Module | None = None,
    weights: str | Path | None = None,
    *,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """
    A network in evaluation mode and single precision.

    Args:
        model (str or Module, optional): A classifier of torchvision by its name,
            ``"module:callable"`` for a function or class of the user's, or a model,
            which is copied. Default: None, the network of the examples
        weights (str or Path, optional): A file with a state dict, or ``"DEFAULT"`` for
            those that torchvision downloads. Default: None, as the model is built
        size (int, optional): Height and width of its pictures. Default: None, as
            torchvision's model wants them, else 224
        mean (sequence of float, optional): Of the colours in [0, 1]. Default: None,
            as torchvision's model wants it, else 0
        std (sequence of float, optional): As `mean`, else 1. Default: None

    Raises:
        UserError: If there is no such model or file, or the two do not match.
    """
    if isinstance(model, str) and ":" not in model:
        network = _torchvision_network(model, weights)
    elif weights == "DEFAULT":
        raise UserError("weights DEFAULT is for torchvision's models; give a file")
    elif model is None:
        network = Network("the example network", shapes_model(), CLASSES, size=128)
    elif isinstance(model, str):
        network = _user_network(model)
    else:
        network = Network(type(model).__name__, copy.deepcopy(model))
    if weights not in (None, "DEFAULT"):
        _load_weights(network, str(weights))
    network.model.float().eval()
    given: dict[str, Any] = {"size": size, "mean": mean, "std": std}
    return network._replace(**{key: v for key, v in given.items() if v is not None})


def _user_network(name: str) -> Network:
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        built = getattr(importlib.import_module(module_name), attribute)
        model = copy.deepcopy(built) if isinstance(built, Module) else built()
    except Exception as error:  # the user's own code
        raise UserError(f"cannot build model {name}: {brief(error)}") from error
    if not isinstance(model, Module):
        raise UserError(
            f"model {name} must be or return a torch.nn.Module, got "
            f"{type(model).__name__}"
        )
    return Network(name, model)


def _torchvision_network(name: str, weights: str | Path | None) -> Network:
    known = models.list_models(module=models)
    if name.lower() not in known:
        raise UserError(
            f"torchvision has no classifier {name!r}; {closest(name, known)}"
        )
    default = models.get_model_weights(name).DEFAULT
    try:
        model = models.get_model(
            name, weights=default if weights == "DEFAULT" else None
        )
    except (OSError, RuntimeError) as error:  # no network, or a broken file
        raise UserError(
            f"cannot download the weights of {name}: {brief(error)}"
        ) from error
    wanted = default.transforms()
    return Network(
        name,
        model,
        default.meta["categories"],
        wanted.crop_size[0],
        wanted.mean,
        wanted.std,
    )


def _load_weights(network: Network, path: str) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises all kinds
        reason = (
            getattr(error, "strerror", None) or "not a state dict saved by torch.save"
        )
        raise UserError(f"cannot read weights {path}: {reason}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise UserError(
            f"weights {path} must hold a state dict alone, as of "
            "torch.save(model.state_dict(), ...)"
        )
    try:
        network.model.load_state_dict(state)  # casts to the model's dtype
    except RuntimeError as error:
        raise UserError(
            f"weights {path} do not fit {network.name}: {brief(error)}"
        ) from error


def find_places(
    network: Network, images: Tensor, names: Sequence[str] | None = None
) -> list[Place]:
    """
    The layers of these names, or the last with spatial output, in one forward.

    Args:
        network (Network): Where to look.
        images (Tensor): A picture in [0, 1], (1, 3, H, W).
        names (sequence of str, optional): Dotted names. Default: None

    Raises:
        UserError: If there is no such layer, or its output is not spatial.
    """
    layers = dict(network.model.named_modules(remove_duplicate=False))
    for name in names or ():
        if name not in layers:
            raise UserError(
                f"{network.name} has no layer {name!r}; {closest(name, layers)}"
            )
    shapes, classes = _run_once(network, images)
    spatial = [key for key, layer in layers.items() if _is_spatial(shapes.get(layer))]
    if not spatial:
        raise UserError(f"{network.name} has no layer with spatial output")
    order = list(shapes)
    last = max(spatial, key=lambda key: order.index(layers[key]))
    places = []
    for name in names or [last]:
        layer = layers[name]
        if name not in spatial:
            came = tuple(shapes[layer]) if layer in shapes else "none"
            raise UserError(
                f"layer {name} must have spatial output (N, K, h, w), got {came}; the "
                f"last that has is {last}"
            )
        places.append(Place(name, layer, tuple(shapes[layer][1:]), classes))
    return places


def _is_spatial(shape: torch.Size | None) -> bool:
    return shape is not None and len(shape) == 4 and shape[2] * shape[3] > 1


def _run_once(network: Network, images: Tensor) -> tuple[dict[Module, torch.Size], int]:
    """The shape of each layer's output, in the order they end, and the classes."""
    shapes: dict[Module, torch.Size] = {}

    def record(layer: Module, _: Any, output: Any) -> None:
        shapes.pop(layer, None)  # of several calls the last counts
        shapes[layer] = getattr(output, "shape", torch.Size())

    handles = [
        layer.register_forward_hook(record)
        for layer in network.model.modules()
        if layer is not network.model
    ]
    try:
        with torch.no_grad():
            probabilities = network.forward(network.normalise(images))
    except UserError:
        raise
    except Exception as error:  # the model's own code
        raise UserError(
            f"{network.name} fails on a picture of {network.size} x {network.size}: "
            f"{brief(error)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return shapes, probabilities.shape[1]


def closest(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is not known."""
    names = get_close_matches(name, known, n=4, cutoff=0)
    return f"the closest names are {', '.join(names)}"


def brief(error: Exception) -> str:
    """The error in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)
