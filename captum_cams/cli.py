"""
The command line: `captum-cams`, or `python -m captum_cams`.

What a user can put right ends in one sentence on stderr and exit code 2.
"""

import argparse
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torchvision
from captum.attr import LayerAttribution
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import Module

from captum_cams import GroupCam, __version__, metrics
from captum_cams.attr.registry import METHODS
from captum_cams.examples import CLASSES, shape_pictures, shapes_model
from captum_cams.visualization import panel

# Their types leave out what is public.
models: Any = torchvision.models
transforms: Any = torchvision.transforms.functional

_USUAL = ["grad-cam", "rsi-grad-cam", "integrated-grad-cam", "group-cam"]
_ROWS = 8  # pictures of a figure, which are also explained together


class CommandError(Exception):
    """What the user can put right, in one sentence."""


class Subject(NamedTuple):
    """What a method explains: N pictures' probabilities at a layer of K channels."""

    forward: Callable[[Tensor], Tensor]
    layer: Module
    channels: int
    inputs: Tensor  # (N, 3, H, W)
    colours: Mapping[str, Tensor]  # black and white, (1, 3, H, W)
    targets: Tensor  # (N,)

    def log_forward(self, inputs: Tensor) -> Tensor:
        """Logarithms of the probabilities, (N, classes)."""
        return self.forward(inputs).clamp(min=1e-30).log()

    def explain(self, name: str) -> Tensor:
        """Maps by a method of the registry, (N, 1, h, w)."""
        method = METHODS[name]
        attribution: Any = method.attribution
        over_layer = issubclass(attribution, LayerAttribution)
        forward = self.log_forward if method.log else self.forward
        cam = attribution(forward, *[self.layer] * over_layer)
        options = dict(method.defaults)
        options |= {key: self.colours[name] for key, name in method.colours.items()}
        if attribution is GroupCam:
            options["groups"] = min(32, self.channels)
        maps: Tensor = cam.attribute(self.inputs, target=self.targets, **options)
        return maps


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
            raise CommandError(
                f"{self.name} must give one row of class scores a picture, (N, "
                f"classes), got {came}; wrap it in a module that does"
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


class Place(NamedTuple):
    """A layer with spatial output, and the number of classes behind it."""

    name: str
    layer: Module
    channels: int
    classes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    Args:
        arguments (sequence of str, optional): Its arguments. Default: None, for those
            of the process

    Returns:
        *int*, the exit code: 0, or 2 after an error that the user can put right.
    """
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except CommandError as error:
        print(f"captum-cams: {error}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="captum-cams",
        description="Class activation maps of pictures, as figures.",
    )
    parser.add_argument(
        "--version", action="version", version=f"captum-cams {__version__}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_explain(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="explain example pictures; nothing is downloaded",
        description="Explain a few example pictures, methods side by side.",
    )
    _add_methods(demo)
    _add_out(demo)
    demo.set_defaults(run=_demo)


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="explain pictures of your own",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Explain what a network sees in pictures, with several methods side by "
            "side.\n\nMaps are of the probability of one class: the softmax of the "
            "model's outputs, or the\noutputs themselves where they are probabilities "
            "already. Paths start at a black picture."
        ),
        epilog=(
            "examples:\n"
            "  captum-cams explain cat.jpg --model resnet50 --weights DEFAULT\n"
            "  captum-cams explain *.png --model my_package.nets:build "
            "--layer features.12\n"
        ),
    )
    add = explain.add_argument
    add("images", metavar="IMAGE", nargs="+", help="files of pictures")
    add(
        "--model",
        metavar="NAME",
        help="a classifier of torchvision by its name, or module:callable for what "
        "your own function or class returns (default: the network of the examples)",
    )
    add(
        "--weights",
        metavar="FILE|DEFAULT",
        help="a file with the model's state dict, or DEFAULT for those that "
        "torchvision downloads (default: as the model is built)",
    )
    add(
        "--layer",
        metavar="PATH",
        help="dotted name of the layer, such as layer4 or features.12 (default: the "
        "last layer with spatial output)",
    )
    _add_methods(explain)
    add(
        "--target",
        metavar="INDEX|top1",
        type=_target,
        help="index of the class (default: top1, each picture's most probable one)",
    )
    add(
        "--size",
        metavar="N",
        type=_count,
        help="pictures are resized to N pixels along their shorter side and cropped to "
        "N x N at the centre (default: as torchvision's model wants it, else 224)",
    )
    for name, kind in (("mean", float), ("std", _positive)):
        add(
            f"--{name}",
            metavar=("R", "G", "B"),
            nargs=3,
            type=kind,
            help=f"{name} of the colours in [0, 1], for normalising (default: as "
            "torchvision's model wants it, else none)",
        )
    _add_out(explain)
    explain.set_defaults(run=_explain)


def _add_methods(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--methods",
        metavar="METHOD",
        nargs="+",
        choices=[*METHODS, "all"],
        default=_USUAL,
        help=f"all, or some of {', '.join(METHODS)} (default: {', '.join(_USUAL)})",
    )


def _add_out(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="folder of the figure, made if missing (default: the current one)",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer above 0, got {text!r}")
    return int(text)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _target(text: str) -> int | None:
    if text == "top1":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"must be top1 or the index of a class, got {text!r}"
        )
    return int(text)


def _demo(options: argparse.Namespace) -> None:
    folder = _folder(options.out)
    network = _example_network()
    images, _, boxes = shape_pictures(4)
    place = _find_place(network, images[:1], "block4")
    names = [f"picture {i + 1}" for i in range(len(images))]
    figure, subject, maps = _figure(
        network, place, images, names, options.methods, boxes=boxes
    )
    _save(figure, folder / "captum-cams-demo.png")
    _print_metrics(subject, maps, boxes)


def _explain(options: argparse.Namespace) -> None:
    folder = _folder(options.out)
    network = _network(options)
    images = torch.stack([_read(path, network.size) for path in options.images])
    place = _find_place(network, images[:1], options.layer)
    if options.target is not None and options.target >= place.classes:
        raise CommandError(
            f"--target must lie in [0, {place.classes - 1}] for {network.name}, got "
            f"{options.target}"
        )
    names = [Path(path).name for path in options.images]
    starts = range(0, len(images), _ROWS)
    for number, start in enumerate(starts, start=1):
        rows = slice(start, start + _ROWS)
        figure, _, _ = _figure(
            network, place, images[rows], names[rows], options.methods, options.target
        )
        part = f"-{number}" if len(starts) > 1 else ""
        _save(figure, folder / f"captum-cams-explain{part}.png")


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"cannot make the folder --out {path}: {error.strerror}"
        ) from error
    return path


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
    print(f"figure: {path.resolve()}")


def _read(path: str, size: int) -> Tensor:
    """The picture's central square in [0, 1], (3, size, size)."""
    try:
        with Image.open(path) as file:
            image: Any = ImageOps.exif_transpose(file).convert("RGB")
    except Exception as error:  # Pillow's decoders raise all kinds
        reason = getattr(error, "strerror", None) or "not a picture, or a broken one"
        raise CommandError(f"cannot read {path}: {reason}") from error
    image = transforms.center_crop(transforms.resize(image, [size]), [size])
    pixels: Tensor = transforms.to_tensor(image)  # (3, size, size)
    return pixels


def _network(options: argparse.Namespace) -> Network:
    """The network that the options ask for, in eval mode and single precision."""
    name, weights = options.model, options.weights
    if name is not None and ":" not in name:
        network = _torchvision_network(name, weights)
    elif weights == "DEFAULT":
        raise CommandError("--weights DEFAULT is for torchvision's models; give a file")
    else:
        network = _example_network() if name is None else _user_network(name)
    if weights not in (None, "DEFAULT"):
        _load_weights(network, weights)
    network.model.float().eval()
    given = {
        key: value
        for key in ("size", "mean", "std")
        if (value := getattr(options, key)) is not None
    }
    return network._replace(**given)


def _example_network() -> Network:
    return Network("the example network", shapes_model(), CLASSES, size=128)


def _user_network(name: str) -> Network:
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        built = getattr(importlib.import_module(module_name), attribute)
        model = built if isinstance(built, Module) else built()
    except Exception as error:  # the user's own code
        raise CommandError(f"cannot build --model {name}: {_brief(error)}") from error
    if not isinstance(model, Module):
        raise CommandError(
            f"--model {name} must be or return a torch.nn.Module, got "
            f"{type(model).__name__}"
        )
    return Network(name, model)


def _torchvision_network(name: str, weights: str | None) -> Network:
    known = models.list_models(module=models)
    if name.lower() not in known:
        raise CommandError(
            f"torchvision has no classifier {name!r}; {_closest(name, known)}"
        )
    default = models.get_model_weights(name).DEFAULT
    try:
        model = models.get_model(
            name, weights=default if weights == "DEFAULT" else None
        )
    except (OSError, RuntimeError) as error:  # no network, or a broken file
        raise CommandError(
            f"cannot download the weights of {name}: {_brief(error)}"
        ) from error
    if weights is None:
        print(f"{name} is untrained: --weights DEFAULT or a file changes that")
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
        raise CommandError(f"cannot read --weights {path}: {reason}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise CommandError(
            f"--weights {path} must hold a state dict alone, as of "
            "torch.save(model.state_dict(), ...)"
        )
    try:
        network.model.load_state_dict(state)  # casts to the model's dtype
    except RuntimeError as error:
        raise CommandError(
            f"--weights {path} does not fit {network.name}: {_brief(error)}"
        ) from error


def _find_place(network: Network, images: Tensor, name: str | None) -> Place:
    """The layer of this name, or the last with spatial output, in one forward."""
    layers = dict(network.model.named_modules(remove_duplicate=False))
    if name is not None and name not in layers:
        raise CommandError(
            f"{network.name} has no layer {name!r}; {_closest(name, layers)}"
        )
    shapes, classes = _run_once(network, images)
    spatial = [key for key, layer in layers.items() if _is_spatial(shapes.get(layer))]
    if not spatial:
        raise CommandError(f"{network.name} has no layer with spatial output")
    order = list(shapes)
    last = max(spatial, key=lambda key: order.index(layers[key]))
    name = last if name is None else name
    layer = layers[name]
    if name not in spatial:
        came = tuple(shapes[layer]) if layer in shapes else "none"
        raise CommandError(
            f"--layer {name} must have spatial output (N, K, h, w), got {came}; the "
            f"last that has is {last}"
        )
    _, channels, h, w = shapes[layer]
    print(f"{network.name}, layer {name}: {channels} channels of {h} x {w}")
    return Place(name, layer, channels, classes)


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
    except CommandError:
        raise
    except Exception as error:  # the model's own code
        raise CommandError(
            f"{network.name} fails on a picture of {network.size} x {network.size}: "
            f"{_brief(error)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return shapes, probabilities.shape[1]


def _figure(
    network: Network,
    place: Place,
    images: Tensor,
    names: Sequence[str],
    methods: Iterable[str],
    target: int | None = None,
    boxes: Tensor | None = None,
) -> tuple[Figure, Subject, dict[str, Tensor]]:
    """Pictures in [0, 1], their classes and their maps; what was explained, and how."""
    inputs = network.normalise(images)
    with torch.no_grad():
        probabilities = network.forward(inputs)  # (N, classes)
    top = probabilities.argmax(1)  # (N,)
    targets = top if target is None else torch.full_like(top, target)
    known = len(network.classes) == place.classes
    titles = []
    for name, row, index in zip(names, probabilities, targets.tolist(), strict=True):
        label = network.classes[index] if known else f"class {index}"
        titles.append(f"{name}\n{label} {row[index]:.3f}")
        print(f"{name}: {label} {row[index]:.3f}", flush=True)  # maps take a while
    colours = {
        "black": network.normalise(torch.zeros_like(images[:1])),  # (1, 3, H, W)
        "white": network.normalise(torch.ones_like(images[:1])),
    }
    subject = Subject(
        network.forward, place.layer, place.channels, inputs, colours, targets
    )
    methods = METHODS if "all" in methods else methods
    maps = {method: _map(method, subject) for method in methods}
    figure = panel(images, maps, titles, boxes)
    figure.suptitle(f"{network.name}, layer {place.name}", fontsize=10)
    return figure, subject, maps


def _print_metrics(subject: Subject, maps: Mapping[str, Tensor], boxes: Tensor) -> None:
    """A table of methods and metrics, means over the pictures."""
    of_model = (
        metrics.average_drop,
        metrics.increase_in_confidence,
        metrics.deletion_auc,
        metrics.insertion_auc,
    )
    of_boxes = (metrics.pixel_energy, metrics.bbox_score, metrics.pointing_game)
    size = tuple(subject.inputs.shape[2:])
    columns = [metric.__name__ for metric in (*of_model, *of_boxes)]
    width = max(map(len, maps))
    print("\nmeans over the pictures (lower is better for average_drop, deletion_auc):")
    print(" " * width, *columns)
    for method, values in maps.items():
        row = [
            metric(subject.forward, subject.inputs, values, target=subject.targets)
            for metric in of_model
        ]
        row += [metric(values, list(boxes[:, None]), size=size) for metric in of_boxes]
        cells = [
            f"{value.nanmean():{len(name)}.3f}"
            for name, value in zip(columns, row, strict=True)
        ]
        print(f"{method:{width}}", *cells)


def _map(method: str, subject: Subject) -> Tensor:
    try:
        return subject.explain(method)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(f"{method} fails: {_brief(error)}") from error


def _closest(name: str, known: Iterable[str]) -> str:
    names = get_close_matches(name, known, n=4, cutoff=0)
    return f"the closest names are {', '.join(names)}"


def _brief(error: Exception) -> str:
    """The error in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)
