"""A batch of pictures: explained by every method, measured, made into records."""

import contextlib
import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from captum_cams.evaluation.datasets import Sample
from captum_cams.evaluation.errors import MisreadError, UserError, brief_error
from captum_cams.evaluation.methods import ExplainTask, MethodSpec, parse_method
from captum_cams.evaluation.metrics import MODES, RANDOMIZATION, Measured, measure
from captum_cams.evaluation.networks import Network
from captum_cams.evaluation.papers import PAPERS, Candidate
from captum_cams.evaluation.plan import Plan
from captum_cams.evaluation.records import Explained, Record, Unused, Value
from captum_cams.evaluation.shared_path import explain_along_path, shares_path
from captum_cams.metrics import randomization_check

_MOST_TRIED = 8  # batches, for a picture to warm up with


@dataclass(frozen=True)
class _Example:
    """A picture and one of its targets."""

    index: int  # of the picture
    picture: Tensor  # (3, H, W)
    boxes: Tensor  # (n, 4)
    digest: str
    left_out: dict[str, int]
    target: int
    probability: float
    protocols: list[str]


class _Cost(NamedTuple):
    """What a map takes."""

    seconds: float
    passes: float
    """Inputs that go through the network."""


_CostedMaps = tuple[list[Tensor], list[_Cost]]
"""A method's maps of each layer, and what one picture of each takes."""


def explain_batch(plan: Plan, number: int) -> list[Record]:
    """All records of a batch, ordered by index, target, layer and method."""
    samples, records = _loaded(plan, number)
    if not samples:
        return records
    # Other errors are no picture's fault: a device's would skip all that is left.
    try:
        records += _explained(plan, samples, number)
    except MisreadError:  # all pictures' numbers would be wrong
        raise
    except ValueError:
        for sample in samples:  # one by one, to skip the faulty ones alone
            try:
                records += _explained(plan, [sample], number)
            except ValueError as error:
                records.append(_skipped(plan, sample[0], error))
    return sorted(records, key=lambda record: record["index"])


def _loaded(plan: Plan, number: int) -> tuple[list[tuple[int, Sample]], list[Record]]:
    """A batch's pictures, and records of those that cannot be read."""
    samples: list[tuple[int, Sample]] = []
    records: list[Record] = []
    for index in plan.batch(number):
        try:
            samples.append((index, plan.data.load(index, plan.network.size)))
        except ValueError as error:
            records.append(_skipped(plan, index, error))
    return samples, records


def warm_up(plan: Plan, numbers: Iterable[int]) -> None:
    """
    Explains a picture by every method, for nothing but the time.

    What is loaded, built or allocated once would else count as the first one's.

    Args:
        plan (Plan): Of the run.
        numbers (iterable of int): Batches, of which as many are read as it takes to
            find a picture for each method.
    """
    nothing: dict[str, list[_Example]] = {spec.label: [] for spec in plan.specs}
    cold = {*nothing}
    for number in itertools.islice(numbers, _MOST_TRIED):
        samples, _ = _loaded(plan, number)
        asked = nothing
        with contextlib.suppress(ValueError):  # told when the batch is explained
            asked = _asked(plan, _examples(plan, samples)[0]) if samples else nothing
        for label, examples in asked.items():
            if label in cold and examples:
                one = {**nothing, label: examples[:1]}
                with contextlib.suppress(ValueError):
                    for _ in _maps_by_method(plan, one, number):
                        cold.discard(label)
        if not cold:
            return


def explain_again(
    plan: Plan, index: int, target: int, method: str, layer: str
) -> tuple[Tensor, Tensor, Tensor, str]:
    """Picture, map, boxes and a caption, for the report's gallery."""
    example, seed = _example_again(plan, index, target)
    layers = [info for info in plan.layers if info.name == layer]
    (cam,) = _task(plan.network, [example]).explain(parse_method(method), layers, seed)
    category = _category(plan, target)
    caption = f"{plan.data.names[index]}: {category} {example.probability:.3f}"
    return example.picture.cpu(), cam[0, 0].cpu(), example.boxes, caption


