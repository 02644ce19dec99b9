"""The run: batches of pictures dealt out to processes, explained, measured, kept."""

import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from tqdm import tqdm

from captum_cams._validation import (
    check_choice,
    check_count,
    check_flags,
    check_seed,
    warn,
)
from captum_cams.evaluation import figures, report, tables
from captum_cams.evaluation.batches import (
    explain_again,
    explain_batch,
    explain_randomized,
    warm_up,
)
from captum_cams.evaluation.datasets import open_dataset
from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.networks import EXPLAIN, load_network, load_transform
from captum_cams.evaluation.papers import PAPERS
from captum_cams.evaluation.pictures import RESIZE
from captum_cams.evaluation.plan import Plan, make_plan
from captum_cams.evaluation.processes import Team, one_thread, processes, seeded
from captum_cams.evaluation.results import (
    Records,
    Writer,
    check_same_pictures,
    check_same_run,
    drop_unfinished,
    write_run,
)
from captum_cams.evaluation.settings import (
    TARGETS,
    Settings,
    check_colors,
    check_file,
    check_model_or_name,
    made_folder,
    optional_count,
    optional_words,
    resolved,
    with_preset,
)
from captum_cams.evaluation.summary import Summary
from captum_cams.reshape import Transform


def evaluate(  # noqa: PLR0913, PLR0917
    out: str | Path,
    dataset: str | None = None,
    root: str | Path | None = None,
    model: str | Module | None = None,
    weights: str | Path | None = None,
    layers: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    *,
    preset: str | None = None,
    classes: str | Path | None = None,
    num_classes: int | None = None,
    reshape: str | Transform | None = None,
    explain: str | None = None,
    target: str | None = None,
    protocol: str | None = None,
    split: str | None = None,
    labels: str | Path | None = None,
    limit: int | None = None,
    size: int | None = None,
    resize: str = "squash",
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
        dataset (str, optional): ``shapes`` (the package's own), ``imagenet`` (the
            validation set in its official layout), ``voc``, ``coco`` or ``folder`` (one
            of pictures for each class). Default: None, the preset's or ``shapes``
        root (str or Path, optional): The data set's folder. Default: None, for
            ``shapes``
        model (str or Module, optional): A classifier of torchvision by its name,
            ``"module:callable"``, or a model, of which a copy is used. Default: None,
            the network of the examples
        weights (str or Path, optional): A file with the model's state dict, of
            `torch.save` or safetensors, alone or under a key such as ``state_dict``,
            its names with or without ``module.`` or another prefix; or torchvision's by
            their name, such as ``"DEFAULT"``. Default: None, as the model is built
        layers (sequence of str, optional): Dotted names, or one. Default: None, the
            last layer that can give feature maps of the pictures and on whose positions
            the scores depend; of the network of the examples ``block4``
        methods (sequence of str, optional): Names of
            :data:`captum_cams.attr.registry.METHODS`, or ``"module:class"`` for a
            class of your own, with arguments where wanted, such as
            ``"group-cam(groups=8)"``, for all protocols; or one. Default: None, those
            of each protocol
        metrics (sequence of str, optional): Keys of `metrics.METRICS`, for all
            protocols; or one. Default: None, those of each protocol
        reshape (str or Callable, optional): What makes feature maps (N, K, h, w) of
            the layers' output: ``"vit_tokens"`` or ``"channels_last"`` of
            :mod:`captum_cams.reshape`, with arguments where wanted, such as
            ``"vit_tokens(prefix_tokens=2)"``, ``"module:callable"``, or a function.
            Default: None, one of the two for a layer whose output needs it
        explain (str, optional): The output that is explained. ``probabilities``: the
            softmax of the class scores, or what the model gives where that adds up to 1
            already. ``logits``: the class scores; a ``Softmax`` or ``Sigmoid`` at the
            model's end is taken out. ``sigmoid``: that of each class score by itself,
            for a network of several labels, or what the model gives where it always
            lies in [0, 1] already. ``model``: what the model gives, untouched.
            Confidences and curves are measured on the same output, but for logits,
            where they are of the probabilities, and so are the confidences that
            Group-CAM takes its weights from, as its authors' are. Default: None, the
            preset's or ``probabilities``
        target (str, optional): The class that a picture is explained for: its
            ``label``, or each of several, or the ``predicted`` one, whose output is the
            highest; boxes are those of that class then, and a picture without such
            boxes has none. Filters such as "predicted right" are about the label in
            both cases. Default: None, the preset's or ``label``
        preset (str, optional): The set-up of a paper's experiments, ``rsi-grad-cam``,
            ``integrated-grad-cam`` or ``group-cam``, for all of `dataset`, `split`,
            `limit`, `model`, `weights`, `layers`, `protocol`, `explain` and `target`
            that are None. With a model of your own its weights and layers are left out,
            with another data set its split and limit. Default: None
        classes (str or Path, optional): A file with the names of the model's outputs,
            one a line or in JSON; WordNet's ids may stand before the names. Default:
            None, torchvision's where the model is theirs
        num_classes (int, optional): That the model is built with, where its `weights`
            were trained on another number of classes than torchvision's. Default: None,
            the model's own
        protocol (str, optional): ``rsi``, ``igc``, ``group-cam`` or ``all``. Default:
            None, the preset's or ``all``
        split (str, optional): Of ``voc`` (such as ``2012-val``) or ``coco`` (such as
            ``val2017``). Default: None, the first of the usual ones that is there
        labels (str or Path, optional): Of ``imagenet``: a CSV file with the columns
            ``picture`` and ``class``, its index in the network's output. Default: None,
            as the data set's own files say
        limit (int, optional): Take so many pictures, drawn by `seed`. Default: None,
            all
        size (int, optional): Height and width of the pictures. Default: None, as the
            model wants them
        resize (str): How pictures are made square: ``squash``, both sides to `size`, as
            in the papers' experiments, or ``crop``, the shorter side to `size` and of
            this the central square. Boxes go with the picture. Which pictures a
            protocol takes depends on the boxes as they are stored. Default: ``squash``
        mean (sequence of float, optional): Of the colors in [0, 1], for normalizing.
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
        ...     drops = [r["values"]["average_drop(eps=1e-08)"] for r in records]
        >>> len(drops)
        2
    """
    check_file("out", out)
    if weights is not None:
        check_file("weights", weights)
    check_model_or_name(model)
    check_colors("mean", mean)
    check_colors("std", std)
    given: dict[str, Any] = {
        "dataset": dataset,
        "split": split,
        "limit": limit,
        "model": model,
        "weights": weights,
        "layers": layers,
        "protocol": protocol,
        "explain": explain,
        "target": target,
    }
    filled = with_preset(preset, given)
    dataset, split, limit, model, weights, layers, protocol = filled[:7]
    explain, target = filled[7:]
    size = optional_count("size", size)
    num_classes = optional_count("num_classes", num_classes)
    check_flags(show_progress=show_progress)
    check_choice("protocol", protocol, ("all", *PAPERS))
    check_choice("resize", resize, RESIZE)
    check_choice("explain", explain, EXPLAIN)
    check_choice("target", target, TARGETS)
    settings = Settings(
        preset=preset,
        dataset=dataset,
        root=resolved("root", root),
        split=split,
        labels=resolved("labels", labels),
        limit=optional_count("limit", limit),
        resize=resize,
        model=type(model).__name__ if isinstance(model, Module) else model,
        weights=None if weights is None else str(weights),
        classes=resolved("classes", classes),
        explain=explain,
        target=target,
        protocol=protocol,
        methods=optional_words("methods", methods),
        metrics=optional_words("metrics", metrics),
        batch_size=check_count("batch_size", batch_size),
        sanity_pictures=check_count("sanity_pictures", sanity_pictures, 0),
        seed=check_seed(seed),
    )
    layers = optional_words("layers", layers)
    transform = load_transform(reshape)
    folder = made_folder(out)
    with processes(device) as team, one_thread(team.device):
        with seeded(settings.seed, team.device):
            network = load_network(
                model,
                weights,
                num_classes=num_classes,
                size=size,
                mean=mean,
                std=std,
            )
        if isinstance(model, str) and ":" not in model and weights is None:
            network = network._replace(name=f"{network.name}, untrained")
        network.model.to(team.device)
        data = open_dataset(
            dataset,
            root,
            split=split,
            labels=labels,
            limit=settings.limit,
            resize=resize,
            seed=settings.seed,
        )
        plan = make_plan(network, data, layers, settings, team.device, transform)
        records = _run(plan, folder, team, show_progress)
    return records


def _run(plan: Plan, folder: Path, team: Team, show_progress: bool) -> Records:
    """The batches that are not done yet, and the summary of all."""
    if team.rank == 0 and plan.run["left_out"]:
        _tell_left_out(plan.run["left_out"], show_progress)
    check_same_run(folder, plan.run)
    team.wait()
    if team.rank == 0:
        if not check_same_run(folder, plan.run):
            write_run(folder, plan.run)
        drop_unfinished(folder)
    team.wait()
    done = Records(folder)
    check_same_pictures(folder, done, plan.data.digest)
    todo = [batch for batch in range(plan.batches) if batch not in done.extents]
    team.wait()  # nobody writes before everybody has looked
    _work(plan, folder, todo[team.rank :: team.size], team, show_progress)
    team.wait()
    records = Records(folder)
    if team.rank == 0:
        _summarize(folder, plan, records)
    return records


def _tell_left_out(sentences: Sequence[str], show: bool) -> None:
    """At the start, as results without it are easily taken for all."""
    if show:
        tqdm.write(f"captum-cams: {'. '.join(sentences)}", file=sys.stderr)
        return
    for sentence in sentences:
        warn(sentence)


def _work(
    plan: Plan, folder: Path, batches: Sequence[int], team: Team, show: bool
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
        warm_up(plan, batches)
        for number in batches:
            writer.add(number, explain_batch(plan, number))
            bar.update(len(plan.batch(number)))


def _summarize(folder: Path, plan: Plan, records: Records) -> None:
    if not any("skipped" not in record for record in records):
        reason = next((r["skipped"] for r in records if "skipped" in r), "none found")
        raise UserError(f"no picture could be explained; of the first: {reason}")
    summary = Summary(records.run, records)
    tables.write(folder, summary)
    again = partial(explain_again, plan)
    randomized = partial(explain_randomized, plan)
    drawings = figures.write(folder, summary, records, again, randomized)
    report.write(folder, summary, drawings, again)
