"""Fine-tuning on pictures that Group-CAM blends, and without the blend."""

import copy
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm

from captum_cams._printable import printable
from captum_cams._validation import (
    check_count,
    check_flags,
    check_number,
    check_seed,
    kind_of,
)
from captum_cams.augmentation import GroupCamBlend
from captum_cams.evaluation.class_names import name_outputs
from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.layers import LayerInfo, find_layers
from captum_cams.evaluation.methods import AsModule, ExplainTask, blur_of, parse_method
from captum_cams.evaluation.networks import (
    Network,
    choose_output,
    load_network,
    probe_output,
)
from captum_cams.evaluation.plan import library_versions, parameters_digest
from captum_cams.evaluation.processes import one_thread, processes, seeded
from captum_cams.evaluation.results import PROBE, RUN, check_same_facts, write_run
from captum_cams.evaluation.settings import (
    check_colors,
    check_file,
    check_model_or_name,
    made_folder,
    optional_count,
    resolved,
)
from captum_cams.evaluation.tables import write_text
from captum_cams.evaluation.training_data import (
    PAPER,
    PARTS,
    Pictures,
    TrainingData,
    collate,
    files_digest,
    match_outputs,
    open_training_data,
)
from captum_cams.visualization import panel

RUNS = {"blend": "with the blend", "control": "without the blend"}
_SHOWN = 2  # pictures whose maps are drawn
_STATEFUL = ("model", "optimizer", "scheduler")
_HISTORY = ("top1", "right", "maps")


