"""
The command line: `captum-cams`, or `python -m captum_cams`.

What a user can put right ends in one sentence on stderr and exit code 2.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import Module

from captum_cams import metrics
from captum_cams._cli_parser import make_parser
from captum_cams.attr.registry import METHODS
from captum_cams.evaluation import evaluate, fine_tune
from captum_cams.evaluation.class_names import name_outputs
from captum_cams.evaluation.errors import UserError, brief_error
from captum_cams.evaluation.layers import LayerInfo, find_layers
from captum_cams.evaluation.methods import (
    ExplainTask,
    MethodSpec,
    missing_module,
    parse_method,
)
from captum_cams.evaluation.networks import (
    Network,
    choose_output,
    load_network,
    load_transform,
    transform_name,
)
from captum_cams.evaluation.pictures import printable, read_picture
from captum_cams.examples import shape_pictures
from captum_cams.reshape import Transform
from captum_cams.visualization import panel

_MOST_SKIPPED = 10  # pictures whose reasons are printed
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
        parser = make_parser(
            demo=_demo, explain=_explain, evaluate=_evaluate, fine_tune=_fine_tune
        )
        options = parser.parse_args(arguments)
        options.run(options)
    except UserError as error:
        print(f"captum-cams: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "; the same command goes on from here"
        ran = options is not None and options.run in (_evaluate, _fine_tune)
        print(f"\ncaptum-cams: stopped{again if ran else ''}", file=sys.stderr)
        return 130
    return 0


class _Pictures(NamedTuple):
    """What is explained in one figure."""

    images: Tensor  # in [0, 1], (N, 3, H, W)
    names: Sequence[str]
    boxes: Tensor | None = None  # (N, 4)


def _demo(options: argparse.Namespace) -> None:
    folder = _made_folder(options.out)
    network = load_network()
    images, _, boxes = shape_pictures(4)
    network = choose_output(network, "probabilities", images[:1])
    layer = _layer(network, images[:1], "block4")
    names = [f"picture {i + 1}" for i in range(len(images))]
    pictures = _Pictures(images, names, boxes)
    specs = _specs(options.methods, network.model)
    figure, task, maps = _figure(network, layer, pictures, specs)
    _save(figure, folder / "captum-cams-demo.png")
    _print_metrics(task, maps, boxes)


def _explain(options: argparse.Namespace) -> None:
    folder = _made_folder(options.out)
    network = load_network(
        options.model,
        options.weights,
        size=options.size,
        mean=options.mean,
        std=options.std,
    )
    if options.model and ":" not in options.model and options.weights is None:
        print(f"{network.name} is untrained: --weights DEFAULT or a file changes that")
    images = torch.stack(
        [read_picture(path, network.size, options.resize) for path in options.images]
    )
    transform = load_transform(options.reshape)
    network = choose_output(network, options.explain or "probabilities", images[:1])
    layer = _layer(network, images[:1], options.layer, transform)
    if options.classes is not None:
        network = name_outputs(network, options.classes, layer.classes)
    if options.target is not None and options.target >= layer.classes:
        raise UserError(
            f"--target must lie in [0, {layer.classes - 1}] for {network.name}, got "
            f"{options.target}"
        )
    specs = _specs(options.methods, network.model)
    names = [printable(Path(path).name) for path in options.images]
    starts = range(0, len(images), _ROWS)
    for number, start in enumerate(starts, start=1):
        rows = slice(start, start + _ROWS)
        pictures = _Pictures(images[rows], names[rows])
        figure, _, _ = _figure(network, layer, pictures, specs, options.target)
        part = f"-{number}" if len(starts) > 1 else ""
        _save(figure, folder / f"captum-cams-explain{part}.png")


def _evaluate(options: argparse.Namespace) -> None:
    arguments = _arguments(options)
    first = int(os.environ.get("RANK", 0)) == 0
    records = evaluate(**arguments, show_progress=first)
    if not first:
        return
    skipped = 0
    for record in records:
        if "skipped" in record:
            skipped += 1
            if skipped <= _MOST_SKIPPED:
                line = f"{record['picture']} was skipped: {record['skipped']}"
                print(printable(line))
    if skipped > _MOST_SKIPPED:
        print(f"and {skipped - _MOST_SKIPPED} more")
    reshaped: Any = records.run["settings"]["reshape"] or {}
    for layer, transform in reshaped.items():
        print(f"layer {layer}: feature maps by {transform}")
    folder = options.out.resolve()
    print(f"tables: {folder / 'summary.md'}\nreport: {folder / 'report.html'}")


def _fine_tune(options: argparse.Namespace) -> None:
    fine_tune(**_arguments(options), show_progress=True)
    folder = options.out.resolve()
    print(f"tables: {folder / 'summary.md'}\nfigure: {folder / 'maps.png'}")


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Those of the function that a command stands for."""
    return {key: value for key, value in vars(options).items() if key != "run"}


