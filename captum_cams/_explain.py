"""The commands `demo` and `explain`: maps of a few pictures, in files."""

import argparse
import contextlib
import gc
import glob
import io
import json
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import Module
from tqdm import tqdm

from captum_cams import metrics
from captum_cams._lettering import legible, text_style
from captum_cams._printable import printable
from captum_cams.attr.registry import METHODS
from captum_cams.evaluation.class_names import name_outputs
from captum_cams.evaluation.errors import (
    UserError,
    brief_error,
    closest_names,
    is_out_of_memory,
)
from captum_cams.evaluation.folders import is_picture, pictures_below
from captum_cams.evaluation.layers import LayerInfo, find_layers
from captum_cams.evaluation.methods import (
    ExplainTask,
    MethodSpec,
    missing_library,
    missing_module,
    parse_method,
)
from captum_cams.evaluation.networks import (
    Network,
    choose_output,
    failure,
    load_network,
    load_transform,
    transform_name,
)
from captum_cams.evaluation.pictures import open_picture, read_picture
from captum_cams.evaluation.processes import usable_device
from captum_cams.evaluation.settings import made_folder
from captum_cams.evaluation.user_code import split_names
from captum_cams.examples import shape_pictures
from captum_cams.metrics._metric import resized
from captum_cams.visualization import blend, panel

_MOST_SKIPPED = 10  # pictures whose reasons are printed
_TOGETHER = 8  # pictures that are explained in one batch
_NAMED = 5  # most probable classes that --save json holds
_STDIN = "-"
_STDIN_NAME = "stdin"
_MOST_MAPS = 1000  # of a figure


class _Target(NamedTuple):
    """A class that pictures are explained for."""

    name: str
    """In the names of maps."""
    output: int | None
    """Its index; None where each picture has its own, by `rank`."""
    rank: int = 0
    """Among the classes from the most probable one down."""

    def indices(self, confidences: Tensor) -> Tensor:
        """The class of each picture, (N,), of its confidences, (N, classes)."""
        if self.output is not None:
            return torch.full_like(confidences[:, 0], self.output, dtype=torch.long)
        # Stable, so that classes of equal outputs have a rank each.
        order = confidences.sort(dim=1, descending=True, stable=True).indices
        return order[:, self.rank]  # (N,)


class _Column(NamedTuple):
    """One of the maps that are made of each picture."""

    method: str
    layer: str | None
    target: int
    """Which of the targets."""
    parts: list[str]
    """What tells it from the other maps."""

    @property
    def name(self) -> str:
        return ", ".join(self.parts)


class _Setup(NamedTuple):
    """What pictures are explained with."""

    network: Network
    layers: list[LayerInfo]
    specs: list[MethodSpec]
    targets: list[_Target]
    device: torch.device = torch.device("cpu")

    @property
    def columns(self) -> list[_Column]:
        """All maps of a picture, in the order in which they are made."""
        found = []
        for number, target in enumerate(self.targets):
            for spec in self.specs:
                for layer in self.layers if spec.method.has_layer else [None]:
                    parts = [spec.label]
                    if layer is not None and len(self.layers) > 1:
                        parts.append(layer.name)
                    if len(self.targets) > 1:
                        parts.append(target.name)
                    name = None if layer is None else layer.name
                    found.append(_Column(spec.label, name, number, parts))
        return found

    def class_name(self, index: int) -> str:
        known = len(self.network.classes) == self.layers[0].classes
        return self.network.classes[index] if known else f"class {index}"


class _Source(NamedTuple):
    """A picture of the user's own."""

    path: str
    name: str
    """What it is called where it is shown."""
    stem: str
    """How its files begin."""


