"""The run: batches of pictures dealt out to processes, explained, measured, kept."""

import contextlib
import hashlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from tqdm import tqdm

from captum_cams._validation import (
    UserError,
    check_choice,
    check_colors,
    check_count,
    check_file,
    check_flags,
    check_model_or_name,
    check_seed,
    check_words,
)
from captum_cams.attr.registry import METHODS
from captum_cams.evaluation import figures, protocols, report, tables
from captum_cams.evaluation.datasets import Sample, open_dataset
from captum_cams.evaluation.networks import (
    Network,
    Subject,
    brief,
    load_network,
    load_transform,
)
from captum_cams.evaluation.plan import Plan, make_plan
from captum_cams.evaluation.protocols import (
    PROTOCOLS,
    RANDOMIZATION,
    Candidate,
    Spec,
    parse_method,
)
from captum_cams.evaluation.records import Explained, Record, Value
from captum_cams.evaluation.results import (
    Records,
    Writer,
    check_same,
    cut_back,
    write_run,
)
from captum_cams.metrics import randomization_check
from captum_cams.reshape import Transform


def evaluate(
    out: str | Path,
    dataset: str = "shapes",
    root: str | Path | None = None,
    model: str | Module | None = None,
    weights: str | Path | None = None,
    layers: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    *,
    reshape: str | Transform | None = None,
    protocol: str = "all",
    split: str | None = None,
    labels: str | Path | None = None,
    limit: int | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 8,
    sanity_pictures: int = 2,
    device: str | torch.device | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Records:
    """
    The papers' tables and figures over a data set.

    Writes into `out`: the results of each picture, target, layer and method
    (``results-RANK.jsonl``), every setting (``run.json``), ``summary.csv``,
    ``summary.md``, ``timings.md``, ``figures/*.png`` and ``report.html``, which shows
    all of it.

    Started again with the same arguments, a run that was stopped goes on where it was
    and ends with the same summary, to the bit. Under torchrun every process takes its
    share of the batches, and the first one writes the summary, which is the same for
    any number of processes. On the CPU a process computes on one thread, so that
    results do not depend on how many there are: torchrun puts all cores to work.

    Pictures that cannot be read or explained are counted with the reason and left out.

    Args:
        out (str or Path): The folder of the results, made if missing.
        dataset (str): ``shapes`` (the package's own), ``imagenet`` (the validation set
            in its official layout), ``voc``, ``coco`` or ``folder`` (one of pictures
            for each class). Default: ``shapes``
        root (str or Path, optional): The data set's folder. Default: None, for
            ``shapes``
        model (str or Module, optional): A classifier of torchvision by its name,
            ``"module:callable"``, or a model, of which a copy is used. Default: None,
            the network of the examples
        weights (str or Path, optional): A file with the model's state dict, or
            ``"DEFAULT"`` for torchvision's. Default: None, as the model is built
        layers (sequence of str, optional): Dotted names, or one. Default: None, the
            last layer that can give feature maps of the pictures and on whose places
            the scores depend; of the network of the examples ``block4``
        methods (sequence of str, optional): Of the registry, with arguments where
            wanted, such as ``"group-cam(groups=8)"``, for all protocols; or one.
            Default: None, those of each protocol
        metrics (sequence of str, optional): Of `protocols.ALL_METRICS`, for all
            protocols; or one. Default: None, those of each protocol
        reshape (str or Callable, optional): What makes feature maps (N, K, h, w) of
            the layers' output: ``"vit_tokens"`` or ``"channels_last"`` of
            :mod:`captum_cams.reshape`, with arguments where wanted, such as
            ``"vit_tokens(prefix_tokens=2)"``, ``"module:callable"``, or a function.
            Default: None, one of the two for a layer whose output needs it
        protocol (str): ``rsi``, ``igc``, ``group-cam`` or ``all``. Default: ``all``
        split (str, optional): Of ``voc`` (such as ``2012-val``) or ``coco`` (such as
            ``val2017``). Default: None, the first of the usual ones that is there
        labels (str or Path, optional): Of ``imagenet``: a CSV file with the columns
            ``picture`` and ``class``, its place in the network's output. Default: None,
            as the data set's own files say
        limit (int, optional): Take so many pictures, drawn by `seed`. Default: None,
            all
        size (int, optional): Height and width of the pictures. Default: None, as the
            model wants them
        mean (sequence of float, optional): Of the colours in [0, 1], for normalising.
            Default: None, as the model wants it
        std (sequence of float, optional): Likewise.
        batch_size (int): Pictures that are read and explained together. Default: 8
        sanity_pictures (int): The first so many pictures are explained again while the
            network's layers lose their weights. 0 leaves that out. Default: 2
        device (str or torch.device, optional): Default: None, the process' own GPU
            where there is one, else the CPU
        seed (int): Of all that is random. Default: 0
        show_progress (bool): Whether a bar counts the pictures. Default: False

    Returns:
        **Records**, all results in the order of the pictures; its attribute ``run``
        holds what ``run.json`` does.

    Raises:
        ValueError, TypeError: If an argument does not fit, `out` holds another run, or
            no picture could be explained.

    Examples::

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     records = evaluate(
        ...         folder, protocol="rsi", limit=2, methods=["grad-cam"]
        ...     )
        ...     energy = [record["values"]["pixel_energy"] for record in records]
        >>> len(energy)
        2
    """
    check_file("out", out)
    for name, file in (("root", root), ("weights", weights), ("labels", labels)):
        if file is not None:
            check_file(name, file)
    check_model_or_name(model)
    if layers is not None:
        layers = check_words("layers", layers)
    if methods is not None:
        methods = check_words("methods", methods)
    if metrics is not None:
        metrics = check_words("metrics", metrics)
    if size is not None:
        size = check_count("size", size)
    check_colors("mean", mean)
    check_colors("std", std)
    seed = check_seed(seed)
    check_flags(show_progress=show_progress)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from error
    check_choice("protocol", protocol, ("all", *PROTOCOLS))
    if limit is not None:
        limit = check_count("limit", limit)
    transform = load_transform(reshape)
    given = {
        "dataset": dataset,
        "root": None if root is None else str(Path(root).resolve()),
        "split": split,
        "labels": None if labels is None else str(Path(labels).resolve()),
        "limit": limit,
        "model": type(model).__name__ if isinstance(model, Module) else model,
        "weights": None if weights is None else str(weights),
        "protocol": protocol,
        "methods": methods,
        "metrics": metrics,
        "batch_size": check_count("batch_size", batch_size),
        "sanity_pictures": check_count("sanity_pictures", sanity_pictures, 0),
        "seed": seed,
    }
    with _processes(device) as team, _one_thread(team.device):
        with _seeded(seed):
            network = load_network(model, weights, size=size, mean=mean, std=std)
        if isinstance(model, str) and ":" not in model and weights is None:
            network = network._replace(name=f"{network.name}, untrained")
        network.model.to(team.device)
        data = open_dataset(
            dataset, root, split=split, labels=labels, limit=limit, seed=seed
        )
        plan = make_plan(network, data, layers, given, team.device, transform)
        check_same(folder, plan.run)
        team.wait()
        if team.rank == 0:
            if not check_same(folder, plan.run):
                write_run(folder, plan.run)
            cut_back(folder)
        team.wait()
        done = Records(folder).extents
        todo = [batch for batch in range(plan.batches) if batch not in done]
        team.wait()  # nobody writes before everybody has looked
        _work(plan, folder, todo[team.rank :: team.size], team, show_progress)
        team.wait()
        records = Records(folder)
        if team.rank == 0:
            _summarize(folder, plan, records)
    return records


class _Team(NamedTuple):
    """The processes that share a run; this one."""

    rank: int
    size: int
    device: torch.device

    def wait(self) -> None:
        """For all others."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def _processes(device: str | torch.device | None) -> Iterator[_Team]:
    """The group of processes that torchrun started, or one alone."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device is None:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise UserError(f"cannot use device {device}: {brief(error)}") from error
    own = (
        torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    )
    with own:
        if dist.is_available() and dist.is_initialized():
            yield _Team(dist.get_rank(), dist.get_world_size(), device)
        elif int(os.environ.get("WORLD_SIZE", 1)) > 1:
            # The first process waits at the end for the slowest, however long it takes.
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=30)
            )
            try:
                yield _Team(dist.get_rank(), dist.get_world_size(), device)
            finally:
                dist.destroy_process_group()
        else:
            yield _Team(0, 1, device)


