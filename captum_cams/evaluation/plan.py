"""What a run will do, settled before it starts."""

import hashlib
import itertools
import math
import platform
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module, Sequential

from captum_cams import __version__
from captum_cams.attr.registry import METHODS
from captum_cams.evaluation.class_matching import Matched, match_classes
from captum_cams.evaluation.class_names import name_outputs
from captum_cams.evaluation.datasets import DataSet
from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.layers import LayerInfo, find_layers
from captum_cams.evaluation.methods import (
    BLUR,
    MethodSpec,
    blur_of,
    check_transforms,
    missing_library,
    missing_module,
    parse_method,
)
from captum_cams.evaluation.metrics import (
    CURVE_STEPS,
    EPS,
    METRICS,
    RANDOMIZATION,
    THRESHOLDS,
    find_metrics,
)
from captum_cams.evaluation.networks import (
    Network,
    choose_output,
    probe_output,
    transform_name,
)
from captum_cams.evaluation.papers import FOR_SHAPES, GROUPS, PAPERS, SANITY_OF, Sweep
from captum_cams.evaluation.records import FORMAT, Run
from captum_cams.evaluation.results import PROBE
from captum_cams.evaluation.settings import Settings
from captum_cams.metrics.sanity import has_own_parameters, is_resettable
from captum_cams.reshape import Transform

