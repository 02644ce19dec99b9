"""
The command line: `captum-cams`, or `python -m captum_cams`.

What a user can put right ends in one sentence on stderr and exit code 2.
"""

import argparse
import contextlib
import gc
import io
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import Module

from captum_cams import metrics
from captum_cams._cli_parser import make_parser
from captum_cams._lettering import legible, text_style
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
from captum_cams.evaluation.pictures import open_picture, printable, read_picture
from captum_cams.evaluation.processes import keep_freed_memory
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
        *int*, the exit code: 0, 2 after an error that the user can put right, 130
        after Ctrl-C, or 141 where nobody reads the output any more, as of ``| head``.
    """
    _open_streams()
    options = None
    try:
        try:
            parser = make_parser(
                demo=_demo, explain=_explain, evaluate=_evaluate, fine_tune=_fine_tune
            )
            options = parser.parse_args(arguments)
            options.run(options)
        finally:
            sys.stdout.flush()  # while it can be told that this fails
        return 0
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        _tell(f"stopped{_again(options)}", start="\n")
        return 130
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        # What an error of the command's own says is complete.
        again = "" if isinstance(error, UserError) else _again(options)
        _tell(f"{message}{again}")
        return 2
    finally:
        _drop_broken(sys.stdout)
        _drop_broken(sys.stderr)


def _open_streams() -> None:
    """Streams that take any text, also where a shell has closed them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr escapes what it cannot write
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_broken(stream: TextIO) -> None:
    """Lets go of what a stream cannot write, or the interpreter fails as it ends."""
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def _message(error: Exception) -> str | None:
    """What a user can put right, in one sentence; None for a fault of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        file = "" if error.filename is None else f" {error.filename}"
        return f"cannot read or write{file}: {error.strerror or error}"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    ):
        return "not enough memory; a smaller --size or --batch-size takes less"
    return None


def _again(options: argparse.Namespace | None) -> str:
    """What a user can do about a run that was stopped."""
    ran = options is not None and options.run in (_evaluate, _fine_tune)
    return "; the same command goes on from here" if ran else ""


def _tell(message: str, start: str = "") -> None:
    with contextlib.suppress(OSError):  # nobody may listen
        print(f"{start}captum-cams: {printable(message)}", file=sys.stderr, flush=True)


def _say(message: str) -> None:
    print(printable(message), flush=True)  # what comes next may take a while


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
    files: dict[str, str] = {}
    for path in options.images:
        # Given twice, as by *.png and its own name, a file would tell nothing new.
        files.setdefault(os.path.realpath(path), path)
    paths = [*files.values()]
    _check_headers(paths)
    folder = _made_folder(options.out)
    network = load_network(
        options.model,
        options.weights,
        size=options.size,
        mean=options.mean,
        std=options.std,
    )
    if options.model and ":" not in options.model and options.weights is None:
        _say(f"{network.name} is untrained: --weights DEFAULT or a file changes that")
    blank = torch.zeros(1, 3, network.size, network.size)
    transform = load_transform(options.reshape)
    network = choose_output(network, options.explain or "probabilities", blank)
    layer = _layer(network, blank, options.layer, transform)
    if options.classes is not None:
        network = name_outputs(network, options.classes, layer.classes)
    if options.target is not None and options.target >= layer.classes:
        raise UserError(
            f"--target must lie in [0, {layer.classes - 1}] for {network.name}, got "
            f"{options.target}"
        )
    specs = _specs(options.methods, network.model)
    names = _names_apart(paths)
    starts = range(0, len(paths), _ROWS)
    unread: list[str] = []
    for number, start in enumerate(starts, start=1):
        rows = slice(start, start + _ROWS)
        images, shown = [], []
        for path, name in zip(paths[rows], names[rows], strict=True):
            try:
                images.append(read_picture(path, network.size, options.resize))
                shown.append(name)
            except UserError as error:
                unread.append(str(error))
        if images:
            pictures = _Pictures(torch.stack(images), shown)
            figure, _, _ = _figure(network, layer, pictures, specs, options.target)
            part = f"-{number}" if len(starts) > 1 else ""
            _save(figure, folder / f"captum-cams-explain{part}.png")
            del figure
            gc.collect()  # figures refer to themselves, and would pile up
    if unread:
        more = len(unread) - _MOST_SKIPPED
        listed = [*unread[:_MOST_SKIPPED], *([f"and {more} more"] if more > 0 else [])]
        raise UserError("; ".join(listed))


def _check_headers(paths: Iterable[str]) -> None:
    """Finds a wrong name before the work begins; the pictures are read when needed."""
    for path in paths:
        try:
            with Image.open(path):
                pass
        except Exception:
            open_picture(path)  # which says why not


def _names_apart(paths: Sequence[str]) -> list[str]:
    """Names of files, with as many folders as it takes to tell them apart."""
    parts = [Path(printable(path)).parts for path in paths]
    depths, names = [1] * len(paths), []
    for deeper in range(2, max(map(len, parts)) + 2):
        names = [str(Path(*of[-n:])) for of, n in zip(parts, depths, strict=True)]
        numbers = Counter(names)
        depths = [
            deeper if numbers[name] > 1 else depth
            for name, depth in zip(names, depths, strict=True)
        ]
    return names


def _evaluate(options: argparse.Namespace) -> None:
    arguments = _arguments(options)
    first = int(os.environ.get("RANK", 0)) == 0
    if options.model is None and options.preset is None:  # a small network
        keep_freed_memory()
    records = evaluate(**arguments, show_progress=first)
    if not first:
        return
    skipped = 0
    for record in records:
        if "skipped" in record:
            skipped += 1
            if skipped <= _MOST_SKIPPED:
                _say(f"{record['picture']} was skipped: {record['skipped']}")
    if skipped > _MOST_SKIPPED:
        _say(f"and {skipped - _MOST_SKIPPED} more")
    for note in records.run["notes"]:
        _say(note)
    reshaped: Any = records.run["settings"]["reshape"] or {}
    for layer, transform in reshaped.items():
        _say(f"layer {layer}: feature maps by {transform}")
    folder = options.out.resolve()
    _say(f"tables: {folder / 'summary.md'}")
    _say(f"report: {folder / 'report.html'}")


def _fine_tune(options: argparse.Namespace) -> None:
    fine_tune(**_arguments(options), show_progress=True)
    folder = options.out.resolve()
    _say(f"tables: {folder / 'summary.md'}")
    _say(f"figure: {folder / 'maps.png'}")


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
    _say(f"figure: {path.resolve()}")


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
    _say(f"{network.name}, layer {layer.name}: {channels} channels of {h} x {w}{by}")
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
                _say(f"{lack}; it is left out")
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
    for name, row in zip(pictures.names, confidences, strict=True):
        if not row.isfinite().all():
            raise UserError(f"{network.name} gives NaN or infinity for {name}")
    top = confidences.argmax(1)  # (N,)
    targets = top if target is None else torch.full_like(top, target)
    known = len(network.classes) == layer.classes
    titles = []
    for name, row, index in zip(
        pictures.names, confidences, targets.tolist(), strict=True
    ):
        label = network.classes[index] if known else f"class {index}"
        titles.append(f"{name}\n{label} {row[index]:.3f}")
        _say(f"{name}: {label} {row[index]:.3f}")
    task = ExplainTask(network, inputs, targets)
    maps = {spec.label: _map(spec, task, layer) for spec in specs}
    figure = panel(images, maps, titles, pictures.boxes)
    title = legible(f"{network.name}, layer {layer.name}")
    figure.suptitle(title, fontsize=10, **text_style(title))
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