@contextlib.contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Sums in one order: no number of threads, no choice of cuDNN changes a bit."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    found = cudnn.deterministic, cudnn.benchmark
    if device.type == "cpu":
        torch.set_num_threads(1)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = found


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


class _Row(NamedTuple):
    """A picture and one of its targets."""

    number: int  # of the picture
    picture: Tensor  # (3, H, W)
    boxes: Tensor  # (n, 4)
    target: int
    probability: float
    protocols: list[str]


def _work(
    plan: Plan, folder: Path, batches: Sequence[int], team: _Team, show: bool
) -> None:
    pictures = sum(len(plan.batch(number)) for number in batches)
    of_all = f" of process 1 of {team.size}" if team.size > 1 else ""
    writer = Writer(folder, team.rank)
    with (
        contextlib.closing(writer),
        tqdm(
            total=pictures,
            unit=" pictures",
            desc=f"pictures{of_all}",
            disable=not show or team.rank > 0,
        ) as bar,
    ):
        for number in batches:
            writer.add(number, _batch(plan, number))
            bar.update(len(plan.batch(number)))


def _batch(plan: Plan, number: int) -> list[Record]:
    """All records of a batch, ordered by index, target, layer and method."""
    records: list[Record] = []
    samples: list[tuple[int, Sample]] = []
    for index in plan.batch(number):
        try:
            samples.append((index, plan.data.load(index, plan.network.size)))
        except ValueError as error:
            records.append(_skipped(plan, index, error))
    if not samples:
        return records
    seed = _seed(plan, number)
    # Other errors are no picture's fault: a device's would skip all that is left.
    try:
        records += _explained(plan, samples, seed)
    except ValueError:
        for sample in samples:  # which of them is it?
            try:
                records += _explained(plan, [sample], seed)
            except ValueError as error:
                records.append(_skipped(plan, sample[0], error))
    return sorted(records, key=lambda record: record["index"])