def fine_tune(  # noqa: PLR0913
    out: str | Path,
    root: str | Path | None = None,
    model: str | Module | None = None,
    weights: str | Path | None = None,
    layer: str | None = None,
    *,
    classes: str | Path | None = None,
    num_classes: int | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    epochs: int = 20,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    groups: int = 16,
    workers: int = 0,
    device: str | torch.device | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> dict[str, list[float]]:
    """
    The fine-tuning of Group-CAM's section 5, and a control run.

    A network is trained on pictures in which
    :class:`~captum_cams.augmentation.GroupCamBlend` blurs what Group-CAM holds for
    unimportant. The control run, which the paper does not have, sees the same pictures
    in the same order without the blend, from the same weights.

    As in the paper all inputs are blended, and SGD with a momentum of 0.9 and a weight
    decay of 1e-4 divides its learning rate by 10 every 15 epochs. The paper's network
    is torchvision's ``resnet50``; the weights whose top-1 it prints, 76.15%, are
    ``"IMAGENET1K_V1"``. Before the blend a picture is cropped by
    ``RandomResizedCrop`` and flipped at random, as in the authors' code; tests take the
    central square of the picture with the shorter side at 8/7 of the network's size,
    224 of 256.

    Writes into `out`: the top-1 before the training and after each epoch
    (``top1.csv``, ``summary.md`` beside the paper's), Group-CAM's maps of a few
    pictures after each fifth epoch (``maps.png``, as Fig. 8), the trained weights as
    state dicts (``weights-blend.pt``, ``weights-control.pt``), and every setting
    (``run.json``). Both runs are kept after each epoch: started again with the same
    arguments they go on from there, with the same results as if never stopped (on a
    GPU: as far as its operations are deterministic). On the CPU one thread computes.

    Args:
        out (str or Path): The folder of the results, made if missing.
        root (str or Path, optional): Holds the folders ``train`` and ``val``, each with
            a folder of pictures for each class, as torchvision's ``ImageNet`` lays them
            out. Classes are the network's outputs by name, or, where these have no
            names, by order. Default: None, shapes that are drawn, 64 pixels wide for
            the network of the examples
        model (str or Module, optional): A classifier of torchvision by its name,
            ``"module:callable"``, or a model, of which copies are used. Default: None,
            the network of the examples
        weights (str or Path, optional): A file with the model's state dict, as of
            :func:`evaluate`, or torchvision's by their name, such as
            ``"IMAGENET1K_V1"``. Default: None, as the model is built
        layer (str, optional): Dotted name of the layer that gives the masks. Default:
            None, the last one that can give feature maps of the pictures; of the
            network of the examples ``block4``
        classes (str or Path, optional): A file with the names of the model's outputs,
            as of :func:`evaluate`. Default: None, torchvision's where the model is
            theirs
        num_classes (int, optional): That the model is built with, where its `weights`
            were trained on another number of classes than torchvision's. Default: None,
            the model's own
        size (int, optional): Pixels along each side of the network's pictures.
            Default: None, as torchvision's model wants them, else 224
        mean (sequence of float, optional): Of the colors in [0, 1], for normalizing.
            Default: None, as torchvision's model wants it, else 0
        std (sequence of float, optional): Likewise, else 1.
        epochs (int): How often all pictures are seen. Default: 20
        batch_size (int): Pictures of a step. Default: 256
        learning_rate (float): Of the first 15 epochs. Default: 1e-3
        groups (int): G of the blend. Default: 16
        workers (int): Processes that read pictures, which change no result. Default: 0,
            this one
        device (str or torch.device, optional): Default: None, the GPU where there is
            one, else the CPU
        seed (int): Of all that is random. Default: 0
        show_progress (bool): Whether a bar counts the batches, and the top-1 is
            printed after each epoch. Default: False

    Returns:
        *dict* of **top-1**, in [0, 1], before the training and after each epoch, of
        the runs ``blend`` and ``control``.

    Raises:
        ValueError, TypeError: If an argument does not fit, or `out` holds another run.

    Examples::

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     top1 = fine_tune(folder, epochs=1, groups=2)
        >>> [len(values) for values in top1.values()]
        [2, 2]
    """
    check_file("out", out)
    check_model_or_name(model)
    if layer is not None and not isinstance(layer, str):
        raise TypeError(f"layer must be a layer's dotted name, got {kind_of(layer)}")
    check_colors("mean", mean)
    check_colors("std", std)
    check_flags(show_progress=show_progress)
    if weights is not None:
        check_file("weights", weights)
    seed = check_seed(seed)
    settings = {
        "root": resolved("root", root),
        "model": type(model).__name__ if isinstance(model, Module) else model,
        "weights": None if weights is None else str(weights),
        "classes": resolved("classes", classes),
        "epochs": check_count("epochs", epochs),
        "batch_size": check_count("batch_size", batch_size),
        "learning_rate": check_number("learning_rate", learning_rate, "(0, inf)"),
        "groups": check_count("groups", groups),
        "seed": seed,
    }
    if root is None and model is None and size is None:
        size = 64  # on larger shapes this network errs too seldom
    size = optional_count("size", size)
    num_classes = optional_count("num_classes", num_classes)
    workers = check_count("workers", workers, 0)
    folder = made_folder(out)
    with processes(device) as team, one_thread(team.device):
        if team.size > 1:
            raise UserError(
                f"fine-tuning takes one process, got {team.size}; start it without "
                "torchrun"
            )
        with seeded(seed, team.device):
            network = load_network(
                model,
                weights,
                num_classes=num_classes,
                size=size,
                mean=mean,
                std=std,
            )
        network.model.to(team.device)
        data = open_training_data(root, network.size)
        plan = _make_plan(network, data, layer, settings, team.device)
        _begin(folder, plan.settings)
        training = [_Training(plan, name, folder, workers) for name in RUNS]
        for one in training:
            one.run(show_progress)
    _write(folder, plan, training)
    return {one.name: one.top1 for one in training}


class _Plan(NamedTuple):
    """What both runs share."""

    network: Network
    data: TrainingData
    layer: LayerInfo
    settings: Mapping[str, Any]
    device: torch.device


def _make_plan(
    network: Network,
    data: TrainingData,
    layer: str | None,
    settings: Mapping[str, Any],
    device: torch.device,
) -> _Plan:
    blank = torch.zeros(1, 3, network.size, network.size, device=device)
    network = choose_output(network, "logits", blank)
    if layer is None and settings["model"] is None:
        layer = "block4"
    (found,) = find_layers(network, blank, None if layer is None else [layer])
    if settings["classes"] is not None:
        network = name_outputs(network, settings["classes"], found.classes)
    data = match_outputs(data, network, found.classes)
    if found.transform is not None:
        raise UserError(
            f"the blend needs a layer that gives feature maps (N, K, h, w), and "
            f"{found.name} gives them by a transform alone; name another layer"
        )
    blend = _blend(network, found.module, settings["groups"])
    try:
        blend(blank, torch.zeros(1, dtype=torch.long, device=device))
    except ValueError as error:
        raise UserError(f"the blend does not fit {network.name}: {error}") from error
    facts = {
        **settings,
        "layer": found.name,
        "size": network.size,
        "mean": list(network.mean),
        "std": list(network.std),
        "device": device.type,
        "digest of the parameters": parameters_digest(network.model),
        "model gives": network.given,
        PROBE: probe_output(network, blank),
        **{f"pictures of {part}": len(getattr(data, part)) for part in PARTS},
        **{
            f"digest of the files of {part}": files_digest(getattr(data, part))
            for part in PARTS
        },
        **{f"version of {key}": value for key, value in library_versions().items()},
    }
    return _Plan(network, data, found, facts, device)


def _blend(network: Network, layer: Module, groups: int) -> GroupCamBlend:
    taps, sigma = blur_of(network.size)
    return GroupCamBlend(
        AsModule(network, False),
        layer,
        groups,
        blur_kernel_size=taps,
        blur_sigma=sigma,
    )


def _begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes down the run that begins, or checks that it is the one that goes on."""
    path = folder / RUN
    if not path.exists():
        write_run(folder, settings)
        return
    try:
        before = json.loads(path.read_bytes())
    except ValueError:
        before = None
    if not isinstance(before, dict) or before.keys() != settings.keys():
        raise UserError(
            f"{path} was not written by a fine-tuning of this version; write to "
            "another folder"
        )
    check_same_facts(folder, before, settings)


class _Training:
    """One of the runs, as far as it has come."""

    def __init__(self, plan: _Plan, name: str, folder: Path, workers: int) -> None:
        self.plan, self.name, self.workers = plan, name, workers
        settings = plan.settings
        self.model = copy.deepcopy(plan.network.model)
        self.network = plan.network._replace(model=self.model)
        module = self.model.get_submodule(plan.layer.name)
        self.layer = plan.layer._replace(module=module)
        self.blend = _blend(self.network, module, settings["groups"])
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            settings["learning_rate"],
            momentum=PAPER["momentum"],
            weight_decay=PAPER["weight decay"],
        )
        self.scheduler = torch.optim.lr_scheduler.StepLR(
            self.optimizer,
            PAPER["epochs at a learning rate"],
            1 / PAPER["divisor of the learning rate"],
        )
        self.top1: list[float] = []
        self.right = torch.empty(0)  # of each picture whether its class is found
        self.maps: dict[int, Tensor] = {}  # by epoch, (pictures, 1, h, w)
        self.folder, self.path = folder, folder / f"{name}.pt"

    def run(self, show_progress: bool) -> None:
        """Goes on to the last epoch."""
        if self.path.exists():
            self._load()
        last = self.plan.settings["epochs"]
        for epoch in range(len(self.top1), last + 1):
            seeds = (self.plan.settings["seed"], epoch)
            try:
                if epoch > 0:
                    # What the model draws, as Dropout does; the blend draws nothing.
                    with seeded(hash(seeds), self.plan.device):
                        self._train(seeds, show_progress)
                    self.scheduler.step()
                self._finish_epoch(show_progress)
            except UserError:
                raise
            except ValueError as error:  # of numbers that are not finite
                raise UserError(
                    f"epoch {epoch} {RUNS[self.name]} fails: {error}; a smaller "
                    "learning rate may help, or another mean or std"
                ) from error
        _save(self.model.state_dict(), self.folder / f"weights-{self.name}.pt")

    def _train(self, seeds: tuple[int, int], show: bool) -> None:
        """One epoch."""
        generator = torch.Generator().manual_seed(hash(seeds))
        pictures = Pictures(self.plan.data.train, self.network.size, seeds)
        order = torch.randperm(len(pictures), generator=generator).tolist()
        self.model.train()
        for inputs, labels in self._batches(pictures, order, seeds[1], show):
            if self.name == "blend":
                inputs, labels = self.blend(inputs, labels)
            loss = cross_entropy(self.network.explained(inputs), labels)
            if not loss.isfinite():
                raise ValueError(f"the loss is {loss.item()}")
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
        self.model.eval()

    def _batches(
        self, pictures: Pictures, order: Sequence[int], epoch: int, show: bool
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Normalized inputs and labels."""
        loader: Iterable[Any] = DataLoader(
            pictures,
            self.plan.settings["batch_size"],
            sampler=order,
            num_workers=self.workers,
            collate_fn=collate,
            generator=torch.Generator(),  # of the workers, which need none
        )
        doing = "test" if pictures.seeds is None else "training"
        bar = f"{self.name}, epoch {epoch}, {doing}"
        for batch in tqdm(loader, bar, leave=False, disable=not show):
            if isinstance(batch, UserError):
                raise batch
            images, labels = (part.to(self.plan.device) for part in batch)
            yield self.network.normalize(images), labels

    def _finish_epoch(self, show: bool) -> None:
        """Tests the network, and keeps all that the next epoch needs."""
        epoch, last = len(self.top1), self.plan.settings["epochs"]
        pictures = Pictures(self.plan.data.val, self.network.size)
        right = []
        with torch.no_grad():
            for inputs, labels in self._batches(
                pictures, range(len(pictures)), epoch, show
            ):
                right.append(self.network.explained(inputs).argmax(1) == labels)
        self.right = torch.cat(right).float().cpu()  # (pictures,)
        self.top1.append(float(self.right.mean()))
        if epoch % PAPER["epochs between maps"] == 0 or epoch == last:
            images, targets = (part.to(self.plan.device) for part in _shown(self.plan))
            task = ExplainTask(self.network, self.network.normalize(images), targets)
            (maps,) = task.explain(parse_method("group-cam"), [self.layer])
            self.maps[epoch] = maps.cpu()
        if show:
            tqdm.write(f"{self.name}, epoch {epoch}: top-1 {self.top1[-1]:.2%}")
        stateful = {key: getattr(self, key).state_dict() for key in _STATEFUL}
        _save(stateful | {key: getattr(self, key) for key in _HISTORY}, self.path)

    def _load(self) -> None:
        kept = torch.load(self.path, self.plan.device, weights_only=True)
        for key in _STATEFUL:
            getattr(self, key).load_state_dict(kept[key])
        for key in _HISTORY:
            setattr(self, key, kept[key])


def _save(state: Mapping[str, Any], path: Path) -> None:
    """Writes a file as a whole, or not at all if that fails."""
    content = io.BytesIO()  # torch.save does not say that a disk is full
    torch.save(state, content)
    part = path.with_suffix(".part")
    part.write_bytes(content.getbuffer())
    os.replace(part, path)


def _shown(plan: _Plan) -> tuple[Tensor, Tensor]:
    """The pictures whose maps are drawn, and their classes."""
    generator = torch.Generator().manual_seed(plan.settings["seed"])
    order = torch.randperm(len(plan.data.val), generator=generator)
    pictures = Pictures(plan.data.val, plan.network.size)
    batch = collate([pictures[index] for index in order[:_SHOWN].tolist()])
    if isinstance(batch, UserError):
        raise batch
    images, labels = batch
    return images, labels  # (pictures, 3, H, W), (pictures,)


def _write(folder: Path, plan: _Plan, training: Sequence[_Training]) -> None:
    """The tables and the figure."""
    epochs = [*zip(*(one.top1 for one in training), strict=True)]
    rows = [[epoch, *top1] for epoch, top1 in enumerate(epochs)]
    lines = [",".join(map(str, row)) for row in [["epoch", *RUNS], *rows]]
    write_text(folder / "top1.csv", "\n".join(lines) + "\n")
    write_text(folder / "summary.md", _summary(plan, training, epochs))
    images, labels = _shown(plan)
    maps = {}
    for epoch in training[0].maps:
        of_runs = torch.stack([one.maps[epoch].cpu() for one in training], 1)
        maps[f"epoch {epoch}"] = of_runs.flatten(0, 1)  # (pictures runs, 1, h, w)
    titles = [
        f"{printable(plan.data.classes[label])}\n{RUNS[one.name]}"
        for label in labels.tolist()
        for one in training
    ]
    figure = panel(images.repeat_interleave(len(training), 0), maps, titles)
    figure.savefig(folder / "maps.png", dpi=150)


def _summary(
    plan: _Plan, training: Sequence[_Training], epochs: Sequence[Sequence[float]]
) -> str:
    printed = dict(zip((0, len(epochs) - 1), PAPER["top-1 in %"], strict=True))
    table = [
        f"| {epoch} | "
        + "".join(f"{100 * value:.2f} | " for value in top1)
        + f"{printed.get(epoch, '')} |"
        for epoch, top1 in enumerate(epochs)
    ]
    blend, control = (one.right.cpu() for one in training)
    change = 100 * (blend - control)  # (pictures,)
    mean = float(change.mean())
    width = 1.96 * float(change.var(correction=0) / len(change)) ** 0.5
    settings, sizes = plan.settings, [len(plan.data.train), len(plan.data.val)]
    differs = [
        f"{key} {settings[key] or 'none'} for {value}"
        for key, value in PAPER.items()
        if key in settings and settings[key] != value
    ]
    return "\n".join(
        [
            "# Fine-tuning on pictures that Group-CAM blends (section 5)\n",
            f"{plan.network.name}, layer {plan.layer.name}, {sizes[0]} pictures for "
            f"training and {sizes[1]} for the tests, of {len(plan.data.classes)} "
            "classes. Top-1 in % before the training (epoch 0) and after each epoch; "
            "the paper's are of ResNet-50 on ImageNet.\n",
            *(f"{printable(note)}\n" for note in plan.data.notes),
            f"What differs from the paper: {', '.join(differs) or 'none known'}.\n",
            f"| epoch | {' | '.join(RUNS.values())} | printed in the paper |",
            "|---|---|---|---|",
            *table,
            f"\nWith the blend less the control run: {mean:+.2f} points, with a 95% "
            f"interval from {mean - width:+.2f} to {mean + width:+.2f} over the "
            "pictures, which both runs share; another seed may change more.\n",
            "The paper has no control run: what it gains is of the blend and of longer "
            "training together.\n",
        ]
    )
