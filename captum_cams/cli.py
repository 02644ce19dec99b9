"""
The command line: `captum-cams`, or `python -m captum_cams`.

What a user can put right ends in one sentence on stderr and exit code 2.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_cams import __version__, metrics
from captum_cams._validation import (
    UserError,
)
from captum_cams.attr.registry import METHODS
from captum_cams.evaluation import evaluate
from captum_cams.evaluation.datasets import DATASETS
from captum_cams.evaluation.networks import (
    Network,
    Place,
    Subject,
    brief,
    load_network,
    load_transform,
    spelled,
)
from captum_cams.evaluation.pictures import printable, read_picture
from captum_cams.evaluation.places import find_places
from captum_cams.evaluation.protocols import ALL_METRICS, PROTOCOLS
from captum_cams.examples import shape_pictures
from captum_cams.reshape import Transform
from captum_cams.visualization import panel

_USUAL = ["grad-cam", "rsi-grad-cam", "integrated-grad-cam", "group-cam"]
_SHOWN = 10  # reasons of skipped pictures
_ROWS = 8  # pictures of a figure, which are also explained together


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    Args:
        arguments (sequence of str, optional): Its arguments. Default: None, for those
            of the process

    Returns:
        *int*, the exit code: 0, 2 after an error that the user can put right, or 130
        after Ctrl-C.
    """
    options = None
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except UserError as error:
        print(f"captum-cams: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "; the same command goes on from here"
        ran = options is not None and options.run is _evaluate
        print(f"\ncaptum-cams: stopped{again if ran else ''}", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="captum-cams",
        description="Class activation maps of pictures, as figures and tables.",
    )
    parser.add_argument(
        "--version", action="version", version=f"captum-cams {__version__}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_explain(commands)
    _add_evaluate(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="explain example pictures; nothing is downloaded",
        description="Explain a few example pictures, methods side by side.",
    )
    _add_methods(demo)
    _add_out(demo, "the figure")
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
    _add_network(explain)
    add(
        "--layer",
        metavar="PATH",
        help="dotted name of the layer, such as layer4 or features.12 (default: the "
        "last layer that gives feature maps of the picture on which the scores depend)",
    )
    _add_reshape(explain)
    _add_methods(explain)
    add(
        "--target",
        metavar="INDEX|top1",
        type=_target,
        help="index of the class (default: top1, each picture's most probable one)",
    )
    _add_out(explain, "the figure")
    explain.set_defaults(run=_explain)


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="the papers' tables and figures over a data set",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Explain and measure a data set as the papers do, and write their tables "
            "and figures.\n\nThe same command goes on with a run that was stopped. On "
            "several devices:\n  torchrun --nproc-per-node P -m captum_cams evaluate "
            "...\nOn the CPU each process computes on one thread, so that gives it all "
            "cores, too."
        ),
        epilog=(
            "examples:\n"
            "  captum-cams evaluate --out shapes\n"
            "  captum-cams evaluate --dataset voc --root DIR --model my.nets:voc "
            "--protocol igc\n"
            "  captum-cams evaluate --dataset imagenet --root ILSVRC --model resnet50 "
            "--weights DEFAULT --limit 1000\n"
        ),
    )
    add = command.add_argument
    add(
        "--dataset",
        choices=DATASETS,
        default="shapes",
        help="shapes are the package's own (default), imagenet is the validation set "
        "in its official layout, folder one of pictures for each class",
    )
    add("--root", metavar="DIR", help="folder of the data set")
    add(
        "--split",
        metavar="NAME",
        help="of voc, such as 2012-val, or coco, such as val2017 (default: the first "
        "of the usual ones that is there)",
    )
    add(
        "--labels",
        metavar="FILE",
        help="for imagenet without its list of classes: a CSV file with the columns "
        "picture and class, its place in the network's output",
    )
    _add_network(command)
    add(
        "--layers",
        metavar="A,B",
        type=_names,
        help="dotted names (default: the last layer that gives feature maps of the "
        "pictures on which the scores depend; block4 of the network of the examples)",
    )
    _add_reshape(command)
    add(
        "--methods",
        metavar="M1,M2",
        type=_names,
        help="for all protocols, with arguments where wanted, such as "
        f'"group-cam(groups=8)": of {", ".join(METHODS)} (default: those of each '
        "protocol)",
    )
    add(
        "--metrics",
        metavar="M1,M2",
        type=_names,
        help=f"for all protocols: of {', '.join(ALL_METRICS)} (default: those of each "
        "protocol)",
    )
    add(
        "--protocol",
        choices=[*PROTOCOLS, "all"],
        default="all",
        help="the paper to follow (default: all)",
    )
    add("--limit", metavar="N", type=_count, help="N pictures, drawn by the seed")
    add("--batch-size", metavar="B", type=_count, default=8, help="default: 8")
    add(
        "--sanity-pictures",
        metavar="N",
        type=partial(_count, least=0),
        default=2,
        help="how many are explained again while layers lose their weights "
        "(default: 2)",
    )
    add("--device", metavar="D", help="default: the process' own GPU, else the CPU")
    add("--seed", metavar="S", type=int, default=0, help="default: 0")
    _add_out(command, "the results", "captum-cams-evaluation")
    command.set_defaults(run=_evaluate)