def _seed(plan: Plan, batch: int) -> int:
    """Of the batch's random methods, whoever explains it."""
    digest = hashlib.sha256(f"{plan.seed} {batch}".encode())
    return int(digest.hexdigest()[:8], 16)


def _skipped(plan: Plan, index: int, error: Exception) -> Record:
    why = str(error) if isinstance(error, UserError) else brief(error)
    return {"index": index, "picture": plan.data.names[index], "skipped": why}


def _explained(
    plan: Plan, samples: Sequence[tuple[int, Sample]], seed: int
) -> list[Record]:
    """Records of readable pictures, in order."""
    rows, records = _rows(plan, samples)
    accounted = {row.number for row in rows if row.protocols}
    accounted |= {record["index"] for record in records}
    records += [
        {"index": index, "picture": plan.data.names[index], "protocols": []}
        for index, _ in samples
        if index not in accounted
    ]
    for spec in plan.specs:
        # A method explains the pictures of all protocols that ask for it at once.
        mine = [row for row in rows if _metrics(plan, spec, row)]
        if mine:
            records += _of_method(plan, spec, mine, seed)
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


def _metrics(plan: Plan, spec: Spec, row: _Row) -> frozenset[str]:
    """What is asked of a method for a row; nothing where no protocol has it."""
    return frozenset(
        name
        for protocol in row.protocols
        for name in plan.asked[protocol].get(spec.label, ())
    )


def _rows(
    plan: Plan, samples: Sequence[tuple[int, Sample]]
) -> tuple[list[_Row], list[Record]]:
    """Each picture with each of its classes that the network knows; others skipped."""
    images = torch.stack([sample.picture for _, sample in samples]).to(plan.device)
    with torch.no_grad():
        inputs = plan.network.normalise(images)
        probabilities = plan.network.forward(inputs).cpu()  # (N, classes)
    rows: list[_Row] = []
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
            (plan.targets[place] if plan.targets else place, boxes)
            for place, boxes in sample.boxes.items()
        ]
        known = [(at, boxes) for at, boxes in shown if at is not None]
        if not known or not all(0 <= at < len(output) for at, _ in known):
            error = UserError(f"{name} has no output for what it shows")
            others.append(_skipped(plan, index, error))
            continue
        for target, boxes in known:
            candidate = Candidate(
                int(output.argmax()) == target,
                sum(map(len, sample.boxes.values())),
                protocols.box_share(boxes, plan.network.size),
            )
            rows.append(
                _Row(
                    index,
                    image,
                    boxes,
                    target,
                    float(output[target]),
                    [of for of in plan.asked if PROTOCOLS[of].wants(candidate)],
                )
            )
    return rows, others


def _subject(network: Network, rows: Sequence[_Row]) -> Subject:
    images = torch.stack([row.picture for row in rows])
    targets = torch.tensor([row.target for row in rows], device=images.device)
    return Subject(
        network.forward,
        network.normalise(images),
        network.colours(images),
        targets,
    )