class _Explained(NamedTuple):
    """Pictures with their confidences and, by their columns' names, their maps."""

    images: Tensor  # in [0, 1], (N, 3, H, W)
    names: Sequence[str]
    confidences: Tensor  # (N, classes)
    targets: list[Tensor]  # (N,) for each target
    maps: dict[str, Tensor]  # (N, 1, h, w)

    def titles(self, setup: _Setup) -> list[str]:
        """Of each picture its name, and its explained classes with their outputs."""
        titles = []
        for i, name in enumerate(self.names):
            lines = [name]
            for target, indices in zip(setup.targets, self.targets, strict=True):
                index = int(indices[i])
                of = f"{target.name}: " if target.output is None and target.name else ""
                value = self.confidences[i, index]
                lines.append(f"{of}{setup.class_name(index)} {value:.3f}")
            titles.append("\n".join(dict.fromkeys(lines)))
        return titles


def demo(options: argparse.Namespace) -> None:
    """Explains example pictures, and prints the metrics of their maps."""
    folder = made_folder(options.out)
    network = load_network()
    images, _, boxes = shape_pictures(4)
    network = choose_output(network, "probabilities", images[:1])
    layers = _find_layers(network, images[:1], ["block4"])
    specs = find_specs(options.methods, network.model)
    setup = _Setup(network, layers, specs, _find_targets("top1", network, 1))
    names = [f"picture {i + 1}" for i in range(len(images))]
    explained = _explain(setup, images, names)
    for title in explained.titles(setup):
        print(printable(": ".join(title.split("\n"))))
    path = folder / "captum-cams-demo.png"
    _write(path, _png(_draw(setup, explained, boxes)))
    print(f"figure: {printable(str(path.resolve()))}")
    (targets,) = explained.targets
    task = ExplainTask(network, network.normalize(images), targets)
    _print_metrics(task, explained.maps, boxes)


def explain(options: argparse.Namespace) -> None:
    """Explains a user's own pictures, and saves what is asked for of each."""
    if options.model is None:
        raise UserError(
            "explain needs --model, the network to look into, such as --model resnet50 "
            "--weights DEFAULT; `captum-cams demo` explains example pictures without"
        )
    with tempfile.TemporaryDirectory() as temporary:
        paths = _find_pictures([*options.images, *options.more_images], temporary)
        _check_headers(paths)
        setup = _set_up(options)
        files = _Files(made_folder(options.out), options.save, setup)
        names = names_apart(paths, temporary)
        stems = file_stems(names)
        files.check_new(stems, paths, options.overwrite)
        sources = list(map(_Source, paths, names, stems))
        unread = []
        with tqdm(
            total=len(sources),
            unit=" pictures",
            # A bar is for those who watch, and says nothing of a single picture.
            disable=True if options.quiet or len(sources) == 1 else None,
        ) as bar:
            for start in range(0, len(sources), _TOGETHER):
                batch = sources[start : start + _TOGETHER]
                images, errors = _read(batch, setup.network.size, options.resize)
                unread += errors
                if images:
                    names = [source.name for source in images]
                    explained = _explain(setup, torch.stack([*images.values()]), names)
                    for i, source in enumerate(images):
                        for line in files.save(explained, i, source):
                            bar.write(printable(line))
                bar.update(len(batch))
    if unread:
        more = len(unread) - _MOST_SKIPPED
        listed = [*unread[:_MOST_SKIPPED], *([f"and {more} more"] if more > 0 else [])]
        raise UserError("; ".join(listed))


def _read(
    sources: Iterable[_Source], size: int, resize: str
) -> tuple[dict[_Source, Tensor], list[str]]:
    """The pictures that can be read, (3, size, size) each, and why others cannot."""
    images, errors = {}, []
    for source in sources:
        try:
            images[source] = read_picture(source.path, size, resize)
        except UserError as error:
            errors.append(str(error))
    return images, errors