def explain_randomized(
    plan: Plan, index: int, target: int, method: str, layer: str, mode: str
) -> list[Tensor]:
    """
    The maps that the sanity check compares, each (h, w).

    The first is the network's as it is, the others' are after each of the run's layers.
    """
    example, seed = _example_again(plan, index, target)
    number = plan.run["layers"].index(layer) if layer else 0
    _, maps = _sanity_check(plan, parse_method(method), number, [example], seed, mode)
    return [cam[0, 0].cpu() for cam in maps]


def _example_again(plan: Plan, index: int, target: int) -> tuple[_Example, int]:
    """An example that has been explained, and the seed that it was explained with."""
    sample = plan.data.load(index, plan.network.size)
    examples, _ = _examples(plan, [(index, sample)], predicted=target)
    (example,) = [one for one in examples if one.target == target]
    return example, _seed(plan, plan.indices.index(index) // plan.batch_size)


def _seed(plan: Plan, batch: int) -> int:
    """The seed of a batch's random methods, the same in every process."""
    digest = hashlib.sha256(f"{plan.seed} {batch}".encode())
    return int(digest.hexdigest()[:8], 16)


def _skipped(plan: Plan, index: int, error: Exception) -> Record:
    why = str(error) if isinstance(error, UserError) else brief_error(error)
    name, digest = plan.data.names[index], plan.data.digest(index)
    return {"index": index, "picture": name, "digest": digest, "skipped": why}


def _explained(
    plan: Plan, samples: Sequence[tuple[int, Sample]], batch: int
) -> list[Record]:
    """Records of readable pictures, in order."""
    examples, records = _examples(plan, samples)
    accounted = {example.index for example in examples if example.protocols}
    accounted |= {record["index"] for record in records}
    records += [
        Unused(
            index=index,
            picture=plan.data.names[index],
            digest=sample.digest,
            left_out=dict(sample.left_out),
            protocols=[],
        )
        for index, sample in samples
        if index not in accounted
    ]
    asked = _asked(plan, examples)
    for spec, found in _maps_by_method(plan, asked, batch):
        records += _records_of_method(plan, spec, asked[spec.label], batch, found)
    labels = [spec.label for spec in plan.specs]
    layers = ["", *plan.run["layers"]]

    def order(record: Any) -> tuple[int, ...]:
        if "method" not in record:
            return (record["index"],)
        return (
            record["index"],
            record["target"],
            layers.index(record["layer"]),
            labels.index(record["method"]),
        )

    return sorted(records, key=order)


def _asked(plan: Plan, examples: Sequence[_Example]) -> dict[str, list[_Example]]:
    """
    By methods' labels, what each explains.

    These are the pictures of all protocols that ask for it, at once.
    """
    return {
        spec.label: [one for one in examples if _metrics(plan, spec, one)]
        for spec in plan.specs
    }


def _maps_by_method(
    plan: Plan, asked: Mapping[str, Sequence[_Example]], batch: int
) -> Iterator[tuple[MethodSpec, _CostedMaps]]:
    """
    Each method with its maps; another one begins in each batch.

    So none is always the one that finds caches and memory as the same other left them.
    """
    seed, first = _seed(plan, batch), batch % max(len(plan.specs), 1)
    shared: dict[str, _CostedMaps] | None = None
    along = {spec.label for spec in shares_path(plan.specs)}
    for spec in [*plan.specs[first:], *plan.specs[:first]]:
        if not asked[spec.label]:
            continue
        if shared is None and spec.label in along:
            shared = _shared_maps(plan, asked)
        found = (shared or {}).get(spec.label)
        yield spec, found or _costed_maps(plan, spec, asked[spec.label], seed)


def _metrics(plan: Plan, spec: MethodSpec, example: _Example) -> frozenset[str]:
    """What is asked of a method for an example; nothing where no protocol has it."""
    return frozenset(
        name
        for protocol in example.protocols
        for name in plan.asked[protocol].get(spec.label, ())
    )


def _examples(
    plan: Plan, samples: Sequence[tuple[int, Sample]], predicted: int | None = None
) -> tuple[list[_Example], list[Record]]:
    """
    Each picture with the classes that it is explained for; others are skipped.

    They are all of its own that the network knows, or the predicted one. What was
    `predicted` in another batch may lead by no more than rounding, and counts.
    """
    images = torch.stack([sample.picture for _, sample in samples]).to(plan.device)
    with torch.no_grad():
        inputs = plan.network.normalize(images)
        probabilities = plan.network.forward(inputs).cpu()  # (N, classes)
    examples: list[_Example] = []
    others: list[Record] = []
    for (index, sample), image, output in zip(
        samples, images, probabilities, strict=True
    ):
        name = plan.network.name
        if not output.isfinite().all():
            error = UserError(f"{name} gives NaN or infinity for it")
            others.append(_skipped(plan, index, error))
            continue
        shown = [
            (plan.targets[label] if plan.targets else label, label)
            for label in sample.boxes
        ]
        known = [(target, label) for target, label in shown if target is not None]
        labels = {target for target, _ in known}
        top = int(output.argmax()) if predicted is None else predicted
        if plan.target == "predicted":
            of_top = [label for target, label in known if target == top]
            known = [(top, of_top[0] if of_top else -1)]  # -1: no box of it
        if not known or not all(0 <= target < len(output) for target, _ in known):
            classes = [plan.data.classes[label] for _, label in shown if plan.targets]
            what = f"the class {', '.join(classes)}" if classes else "its class"
            error = UserError(f"{name} has no output for {what}")
            others.append(_skipped(plan, index, error))
            continue
        for target, label in known:
            boxes = sample.boxes.get(label, torch.zeros(0, 4))  # (n, 4)
            candidate = Candidate(
                target == top and top in labels,
                sample.stored_boxes,
                sample.stored_shares.get(label, 0.0),
            )
            wanting = [name for name in plan.asked if PAPERS[name].wants(candidate)]
            probability = float(output[target])
            examples.append(
                _Example(
                    index=index,
                    picture=image,
                    boxes=boxes,
                    digest=sample.digest,
                    left_out=dict(sample.left_out),
                    target=target,
                    probability=probability,
                    protocols=wanting,
                )
            )
    return examples, others


def _task(network: Network, examples: Sequence[_Example]) -> ExplainTask:
    images = torch.stack([example.picture for example in examples])  # (N, 3, H, W)
    targets = torch.tensor([one.target for one in examples], device=images.device)
    return ExplainTask(network, network.normalize(images), targets)


def _shared_maps(
    plan: Plan, asked: Mapping[str, Sequence[_Example]]
) -> dict[str, _CostedMaps]:
    """Maps of the methods that share a path, where they are asked of the same."""
    specs = [spec for spec in shares_path(plan.specs) if asked[spec.label]]
    groups = {tuple(map(id, asked[spec.label])) for spec in specs}
    if len(specs) < 2 or len(groups) > 1:
        return {}
    examples = asked[specs[0].label]
    with _counted(plan) as total:
        found = explain_along_path(_task(plan.network, examples), specs, plan.layers)
    if found is None:
        return {}
    each = _share(total, len(examples) * len(specs) * len(plan.layers))
    return {
        spec.label: (maps, [each] * len(maps))
        for spec, maps in zip(specs, found, strict=True)
    }


def _records_of_method(
    plan: Plan,
    spec: MethodSpec,
    examples: Sequence[_Example],
    batch: int,
    found: _CostedMaps,
) -> Iterator[Record]:
    """Records of one method, layer by layer."""
    (maps, costs), seed = found, _seed(plan, batch)
    names = plan.run["layers"] if spec.method.has_layer else [""]
    for number, (layer, cams) in enumerate(zip(names, maps, strict=True)):
        values: list[dict[str, Value]] = [{} for _ in examples]
        # Examples that are asked the same are measured together.
        asked = [_metrics(plan, spec, example) for example in examples]
        for wanted in dict.fromkeys(asked):
            group = [i for i, metrics in enumerate(asked) if metrics == wanted]
            chosen = [examples[i] for i in group]
            of_group = Measured.of(
                _task(plan.network, chosen),
                cams[torch.tensor(group, device=cams.device)],
                [example.boxes for example in chosen],
            )
            measured = measure(wanted, of_group)
            if any(key.startswith(RANDOMIZATION) for key in wanted):
                few = [i for i in group if examples[i].index in plan.sanity]
                checked = [examples[i] for i in few]
                likeness = _randomized(plan, spec, number, checked, seed)
                for i, more in zip(few, likeness, strict=True):
                    values[i] |= more
            # In the order of the table, whatever the order of a set.
            for name in sorted(measured):
                for i, value in zip(group, measured[name].tolist(), strict=True):
                    values[i][name] = _json(value)
        for example, of_example in zip(examples, values, strict=True):
            yield Explained(
                index=example.index,
                picture=plan.data.names[example.index],
                digest=example.digest,
                left_out=example.left_out,
                target=example.target,
                category=_category(plan, example.target),
                probability=example.probability,
                protocols=example.protocols,
                method=spec.label,
                layer=layer,
                values=of_example,
                explained_in=batch,
                seconds=costs[number].seconds,
                passes=costs[number].passes,
            )


def _costed_maps(
    plan: Plan, spec: MethodSpec, examples: Sequence[_Example], seed: int
) -> _CostedMaps:
    """
    A method's maps of each layer, and what one picture of each takes.

    Layers that one call explains share its cost.
    """
    task = _task(plan.network, examples)
    maps: list[Tensor] = []
    costs: list[_Cost] = []
    together = spec.method.several_layers or not spec.method.has_layer
    for layers in [plan.layers] if together else [[info] for info in plan.layers]:
        with _counted(plan) as total:
            new = task.explain(spec, layers, seed)
        maps += new
        costs += [_share(total, len(examples) * len(new))] * len(new)
    return maps, costs


@contextlib.contextmanager
def _counted(plan: Plan) -> Iterator[list[float]]:
    """Seconds and passes of what runs inside, known when it has run."""
    total = [0.0, 0.0]

    def count(_: Module, inputs: tuple[Tensor, ...]) -> None:
        total[1] += len(inputs[0])

    handle = plan.network.model.register_forward_pre_hook(count)
    start = _clock(plan.device)
    try:
        yield total
    finally:
        handle.remove()
        total[0] = _clock(plan.device) - start


def _share(total: Sequence[float], number: int) -> _Cost:
    return _Cost(total[0] / number, total[1] / number)


def _category(plan: Plan, target: int) -> str:
    if plan.run["classes"]:
        return plan.run["classes"][target]
    if target in plan.targets:
        return plan.data.classes[plan.targets.index(target)]
    return f"class {target}"


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _json(value: Any) -> Value:
    if isinstance(value, list):
        return [_number(one) for one in value]
    return _number(value)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _randomized(
    plan: Plan, spec: MethodSpec, layer: int, examples: Sequence[_Example], seed: int
) -> list[dict[str, Value]]:
    """Similarity to maps of randomized models (Group-CAM 4.5), for each example."""
    if not examples:
        return []
    values: list[dict[str, Value]] = [{} for _ in examples]
    for mode in MODES:
        found, _ = _sanity_check(plan, spec, layer, examples, seed, mode)
        for i, of_example in enumerate(values):
            for similarity in ("spearman", "ssim"):
                of_example[f"{RANDOMIZATION}.{mode}.{similarity}"] = [
                    _number(float(of[similarity][i])) for of in found.values()
                ]
    return values


def _sanity_check(
    plan: Plan,
    spec: MethodSpec,
    layer: int,
    examples: Sequence[_Example],
    seed: int,
    mode: str,
) -> tuple[dict[str, dict[str, Tensor]], list[Tensor]]:
    """The similarities by layer, and the maps that are compared, (N, 1, h, w) each."""
    task = _task(plan.network, examples)
    info = plan.layers[layer]
    maps: list[Tensor] = []

    def explain(model: Module, inputs: Tensor, targets: Tensor) -> Tensor:
        there = info._replace(module=model.get_submodule(info.name))
        other = ExplainTask(plan.network._replace(model=model), inputs, targets)
        maps.append(other.explain(spec, [there], seed)[0])
        return maps[-1]

    found = randomization_check(
        explain,
        plan.network.model,
        task.inputs,
        task.targets,
        mode,
        plan.run["randomized"],
        seed=plan.seed,
    )
    return found, maps