def _of_method(
    plan: Plan, spec: Spec, rows: Sequence[_Row], seed: int
) -> Iterator[Record]:
    """Records of one method, layer by layer."""
    subject = _subject(plan.network, rows)
    maps, seconds = [], []
    method = METHODS[spec.name]
    together = method.several_layers or not method.has_layer
    for places in [plan.places] if together else [[place] for place in plan.places]:
        start = _clock(plan.device)
        new = subject.explain(spec.name, places, spec.arguments, seed)
        took = _clock(plan.device) - start
        maps += new
        seconds += [took / len(rows) / len(new)] * len(new)
    names = plan.run["layers"] if method.has_layer else [""]
    for place, (layer, cams) in enumerate(zip(names, maps, strict=True)):
        values: list[dict[str, Value]] = [{} for _ in rows]
        # Rows that are asked the same are measured together.
        asked = [_metrics(plan, spec, row) for row in rows]
        for wanted in dict.fromkeys(asked):
            group = [i for i, of in enumerate(asked) if of == wanted]
            chosen = [rows[i] for i in group]
            found = protocols.measure(
                wanted,
                _subject(plan.network, chosen),
                cams[torch.tensor(group, device=cams.device)],
                [row.boxes for row in chosen],
            )
            if RANDOMIZATION in wanted:
                few = [i for i in group if rows[i].number in plan.sanity]
                likeness = _randomized(plan, spec, place, [rows[i] for i in few], seed)
                for i, of in zip(few, likeness, strict=True):
                    values[i] |= of
            # In the order of the table, whatever the order of a set.
            for name in sorted(found):
                for i, value in zip(group, found[name].tolist(), strict=True):
                    values[i][name] = _json(value)
        for row, of in zip(rows, values, strict=True):
            yield Explained(
                index=row.number,
                picture=plan.data.names[row.number],
                target=row.target,
                category=_category(plan, row.target),
                probability=row.probability,
                protocols=row.protocols,
                method=spec.label,
                layer=layer,
                values=of,
                seconds=seconds[place],
            )


def _category(plan: Plan, target: int) -> str:
    if plan.targets:
        return plan.data.classes[plan.targets.index(target)]
    return plan.run["classes"][target] if plan.run["classes"] else f"class {target}"


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
    plan: Plan, spec: Spec, place: int, rows: Sequence[_Row], seed: int
) -> list[dict[str, Value]]:
    """Group-CAM 4.5, of each row: likeness layer by layer."""
    if not rows:
        return []

    def explain(model: Module, inputs: Tensor, targets: Tensor) -> Tensor:
        layer = model.get_submodule(plan.places[place].name)
        there = plan.places[place]._replace(layer=layer)
        network = plan.network._replace(model=model)
        other = Subject(network.forward, inputs, subject.colours, targets)
        return other.explain(spec.name, [there], spec.arguments, seed)[0]

    subject = _subject(plan.network, rows)
    likeness = randomization_check(
        explain,
        plan.network.model,
        subject.inputs,
        subject.targets,
        layers=plan.run["randomized"],
        seed=plan.seed,
    )
    return [
        {
            f"{RANDOMIZATION}.{similarity}": [
                _number(float(of[similarity][i])) for of in likeness.values()
            ]
            for similarity in ("spearman", "ssim")
        }
        for i in range(len(rows))
    ]


def _summarize(folder: Path, plan: Plan, records: Records) -> None:
    if not any("skipped" not in record for record in records):
        reason = next((r["skipped"] for r in records if "skipped" in r), "none found")
        raise UserError(f"no picture could be explained; of the first: {reason}")
    summary = tables.Summary(records.run, records)
    tables.write(folder, summary)
    figures.write(folder, summary, records)
    report.write(folder, summary, records, partial(_again, plan))


def _again(
    plan: Plan, index: int, target: int, method: str, layer: str
) -> tuple[Tensor, Tensor, Tensor, str]:
    """Picture, map, boxes and a caption, for the report's gallery."""
    sample = plan.data.load(index, plan.network.size)
    rows, _ = _rows(plan, [(index, sample)])
    (row,) = [row for row in rows if row.target == target]
    spec = parse_method(method)
    seed = _seed(plan, plan.indices.index(index) // plan.batch_size)
    places = [place for place in plan.places if place.name == layer]
    (cam,) = _subject(plan.network, [row]).explain(
        spec.name, places, spec.arguments, seed
    )
    category = _category(plan, target)
    caption = f"{plan.data.names[index]}: {category} {row.probability:.3f}"
    return row.picture.cpu(), cam[0, 0].cpu(), row.boxes, caption