def _add_network(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
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


def _add_reshape(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reshape",
        metavar="NAME",
        help="what makes feature maps (N, K, h, w) of the layer's output: vit_tokens "
        "or channels_last of captum_cams.reshape, with arguments where wanted, such as "
        '"vit_tokens(prefix_tokens=2)", or module:callable for a function of your own '
        "(default: one of the two where the output needs it)",
    )


def _add_methods(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--methods",
        metavar="METHOD",
        nargs="+",
        choices=[*METHODS, "all"],
        default=_USUAL,
        help=f"all, or some of {', '.join(METHODS)} (default: {', '.join(_USUAL)})",
    )


def _add_out(
    command: argparse.ArgumentParser, what: str, default: str | None = None
) -> None:
    command.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path(default or ""),
        help=f"folder of {what}, made if missing (default: "
        f"{default or 'the current one'})",
    )


def _names(text: str) -> list[str]:
    """Parts between commas, but not those within brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _count(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(
            f"must be an integer of at least {least}, got {text!r}"
        )
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
    network = load_network()
    images, _, boxes = shape_pictures(4)
    place = _place(network, images[:1], "block4")
    names = [f"picture {i + 1}" for i in range(len(images))]
    figure, subject, maps = _figure(
        network, place, images, names, options.methods, boxes=boxes
    )
    _save(figure, folder / "captum-cams-demo.png")
    _print_metrics(subject, maps, boxes)


def _explain(options: argparse.Namespace) -> None:
    folder = _folder(options.out)
    network = load_network(
        options.model,
        options.weights,
        size=options.size,
        mean=options.mean,
        std=options.std,
    )
    if options.model and ":" not in options.model and options.weights is None:
        print(f"{network.name} is untrained: --weights DEFAULT or a file changes that")
    images = torch.stack([read_picture(path, network.size) for path in options.images])
    transform = load_transform(options.reshape)
    place = _place(network, images[:1], options.layer, transform)
    if options.target is not None and options.target >= place.classes:
        raise UserError(
            f"--target must lie in [0, {place.classes - 1}] for {network.name}, got "
            f"{options.target}"
        )
    names = [printable(Path(path).name) for path in options.images]
    starts = range(0, len(images), _ROWS)
    for number, start in enumerate(starts, start=1):
        rows = slice(start, start + _ROWS)
        figure, _, _ = _figure(
            network, place, images[rows], names[rows], options.methods, options.target
        )
        part = f"-{number}" if len(starts) > 1 else ""
        _save(figure, folder / f"captum-cams-explain{part}.png")


def _evaluate(options: argparse.Namespace) -> None:
    arguments = {key: value for key, value in vars(options).items() if key != "run"}
    first = int(os.environ.get("RANK", 0)) == 0
    records = evaluate(**arguments, show_progress=first)
    if not first:
        return
    skipped = 0
    for record in records:
        if "skipped" in record:
            skipped += 1
            if skipped <= _SHOWN:
                line = f"{record['picture']} was skipped: {record['skipped']}"
                print(printable(line))
    if skipped > _SHOWN:
        print(f"and {skipped - _SHOWN} more")
    reshaped: Any = records.run["settings"]["reshape"] or {}
    for layer, transform in reshaped.items():
        print(f"layer {layer}: feature maps by {transform}")
    folder = options.out.resolve()
    print(f"tables: {folder / 'summary.md'}\nreport: {folder / 'report.html'}")


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder --out {path}: {error.strerror}"
        ) from error
    return path


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(f"figure: {path.resolve()}")


def _place(
    network: Network,
    images: Tensor,
    name: str | None,
    transform: Transform | None = None,
) -> Place:
    names = None if name is None else [name]
    (place,) = find_places(network, images, names, transform)
    channels, h, w = place.shape
    by = f" by {spelled(place.transform)}" if place.transform else ""
    print(f"{network.name}, layer {place.name}: {channels} channels of {h} x {w}{by}")
    return place


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
        probabilities = network.forward(inputs.clone())  # (N, classes)
    top = probabilities.argmax(1)  # (N,)
    targets = top if target is None else torch.full_like(top, target)
    known = len(network.classes) == place.classes
    titles = []
    for name, row, index in zip(names, probabilities, targets.tolist(), strict=True):
        label = network.classes[index] if known else f"class {index}"
        titles.append(f"{name}\n{label} {row[index]:.3f}")
        print(f"{name}: {label} {row[index]:.3f}", flush=True)  # maps take a while
    subject = Subject(network.forward, inputs, network.colours(images), targets)
    methods = METHODS if "all" in methods else methods
    maps = {method: _map(method, subject, place) for method in methods}
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


def _map(method: str, subject: Subject, place: Place) -> Tensor:
    try:
        return subject.explain(method, [place])[0]
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{method} fails: {brief(error)}") from error
