"""Networks, their layers and what a method makes of both, as the commands ask."""

import ast
import copy
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torchvision
from captum.attr import LayerGradCam
from torch import Tensor
from torch.nn import Module

from captum_cams._validation import (
    UserError,
)
from captum_cams.attr.gradient_cams import GradientCamAttribution
from captum_cams.attr.registry import METHODS
from captum_cams.examples import CLASSES, shapes_model
from captum_cams.reshape import Transform, channels_last, vit_tokens

models: Any = torchvision.models  # its types leave out what is public


class Place(NamedTuple):
    """A layer with spatial output, and the number of classes behind it."""

    name: str
    layer: Module
    shape: tuple[int, ...]  # of the feature maps, (K, h, w)
    classes: int
    transform: Transform | None = None
    """What makes feature maps of what the layer gives."""


class _GradCam(GradientCamAttribution):
    """Captum's LayerGradCam for layers whose output needs a transform."""

    def weights(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The mean of the gradients."""
        return gradients.mean((2, 3), keepdim=True)  # (n, K, 1, 1)


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
        options |= {key: self.colours[color] for key, color in method.colors.items()}
        if method.seeded is not None:
            options |= method.seeded(seed)
        options |= arguments or {}

        def attribute(cam: Any, **more: object) -> Any:
            return cam.attribute(self.inputs, target=self.targets, **more, **options)

        def made(layer: Any, transform: Transform | None) -> Any:
            if transform is None:
                return attribution(forward, layer)
            kind = _GradCam if attribution is LayerGradCam else attribution
            return kind(forward, layer, reshape_transform=transform)

        if not method.has_layer:
            return [attribute(attribution(forward))]
        alike = len({spelled(at.transform) for at in places}) == 1
        if method.several_layers and alike:
            layers = [at.layer for at in places]
            return list(attribute(made(layers, places[0].transform)))
        limited = method.limited_by_channels
        if limited is None or limited in options:
            return [attribute(made(at.layer, at.transform)) for at in places]
        usual = inspect.signature(attribution.attribute).parameters[limited].default
        return [
            attribute(
                made(at.layer, at.transform), **{limited: min(usual, at.shape[0])}
            )
            for at in places
        ]


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
        return self.probabilities(self.scores(self.model(inputs)))

    def scores(self, outputs: Any) -> Tensor:
        """The class scores in what the model gave, (N, classes)."""
        found = _class_scores(outputs)
        if found is None or found.dim() != 2:
            came = described(outputs if found is None else found)
            raise UserError(
                f"{self.name} must give one row of class scores a picture, (N, "
                f"classes), got {came}; wrap it in a module that does"
            )
        if found.shape[1] < 2:
            raise UserError(
                f"{self.name} must give two or more class scores a picture, got one, "
                "whose share of all is always 1; wrap it in a module that gives "
                "torch.cat([-score, score], 1)"
            )
        return found

    def probabilities(self, scores: Tensor) -> Tensor:
        """Class scores as shares of 1, which they may be already, (N, classes)."""
        sums = scores.detach().sum(1)
        if (scores >= 0).all() and torch.allclose(sums, torch.ones_like(sums)):
            return scores
        return scores.softmax(1)

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


def _class_scores(outputs: Any) -> Tensor | None:
    """
    The tensor that must be the class scores.

    It is the output itself; its part named logits or out; or of a tuple without such
    names the only tensor with two axes.
    """
    if isinstance(outputs, Tensor):
        return outputs
    fields = _fields(outputs)
    for name in ("logits", "out"):
        scores = fields.get(name, getattr(outputs, name, None))
        if isinstance(scores, Tensor):
            return scores
    rows: list[Tensor] = [part for part in fields.values() if _is_row(part)]
    return rows[0] if isinstance(outputs, (tuple, list)) and len(rows) == 1 else None


def _is_row(part: object) -> bool:
    return isinstance(part, Tensor) and part.is_floating_point() and part.dim() == 2


def _fields(outputs: Any) -> dict[str, Any]:
    """The parts of an output by their names, or by their numbers in a tuple."""
    if isinstance(outputs, Mapping):
        return {str(name): part for name, part in outputs.items()}
    if isinstance(outputs, (tuple, list)):
        names = getattr(outputs, "_fields", range(len(outputs)))
        return dict(zip(map(str, names), outputs, strict=True))
    return dict(getattr(outputs, "__dict__", {}))  # a dataclass or the like


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


def _imported(name: str) -> Any:
    """What ``"module:attribute"`` names, in the current folder too."""
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    return getattr(importlib.import_module(module_name), attribute)


def _user_network(name: str) -> Network:
    try:
        built = _imported(name)
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


_UNKNOWN_RESHAPE = (
    "--reshape must be vit_tokens, channels_last or module:callable, got {!r}"
)


def load_transform(reshape: str | Transform | None) -> Transform | None:
    """
    What makes feature maps of a layer's output.

    Args:
        reshape (str or Callable, optional): ``"vit_tokens"`` or ``"channels_last"``,
            with arguments where wanted, such as ``"vit_tokens(prefix_tokens=2)"``,
            ``"module:callable"``, or a function. Default: None

    Raises:
        UserError: If there is no such function.
    """
    if reshape is None or callable(reshape):
        return reshape
    if not isinstance(reshape, str):
        raise UserError(_UNKNOWN_RESHAPE.format(reshape))
    if ":" in reshape and "(" not in reshape:
        try:
            transform: Any = _imported(reshape)
        except Exception as error:  # the user's own code
            raise UserError(
                f"cannot import --reshape {reshape}: {brief(error)}"
            ) from error
        if not callable(transform):
            raise UserError(
                f"--reshape {reshape} must be a function of what the layer gives, got "
                f"{type(transform).__name__}"
            )
        return cast(Transform, transform)
    name, arguments = parse_call(reshape)
    known: dict[str, Callable[..., Tensor]] = {
        "vit_tokens": vit_tokens,
        "channels_last": channels_last,
    }
    if arguments is None or name not in known:
        raise UserError(_UNKNOWN_RESHAPE.format(reshape))
    parameters = inspect.signature(known[name]).parameters
    for key in arguments:
        if key not in parameters:
            raise UserError(
                f"{name} has no argument {key!r}; {closest(key, parameters)}"
            )
    return partial(known[name], **arguments) if arguments else known[name]


def spelled(transform: Transform | None) -> str:
    """A transform as it is asked for."""
    if transform is None:
        return "none"
    if isinstance(transform, partial):
        bound = ", ".join(
            f"{key}={value!r}" for key, value in transform.keywords.items()
        )
        return f"{spelled(transform.func)}({bound})"
    name = getattr(transform, "__qualname__", type(transform).__qualname__)
    module = getattr(transform, "__module__", None)
    return name if module == vit_tokens.__module__ else f"{module}:{name}"


def parse_call(text: str) -> tuple[str, dict[str, Any] | None]:
    """
    A name and the literals behind it, as of ``name`` or ``name(argument=1)``.

    The arguments are None where they are anything else.
    """
    match = re.fullmatch(r"([\w-]+)(?:\((.*)\))?", text.strip())
    if match is None:
        return text, None
    try:
        call: Any = ast.parse(f"f({match[2] or ''})", mode="eval").body
        pairs = [(word.arg, ast.literal_eval(word.value)) for word in call.keywords]
        plain = isinstance(call.func, ast.Name) and not call.args
    except (AttributeError, SyntaxError, ValueError):
        return match[1], None
    return match[1], dict(pairs) if plain and all(key for key, _ in pairs) else None


def described(outputs: Any) -> str:
    """The shape of a tensor, or the parts of anything else with theirs."""
    if isinstance(outputs, Tensor):
        return str(tuple(outputs.shape))
    parts = [
        f"{name} {tuple(part.shape)}"
        if isinstance(part, Tensor)
        else f"{name} ({type(part).__name__})"
        for name, part in _fields(outputs).items()
    ]
    return type(outputs).__name__ + (f" with {', '.join(parts)}" if parts else "")


def closest(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is not known."""
    names = get_close_matches(name, known, n=4, cutoff=0)
    return f"the closest names are {', '.join(names)}"


def brief(error: Exception) -> str:
    """The error in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)