def _set_up(options: argparse.Namespace) -> _Setup:
    device = usable_device(options.device)
    network = load_network(
        options.model,
        options.weights,
        num_classes=options.num_classes,
        size=options.size,
        mean=options.mean,
        std=options.std,
    )
    network.model.to(device)
    if ":" not in options.model and options.weights is None:
        print(f"{network.name} is untrained: --weights DEFAULT or a file changes that")
    blank = torch.zeros(1, 3, network.size, network.size, device=device)
    transform = load_transform(options.reshape)
    network = choose_output(network, options.explain or "probabilities", blank)
    layers = _find_layers(network, blank, options.layers, transform)
    outputs = layers[0].classes
    if options.classes is not None:
        network = name_outputs(network, options.classes, outputs)
    targets = _find_targets(options.target, network, outputs)
    specs = find_specs(options.methods, network.model)
    setup = _Setup(network, layers, specs, targets, device)
    if "figure" in options.save and len(setup.columns) > _MOST_MAPS:
        raise UserError(
            f"a figure must have at most {_MOST_MAPS} maps, got {len(setup.columns)}; "
            "--save overlay takes any number"
        )
    return setup


def _find_pictures(words: Sequence[str], temporary: str) -> list[str]:
    """
    Files that words stand for, each once.

    A folder stands for the pictures in it and in its folders, a pattern in quotes for
    those that it matches, and ``-`` for a picture on the standard input.
    """
    found: list[str] = []
    for word in words:
        if word == _STDIN:
            path = os.path.join(temporary, _STDIN_NAME)
            if sys.stdin is None:
                raise UserError("cannot read -: the standard input is closed")
            if not os.path.exists(path):  # it may be given twice
                Path(path).write_bytes(sys.stdin.buffer.read())
            found.append(path)
        elif os.path.isdir(word):
            inside = sorted(pictures_below(Path(word), Counter(), []))
            if not inside:
                raise UserError(f"the folder {word} holds no pictures")
            found += map(str, inside)
        elif not os.path.lexists(word) and glob.has_magic(word):
            matched = sorted(glob.glob(word, recursive=True))
            matched = [path for path in matched if is_picture(Path(path))]
            if not matched:
                raise UserError(
                    f"cannot read {word}: no such file, and no picture matches it"
                )
            found += matched
        else:
            found.append(word)
    if not found:
        raise UserError(
            "explain needs pictures: files, folders, patterns in quotes, or - for one "
            "on the standard input"
        )
    files: dict[str, str] = {}
    for path in found:
        # Given twice, as by *.png and its own name, a file would tell nothing new.
        files.setdefault(os.path.realpath(path), path)
    return [*files.values()]


def _check_headers(paths: Iterable[str]) -> None:
    """Finds a wrong name before the work begins; the pictures are read when needed."""
    for path in paths:
        try:
            with Image.open(path):
                pass
        except Exception:
            open_picture(path)  # which says why not


def names_apart(paths: Sequence[str], temporary: str = "") -> list[str]:
    """Names of files, with as many folders as it takes to tell them apart."""
    shown = [
        path if not temporary else path.removeprefix(f"{temporary}{os.sep}")
        for path in paths
    ]
    parts = [Path(printable(path)).parts for path in shown]
    depths, names = [1] * len(paths), []
    for deeper in range(2, max(map(len, parts)) + 2):
        names = [str(Path(*of[-n:])) for of, n in zip(parts, depths, strict=True)]
        numbers = Counter(names)
        depths = [
            deeper if numbers[name] > 1 else depth
            for name, depth in zip(names, depths, strict=True)
        ]
    return names