_SANITY = {"skimage": "captum-cams[sanity]"}
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
    layers: list[LayerInfo]
    specs: list[MethodSpec]
    asked: Asked
    indices: list[int]
    """Those of the pictures, ascending."""
    batch_size: int
    sanity: frozenset[int]
    target: str
    """Of :data:`TARGETS`."""
    seed: int
    device: torch.device
    run: Run

    @property
    def batches(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def batch(self, number: int) -> list[int]:
        """The indices of a batch's pictures, the same in every process."""
        start = number * self.batch_size
        return self.indices[start : start + self.batch_size]


def make_plan(
    network: Network,
    data: DataSet,
    layers: Sequence[str] | None,
    settings: Settings,
    device: torch.device,
    reshape: Transform | None = None,
) -> Plan:
    """
    The plan of a run.

    Raises:
        UserError: If layers, methods, metrics, network and data do not fit each other.
    """
    blank = torch.zeros(1, 3, network.size, network.size, device=device)
    network = choose_output(network, settings.explain, blank)
    if layers is None and settings.model is None:
        layers = ["block4"]
    names = None if layers is None else list(dict.fromkeys(layers))
    found = find_layers(network, blank, names, reshape)
    if settings.classes is not None:
        network = name_outputs(network, settings.classes, found[0].classes)
    channels = min(info.shape[0] for info in found)
    asked, left_out = _asked(settings, channels, network.model)
    labels = dict.fromkeys(itertools.chain(*asked.values()))
    specs = [parse_method(label) for label in labels]
    for spec in specs:
        check_transforms(spec, found)
        _check_channels(spec, channels)
    indices = _indices(len(data.names), settings)
    matched = Matched([])
    if data.classes:
        matched = match_classes(data.classes, network, found[0].classes)
    return Plan(
        network=network,
        data=data,
        targets=matched.outputs,
        layers=found,
        specs=specs,
        asked=asked,
        indices=indices,
        batch_size=settings.batch_size,
        sanity=frozenset(indices[: settings.sanity_pictures]),
        target=settings.target,
        seed=settings.seed,
        device=device,
        run=_run(
            network,
            found,
            asked,
            settings,
            blank,
            pictures=[data.names[index] for index in indices],
            shown=[*data.classes],
            notes=[*data.notes, *filter(None, [matched.note, _blur_note(network)])],
            left_out=left_out,
        ),
    )


def _blur_note(network: Network) -> str:
    taps, sigma = blur_of(network.size)
    if taps == BLUR[0]:
        return ""
    return (
        f"Pictures of {network.size} pixels are blurred by {taps} taps and a sigma of "
        f"{sigma:.3g}, as the paper's {BLUR[0]} taps do not fit into them."
    )


def _indices(pictures: int, settings: Settings) -> list[int]:
    """The pictures of the run, drawn by its seed where it has a limit, ascending."""
    indices = list(range(pictures))
    if settings.limit is not None and settings.limit < pictures:
        generator = torch.Generator().manual_seed(settings.seed)
        drawn = torch.randperm(pictures, generator=generator)[: settings.limit]
        indices = drawn.sort().values.tolist()
    return indices


def _check_channels(spec: MethodSpec, channels: int) -> None:
    """Whether the layer with the fewest channels has as many as a method is asked."""
    limited = spec.method.limited_by_channels
    number = spec.arguments.get(limited, 1) if limited else 1
    if isinstance(number, int) and number > channels:
        raise UserError(
            f"{spec.label} needs a layer of as many channels, got {channels}; ask for "
            f"fewer {limited}"
        )


def _run(  # noqa: PLR0913
    network: Network,
    layers: Sequence[LayerInfo],
    asked: Asked,
    settings: Settings,
    blank: Tensor,
    *,
    pictures: list[str],
    shown: list[str],
    notes: list[str],
    left_out: list[str],
) -> Run:
    """What ``run.json`` will hold."""
    named = len(network.classes) == layers[0].classes
    reshaped = {
        info.name: transform_name(info.transform) for info in layers if info.transform
    }
    return Run(
        format=FORMAT,
        settings={
            **asdict(settings),
            "reshape": reshaped or None,
            "device": blank.device.type,
            "size": network.size,
            "mean": list(network.mean),
            "std": list(network.std),
            "digest of the parameters": parameters_digest(network.model),
            "model gives": network.given,
            PROBE: probe_output(network, blank),
            "digest of the labels": _digest_of_file(settings.labels),
            "digest of the classes": _digest_of_file(settings.classes),
        },
        network=network.name,
        pictures=pictures,
        shown=shown,
        notes=notes,
        left_out=left_out,
        methods={name: [*of] for name, of in asked.items()},
        metrics={
            name: [*dict.fromkeys(itertools.chain(*of.values()))]
            for name, of in asked.items()
        },
        layers=[info.name for info in layers],
        classes=list(network.classes) if named else [],
        eps=EPS,
        thresholds=THRESHOLDS,
        curve_steps=CURVE_STEPS,
        randomized=_stages(network.model) if _is_asked(RANDOMIZATION, asked) else [],
        versions=library_versions(),
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def library_versions() -> dict[str, str]:
    """Of Python, this package and those that can change a result."""
    return {
        "captum_cams": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _LIBRARIES},
    }


def _asked(settings: Settings, channels: int, model: Module) -> tuple[Asked, list[str]]:
    """For each protocol its methods with their metrics, and what cannot run here."""
    chosen = None if settings.metrics is None else find_metrics(settings.metrics)
    names = [*PAPERS] if settings.protocol == "all" else [settings.protocol]
    asked = {name: _of_paper(name, settings, chosen, channels) for name in names}
    sanity = [key for key in METRICS if key.startswith(RANDOMIZATION)]
    if not settings.sanity_pictures:
        asked = _without(sanity, asked)
    named = {parse_method(text).name for text in settings.methods or ()}
    named |= {*(settings.metrics or ())}
    left_out = []
    for name, need in _missing_requirements(model):
        kept = _without(sanity if name == RANDOMIZATION else [name], asked)
        if kept == asked:
            continue
        if name in named:
            raise UserError(need)
        left_out.append(f"{need}, and without it is left out")
        asked = kept
    return asked, left_out


def _of_paper(
    protocol: str, settings: Settings, chosen: Sequence[str] | None, channels: int
) -> dict[str, Sequence[str]]:
    """The methods of a paper, or those that were asked for, and their metrics."""
    paper, methods = PAPERS[protocol], settings.methods or PAPERS[protocol].methods
    if settings.dataset == "shapes" and settings.methods is None:
        methods = [FOR_SHAPES.get(text, text) for text in methods]
    labels = [parse_method(text).label for text in methods]
    wanted = list(paper.metrics if chosen is None else chosen)
    asked: dict[str, Sequence[str]] = dict.fromkeys(labels, wanted)
    if settings.methods is None and chosen is None:
        quick = [key for key in wanted if not key.startswith(RANDOMIZATION)]
        asked |= {label: quick for label in labels if label not in SANITY_OF}
    if settings.methods is None:
        for table in paper.tables:
            swept = [key for key in table.metrics if key in wanted]
            if table.sweep is not None and swept:
                for label in _swept(
                    table.sweep, channels, settings.dataset == "shapes"
                ):
                    asked.setdefault(label, swept)
    return asked


def _swept(sweep: Sweep, channels: int, few: bool = False) -> list[str]:
    """The methods of a sweep; none where its default needs more channels."""
    if sweep is not GROUPS:
        return [*sweep.labels(few=few).values()]
    labels = sweep.labels(channels, few)
    return [*labels.values()] if sweep.default <= channels else []


def _missing_requirements(model: Module) -> Iterator[tuple[str, str]]:
    """Methods and metrics that cannot run here, each with the reason as a sentence."""
    needs = {name: method.optional_dependencies for name, method in METHODS.items()}
    for name, libraries in (needs | {RANDOMIZATION: _SANITY}).items():
        if need := missing_library(name, libraries):
            yield name, need
    for name, method in METHODS.items():
        lack = missing_module(name, method, model)
        if lack is not None:
            yield name, lack
    for stage in _stages(model):
        for path, part in model.get_submodule(stage).named_modules(prefix=stage):
            if has_own_parameters(part) and not is_resettable(part):
                yield (
                    RANDOMIZATION,
                    f"{RANDOMIZATION} needs modules that draw their parameters anew "
                    f"with reset_parameters(); {type(part).__name__} ({path}) lacks it",
                )
                return


def _without(names: Collection[str], asked: Asked) -> Asked:
    """The plan with methods or metrics taken out."""
    return {
        protocol: {
            label: [key for key in metrics if key not in names]
            for label, metrics in of.items()
            if label.partition("(")[0] not in names
        }
        for protocol, of in asked.items()
    }


def _is_asked(metric: str, asked: Asked) -> bool:
    keys = itertools.chain(*(of.values() for of in asked.values()))
    return any(key.startswith(metric) for key in itertools.chain(*keys))


def parameters_digest(model: Module) -> str:
    """A digest of all weights: other weights under the same name are another run."""
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