def _made_folder(path: Path) -> Path:
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


def _layer(
    network: Network,
    images: Tensor,
    name: str | None,
    transform: Transform | None = None,
) -> LayerInfo:
    """The layer of this name, or the one that suits best, which is printed."""
    names = None if name is None else [name]
    (layer,) = find_layers(network, images, names, transform)
    channels, h, w = layer.shape
    by = f" by {transform_name(layer.transform)}" if layer.transform else ""
    print(f"{network.name}, layer {layer.name}: {channels} channels of {h} x {w}{by}")
    return layer


def _specs(methods: Sequence[str], model: Module | None = None) -> list[MethodSpec]:
    """The methods that were asked for, each once; of all those that fit the model."""
    if "all" in methods:
        fitting = []
        for name, method in METHODS.items():
            lack = None if model is None else missing_module(name, method, model)
            if lack is None:
                fitting.append(name)
            else:
                print(f"{lack}; it is left out")
        methods = [*fitting, *(text for text in methods if text != "all")]
    specs = map(parse_method, methods)
    return list({spec.label: spec for spec in specs}.values())


def _figure(
    network: Network,
    layer: LayerInfo,
    pictures: _Pictures,
    specs: Iterable[MethodSpec],
    target: int | None = None,
) -> tuple[Figure, ExplainTask, dict[str, Tensor]]:
    """Pictures, their classes and their maps; what was explained, and how."""
    images = pictures.images
    inputs = network.normalize(images)
    with torch.no_grad():
        confidences = network.forward(inputs.clone())  # (N, classes)
    top = confidences.argmax(1)  # (N,)
    targets = top if target is None else torch.full_like(top, target)
    known = len(network.classes) == layer.classes
    titles = []
    for name, row, index in zip(
        pictures.names, confidences, targets.tolist(), strict=True
    ):
        label = network.classes[index] if known else f"class {index}"
        titles.append(f"{name}\n{label} {row[index]:.3f}")
        print(f"{name}: {label} {row[index]:.3f}", flush=True)  # maps take a while
    task = ExplainTask(network, inputs, targets)
    maps = {spec.label: _map(spec, task, layer) for spec in specs}
    figure = panel(images, maps, titles, pictures.boxes)
    figure.suptitle(f"{network.name}, layer {layer.name}", fontsize=10)
    return figure, task, maps


def _print_metrics(
    task: ExplainTask, maps: Mapping[str, Tensor], boxes: Tensor
) -> None:
    """A table of methods and metrics, means over the pictures."""
    of_model = (
        metrics.average_drop,
        metrics.increase_in_confidence,
        metrics.deletion_auc,
        metrics.insertion_auc,
    )
    of_boxes = (metrics.pixel_energy, metrics.bbox_score, metrics.pointing_game)
    size = tuple(task.inputs.shape[2:])
    columns = [metric.__name__ for metric in (*of_model, *of_boxes)]
    width = max(map(len, maps))
    print("\nmeans over the pictures (lower is better for average_drop, deletion_auc):")
    print(" " * width, *columns)
    for method, values in maps.items():
        row = [
            metric(task.forward, task.inputs, values, target=task.targets)
            for metric in of_model
        ]
        row += [metric(values, list(boxes[:, None]), size=size) for metric in of_boxes]
        cells = [
            f"{value.nanmean():{len(name)}.3f}"
            for name, value in zip(columns, row, strict=True)
        ]
        print(f"{method:{width}}", *cells)


def _map(spec: MethodSpec, task: ExplainTask, layer: LayerInfo) -> Tensor:
    try:
        return task.explain(spec, [layer])[0]
    except UserError:
        raise
    except Exception as error:  # the method may be the user's own code
        raise UserError(f"{spec.label} fails: {brief_error(error)}") from error