def file_stems(names: Sequence[str], suffixes: bool = True) -> list[str]:
    """
    Parts of files' names, another for each name, without suffixes where they differ.

    Args:
        names (sequence of str): Of pictures, or, without `suffixes`, of maps.
        suffixes (bool): Whether what follows the last dot is one. Default: True
    """
    whole = [_safe("-".join(Path(name).parts)) for name in names]
    bare = [_safe(os.path.splitext(name)[0]) if suffixes else name for name in whole]
    counts = Counter(map(str.casefold, bare))  # as many file systems compare them
    taken: set[str] = set()
    stems = []
    for long, short in zip(whole, bare, strict=True):
        stem = wanted = _ending(long if counts[short.casefold()] > 1 else short)
        number = 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{wanted}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def _safe(text: str) -> str:
    """Letters that names of files may hold everywhere, and no shell reads."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.") or "picture"


def _ending(text: str, most: int = 80) -> str:
    """The last letters of a name, no more than so many bytes."""
    return text.encode()[-most:].decode(errors="ignore").lstrip("-.")


def _find_layers(
    network: Network,
    images: Tensor,
    names: Sequence[str] | None,
    transform: Any = None,
) -> list[LayerInfo]:
    """The layers of these names, or the one that suits best, which are printed."""
    unique = None if names is None else list(dict.fromkeys(names))
    layers = find_layers(network, images, unique, transform)
    for layer in layers:
        channels, h, w = layer.shape
        by = f" by {transform_name(layer.transform)}" if layer.transform else ""
        text = f"{network.name}, layer {layer.name}: {channels} channels of {h} x {w}"
        print(printable(f"{text}{by}"), flush=True)  # what comes next takes a while
    return layers


def find_specs(methods: Sequence[str], model: Module) -> list[MethodSpec]:
    """
    The methods that were asked for, each once; of all those that can run here.

    Raises:
        UserError: If one that was named cannot.
    """
    texts: list[str] = [text for text in methods if text != "all"]
    specs = {spec.label: spec for spec in map(parse_method, texts)}
    for spec in specs.values():
        if lack := _lack(spec, model):
            raise UserError(lack)
    if "all" in methods:
        fitting = {}
        for spec in map(parse_method, METHODS):
            if lack := _lack(spec, model):
                print(f"{lack}; it is left out")
            else:
                fitting[spec.label] = spec
        specs = fitting | specs
    return [*specs.values()]


def _lack(spec: MethodSpec, model: Module) -> str | None:
    """Why a method cannot run, as a sentence."""
    name, method = spec.name, spec.method
    return missing_library(name, method.optional_dependencies) or missing_module(
        name, method, model
    )


def _find_targets(text: str, network: Network, outputs: int) -> list[_Target]:
    """
    The classes that ``--target`` names, each once.

    Raises:
        UserError: If the network has no such class.
    """
    known = len(network.classes) == outputs
    folded: dict[str, list[int]] = {}
    for index, name in enumerate(network.classes if known else ()):
        folded.setdefault(name.casefold(), []).append(index)
    for index, wnid in enumerate(network.wnids if known else ()):
        folded.setdefault(wnid, [index])
    # A name may hold a comma itself.
    try:
        words = [text] if text.casefold() in folded else split_names(text)
    except UserError as error:
        raise UserError(f"--target {error}") from error
    found: list[_Target] = []
    for word in words:
        if top := re.fullmatch(r"top(\d+)", word):
            most = int(top[1])
            if not 1 <= most <= outputs:
                raise UserError(
                    f"--target {word} must ask for 1 to {outputs} classes of "
                    f"{network.name}"
                )
            for rank in range(most):
                found.append(_Target(f"top {rank + 1}" if most > 1 else "", None, rank))
            continue
        indices = folded.get(word.casefold(), [])
        if re.fullmatch(r"\d{1,9}", word):
            indices = [int(word)]
        if len(indices) > 1:
            raise UserError(
                f"{network.name} has several classes {word!r}, "
                f"{' and '.join(map(str, indices))}; give the index of one"
            )
        if not indices:
            remedy = (
                closest_names(word, network.classes)
                if known
                else "its classes have no names; give an index, or --classes FILE"
            )
            raise UserError(f"{network.name} has no class {word!r}; {remedy}")
        (index,) = indices
        if index >= outputs:
            raise UserError(
                f"--target must lie in [0, {outputs - 1}] for {network.name}, got "
                f"{index}"
            )
        name = network.classes[index] if known else f"class {index}"
        found.append(_Target(name, index))
    if len(found) > 1:
        found = [t if t.name else t._replace(name="top 1") for t in found]
    found = list(dict.fromkeys(found))
    counts = Counter(target.name for target in found)  # classes may share a name
    return [
        one._replace(name=f"{one.name} {one.output}") if counts[one.name] > 1 else one
        for one in found
    ]


def _explain(setup: _Setup, images: Tensor, names: Sequence[str]) -> _Explained:
    """Maps of pictures for each target, method and layer."""
    network = setup.network
    inputs = network.normalize(images.to(setup.device))
    try:
        with torch.no_grad():
            confidences = network.forward(inputs.clone())  # (N, classes)
    except Exception as error:  # the model may be the user's own code
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise failure(network, error) from error
    for name, row in zip(names, confidences, strict=True):
        if not row.isfinite().all():
            raise UserError(f"{network.name} gives NaN or infinity for {name}")
    targets = [target.indices(confidences) for target in setup.targets]
    maps: list[Tensor] = []
    for indices in targets:
        task = ExplainTask(network, inputs, indices)
        for spec in setup.specs:
            # In single precision at least, for arrays and figures.
            maps += (one.cpu().float() for one in _maps(spec, task, setup.layers))
    columns = [column.name for column in setup.columns]
    return _Explained(
        images,
        names,
        confidences.cpu(),
        [indices.cpu() for indices in targets],
        dict(zip(columns, maps, strict=True)),
    )


def _maps(
    spec: MethodSpec, task: ExplainTask, layers: Sequence[LayerInfo]
) -> list[Tensor]:
    try:
        return task.explain(spec, layers)
    except Exception as error:  # the method may be the user's own code
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise UserError(f"{spec.label} fails: {brief_error(error)}") from error


def _draw(setup: _Setup, explained: _Explained, boxes: Tensor | None = None) -> Figure:
    columns = ["\n".join(column.parts) for column in setup.columns]
    maps = dict(zip(columns, explained.maps.values(), strict=True))
    figure = panel(explained.images, maps, explained.titles(setup), boxes)
    names = ", ".join(layer.name for layer in setup.layers)
    word = "layer" if len(setup.layers) == 1 else "layers"
    title = legible(f"{setup.network.name}, {word} {names}")
    figure.suptitle(title, fontsize=10, **text_style(title))
    return figure


class _Files(NamedTuple):
    """What is saved of each picture."""

    folder: Path
    kinds: Sequence[str]
    """Of :data:`captum_cams._cli_parser.SAVE`."""
    setup: _Setup

    def paths(self, stem: str) -> dict[str, list[Path]]:
        """The files of a picture, by their kind."""
        columns = file_stems([one.name for one in self.setup.columns], suffixes=False)
        names = {
            "figure": [f"{stem}-figure.png"],
            "overlay": [f"{stem}-overlay-{column}.png" for column in columns],
            "map": [f"{stem}-map-{column}.png" for column in columns],
            "array": [f"{stem}-maps.npz"],
            "json": [f"{stem}.json"],
        }
        return {kind: [self.folder / one for one in names[kind]] for kind in self.kinds}

    def check_new(
        self, stems: Sequence[str], pictures: Sequence[str], overwrite: bool
    ) -> None:
        """Finds files that would be written over before the work begins."""
        files = [
            path
            for stem in stems
            for paths in self.paths(stem).values()
            for path in paths
        ]
        explained = {*map(os.path.realpath, pictures)}
        for path in files:
            if os.path.realpath(path) in explained:
                raise UserError(
                    f"{path} is one of the pictures to explain, and would be replaced; "
                    "--out DIR takes another folder"
                )
        there = [path for path in files if os.path.lexists(path)]
        if there and not overwrite:
            more = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
            raise UserError(
                f"{there[0]}{more} there already; --overwrite replaces such files, and "
                "--out DIR takes another folder"
            )

    def save(self, explained: _Explained, i: int, source: _Source) -> Iterator[str]:
        """Writes the files of picture `i`, and gives lines that say where they are."""
        one = slice(i, i + 1)
        explained = explained._replace(
            images=explained.images[one],
            names=explained.names[one],
            confidences=explained.confidences[one],
            targets=[indices[one] for indices in explained.targets],
            maps={name: cam[one] for name, cam in explained.maps.items()},
        )
        (title,) = explained.titles(self.setup)
        name, *classes = title.split("\n")
        yield f"{name}: {', '.join(classes)}"
        for kind, files in self.paths(source.stem).items():
            contents = self._contents(kind, explained, source)
            for file, content in zip(files, contents, strict=True):
                _write(file, content)
                yield f"{kind}: {file.resolve()}"

    def _contents(
        self, kind: str, explained: _Explained, source: _Source
    ) -> Iterator[bytes]:
        """The files of one kind, of one picture."""
        images, maps = explained.images, explained.maps
        if kind == "figure":
            yield _png(_draw(self.setup, explained))
        elif kind == "overlay":
            yield from (_pixels(blend(images, cam)[0]) for cam in maps.values())
        elif kind == "map":
            size = images.shape[2:]
            yield from (_pixels(_gray(cam, size)[0]) for cam in maps.values())
        elif kind == "array":
            buffer = io.BytesIO()
            arrays: dict[str, Any] = {
                key: cam[0, 0].numpy() for key, cam in maps.items()
            }
            np.savez(buffer, **arrays)
            yield buffer.getvalue()
        else:
            path = source.name if source.name == _STDIN_NAME else source.path
            facts = _facts(self.setup, explained, path)
            yield f"{json.dumps(facts, indent=2)}\n".encode()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    del figure
    gc.collect()  # figures refer to themselves, and would pile up
    return buffer.getvalue()


def _pixels(values: Tensor) -> bytes:
    """A PNG file of values in [0, 1], (C, H, W)."""
    array = (values * 255).round().byte().movedim(0, -1)  # (H, W, C)
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze(-1).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.part")  # half of a file helps nobody
    try:
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _gray(cam: Tensor, size: Sequence[int]) -> Tensor:
    """
    A map at the picture's size, (N, 1, H, W), from black to white.

    Black is 0, or, where a map has values below 0, its largest magnitude below it, so
    that 0 is in the middle.
    """
    cam = resized(cam, size)
    peak = cam.abs().amax((1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    share = (cam / peak).nan_to_num(0, 0, 0)  # (N, 1, H, W)
    return share.add(1).div(2) if (share < 0).any() else share  # (N, 1, H, W)


def _facts(setup: _Setup, explained: _Explained, path: str) -> dict[str, Any]:
    """What ``--save json`` holds of a picture."""
    (row,) = explained.confidences
    top = row.topk(min(_NAMED, len(row)))
    maps = [
        {
            "name": column.name,
            "method": column.method,
            "layer": column.layer,
            "target": _class(setup, row, int(explained.targets[column.target])),
            "shape": list(cam.shape[2:]),
            "minimum": _number(cam.min()),
            "maximum": _number(cam.max()),
        }
        for column, cam in zip(setup.columns, explained.maps.values(), strict=True)
    ]
    return {
        "picture": printable(path),
        "model": setup.network.name,
        "size": setup.network.size,
        "classes": [_class(setup, row, index) for index in top.indices.tolist()],
        "maps": maps,
    }


def _class(setup: _Setup, row: Tensor, index: int) -> dict[str, Any]:
    name = setup.class_name(index)
    return {"index": index, "name": name, "output": _number(row[index])}


def _number(value: Tensor) -> float | None:
    return value.item() if math.isfinite(value) else None


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
