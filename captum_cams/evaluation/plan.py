"""What a run will do, settled before it starts."""

import hashlib
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import Module, Sequential

from captum_cams import __version__
from captum_cams._validation import UserError, warn
from captum_cams.attr.registry import METHODS
from captum_cams.evaluation import protocols
from captum_cams.evaluation.datasets import DataSet
from captum_cams.evaluation.networks import Network, Place, spelled
from captum_cams.evaluation.places import find_places
from captum_cams.evaluation.protocols import (
    PROTOCOLS,
    RANDOMIZATION,
    Spec,
    parse_method,
)
from captum_cams.evaluation.records import Run
from captum_cams.metrics.sanity import has_own_parameters, is_resettable
from captum_cams.reshape import Transform

_SANITY = dict.fromkeys(("scipy", "skimage"), "captum-cams[sanity]")
_FEWEST_STAGES = 5  # of a network, to lose their weights one after the other
_LIBRARIES = ("captum", "numpy", "pillow", "torch", "torchvision")

Asked = dict[str, dict[str, Sequence[str]]]
"""For each protocol its methods, and for each of these the metrics."""


class Plan(NamedTuple):
    """A run before it starts; but for the device the same in every process."""

    network: Network
    data: DataSet
    targets: Sequence[int | None]
    """The model's output for each class of the data set; None where it has none, and
    empty where the classes are the outputs."""
    places: list[Place]
    specs: list[Spec]
    asked: Asked
    indices: list[int]
    """Of the pictures, ascending."""
    batch_size: int
    sanity: frozenset[int]
    seed: int
    device: torch.device
    run: Run

    @property
    def batches(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def batch(self, number: int) -> list[int]:
        """The indices of a batch, which depend on nothing but its number."""
        start = number * self.batch_size
        return self.indices[start : start + self.batch_size]


def make_plan(
    network: Network,
    data: DataSet,
    layers: Sequence[str] | None,
    given: dict[str, Any],
    device: torch.device,
    reshape: Transform | None = None,
) -> Plan:
    blank = torch.zeros(1, 3, network.size, network.size, device=device)
    if layers is None and given["model"] is None:
        layers = ["block4"]
    names = None if layers is None else list(dict.fromkeys(layers))
    places = find_places(network, blank, names, reshape)
    outputs = places[0].classes
    channels = min(place.shape[0] for place in places)
    asked = _asked(given, channels, network.model)
    specs = {label: parse_method(label) for of in asked.values() for label in of}
    for spec in specs.values():
        limited = METHODS[spec.name].limited_by_channels
        number = spec.arguments.get(limited, 1) if limited else 1
        if isinstance(number, int) and number > channels:
            raise UserError(
                f"{spec.label} needs a layer of as many channels, got {channels}; ask "
                f"for fewer {limited}"
            )
    indices = list(range(len(data.names)))
    if given["limit"] is not None and given["limit"] < len(indices):
        generator = torch.Generator().manual_seed(given["seed"])
        drawn = torch.randperm(len(indices), generator=generator)[: given["limit"]]
        indices = drawn.sort().values.tolist()
    named = len(network.classes) == outputs
    reshaped = {at.name: spelled(at.transform) for at in places if at.transform}
    run = Run(
        settings={
            **given,
            "reshape": reshaped or None,
            "device": device.type,
            "size": network.size,
            "mean": list(network.mean),
            "std": list(network.std),
            "digest of the parameters": _digest(network.model),
            "digest of the labels": _digest_of_file(given["labels"]),
        },
        network=network.name,
        pictures=len(indices),
        methods={name: [*of] for name, of in asked.items()},
        layers=[place.name for place in places],
        classes=list(network.classes) if named else [],
        eps=protocols.EPS,
        thresholds=protocols.THRESHOLDS,
        curve_steps=protocols.CURVE_STEPS,
        randomized=_stages(network.model) if _asks(RANDOMIZATION, asked) else [],
        versions={
            "captum_cams": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _LIBRARIES},
        },
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return Plan(
        network,
        data,
        _targets(data, network, outputs),
        places,
        list(specs.values()),
        asked,
        indices,
        given["batch_size"],
        frozenset(indices[: given["sanity_pictures"]]),
        given["seed"],
        device,
        run,
    )


def _asked(given: Mapping[str, Any], channels: int, model: Module) -> Asked:
    """For each protocol its methods, and the metrics of each."""
    methods, metrics = given["methods"], given["metrics"]
    protocols.check_metrics(metrics or ())
    names = [*PROTOCOLS] if given["protocol"] == "all" else [given["protocol"]]
    asked: Asked = {}
    for name in names:
        usual = PROTOCOLS[name]
        chosen = methods or usual.methods
        if given["dataset"] == "shapes" and methods is None:
            chosen = [protocols.FOR_SHAPES.get(text, text) for text in chosen]
        labels = [parse_method(text).label for text in chosen]
        wanted = [*(metrics or usual.metrics)]
        asked[name] = dict.fromkeys(labels, wanted)
        if methods is None and metrics is None:
            slow = [label for label in labels if label not in protocols.SANITY_OF]
            asked[name] |= dict.fromkeys(slow, _but(RANDOMIZATION, wanted))
        of_ablations = [m for m in wanted if m in protocols.OF_ABLATIONS]
        if name == "group-cam" and methods is None and of_ablations:
            labels = protocols.ablations(channels)
            asked[name] |= dict.fromkeys(labels, of_ablations)
    if not given["sanity_pictures"]:
        asked = _without(RANDOMIZATION, asked)
    by_name = {parse_method(text).name for text in methods or ()} | {*(metrics or ())}
    for name, need in _needs(model):
        if _without(name, asked) == asked:
            continue
        if name in by_name:
            raise UserError(need)
        warn(f"{need}, and without it is left out")
        asked = _without(name, asked)
    return asked


def _needs(model: Module) -> Iterator[tuple[str, str]]:
    """What methods and metrics do without here, as a sentence."""
    needs = {name: method.libraries for name, method in METHODS.items()}
    for name, libraries in (needs | {RANDOMIZATION: _SANITY}).items():
        missing = [library for library in libraries if util.find_spec(library) is None]
        if missing:
            need, extra = " and ".join(missing), libraries[missing[0]]
            yield name, f"{name} needs {need}; pip install '{extra}' brings it"
    for stage in _stages(model):
        for path, part in model.get_submodule(stage).named_modules(prefix=stage):
            if has_own_parameters(part) and not is_resettable(part):
                yield (
                    RANDOMIZATION,
                    f"{RANDOMIZATION} needs modules that draw their parameters anew "
                    f"with reset_parameters(); {type(part).__name__} ({path}) lacks it",
                )
                return


def _without(name: str, asked: Asked) -> Asked:
    """The plan with a method or metric taken out."""
    return {
        protocol: {
            label: _but(name, metrics)
            for label, metrics in of.items()
            if label.partition("(")[0] != name
        }
        for protocol, of in asked.items()
    }


def _but(name: str, metrics: Sequence[str]) -> list[str]:
    return [metric for metric in metrics if metric != name]


def _asks(metric: str, asked: Asked) -> bool:
    return any(metric in names for of in asked.values() for names in of.values())


def _digest(model: Module) -> str:
    """Of all weights: another file of the same name is another run."""
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return total.hexdigest()


def _digest_of_file(path: str | None) -> str | None:
    return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _stages(model: Module) -> list[str]:
    """
    Parts of a network to lose their weights, from the output down.

    The model's own parts; where these are few, those of its sequences too.
    """
    found = dict(model.named_children())
    if len(found) < _FEWEST_STAGES:
        found = {
            f"{name}.{inner}" if inner else name: part
            for name, child in found.items()
            for inner, part in (
                child.named_children()
                if isinstance(child, Sequential)
                else [("", child)]
            )
        }
    return [
        name
        for name, part in reversed(found.items())
        if any(True for _ in part.parameters())
    ]


def _targets(data: DataSet, network: Network, outputs: int) -> list[int | None]:
    """By place where there are as many classes as outputs, else by name."""
    if not data.classes:
        return []
    if len(data.classes) == outputs:
        return list(range(outputs))

    def key(name: str) -> str:
        return name.lower().replace("_", " ").replace("-", " ")

    # Names that differ in case alone are two classes: exact ones come first.
    exact = {name: place for place, name in enumerate(network.classes)}
    alike = {key(name): place for place, name in enumerate(network.classes)}
    found = [exact.get(name, alike.get(key(name))) for name in data.classes]
    if all(place is None for place in found):
        raise UserError(
            f"{network.name} has {outputs} outputs, the data set {len(data.classes)} "
            f"classes such as {data.classes[0]!r}, and no name in common; give a model "
            "with one output for each class, in the same order"
        )
    return found
