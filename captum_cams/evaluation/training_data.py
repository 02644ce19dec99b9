"""The pictures that a network is trained and tested on."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision.transforms.v2
from torch import Tensor
from torch.utils.data import Dataset

from captum_cams.evaluation.class_matching import match_classes
from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.folders import class_folders
from captum_cams.evaluation.networks import Network
from captum_cams.evaluation.papers import FINE_TUNING, SETTINGS
from captum_cams.evaluation.pictures import check_pixels, open_picture, transforms
from captum_cams.evaluation.processes import seeded
from captum_cams.examples import CLASSES, shape_pictures

v2: Any = torchvision.transforms.v2  # its types leave out what is public

PAPER: dict[str, Any] = {s.what: s.value for s in SETTINGS if s.paper == FINE_TUNING}
"""What the paper says of the fine-tuning."""
PARTS = {"train": 128, "val": 256}
"""The parts of a data set, and how many shapes are drawn where no others are given."""


class TrainingData(NamedTuple):
    """Pictures, or their files, with the indices of their classes, and their names."""

    train: Sequence[tuple[Any, int]]
    val: Sequence[tuple[Any, int]]
    classes: Mapping[int, str]
    notes: Sequence[str] = ()
    """Sentences on what was left out, and on how classes and outputs were matched."""


def open_training_data(root: str | Path | None, size: int) -> TrainingData:
    """
    The folders ``train`` and ``val`` of `root`, or shapes of a size where it is None.

    Raises:
        UserError: If they do not hold a folder for each class, the same in both.
    """
    if root is None:
        # Not the seeds of the pictures that the network was trained on.
        try:
            drawn = [
                shape_pictures(count, size, seed=10**8 + number)
                for number, count in enumerate(PARTS.values())
            ]
        except ValueError as error:
            raise UserError(str(error)) from error
        parts = [[*zip(one.images, one.labels.tolist(), strict=True)] for one in drawn]
        return TrainingData(parts[0], parts[1], dict(enumerate(CLASSES)))
    try:
        train, val = (class_folders(Path(root) / part) for part in PARTS)
    except UserError as error:
        raise UserError(
            "root must hold the folders train and val, each with a folder of pictures "
            f"for each class: {error}"
        ) from error
    if others := sorted({*train.classes} ^ {*val.classes}):
        raise UserError(
            f"{root}/train and {root}/val must hold the same classes, but only one of "
            f"them has {others[0]}"
        )
    notes = [
        f"Of {part}: {note}"
        for part, folders in zip(PARTS, (train, val), strict=True)
        for note in folders.notes
    ]
    return TrainingData(train.files, val.files, dict(enumerate(train.classes)), notes)


def match_outputs(data: TrainingData, network: Network, outputs: int) -> TrainingData:
    """
    The pictures with the network's outputs for their classes.

    Raises:
        UserError: If a class has none.
    """
    matched = match_classes([*data.classes.values()], network, outputs)
    targets: list[int] = []
    for name, output in zip(data.classes.values(), matched.outputs, strict=True):
        if output is None:
            raise UserError(f"{network.name} has no output for the class {name!r}")
        targets.append(output)
    train, val = (
        [(picture, targets[label]) for picture, label in part]
        for part in (data.train, data.val)
    )
    classes = dict(zip(targets, data.classes.values(), strict=True))
    notes = [*data.notes, *filter(None, [matched.note])]
    return TrainingData(train, val, classes, notes)


def files_digest(pictures: Sequence[tuple[Any, int]]) -> str | None:
    """Of files' paths, sizes and classes: to read them all would take long."""
    total = hashlib.sha256()
    for path, label in pictures:
        if not isinstance(path, Path):
            return None
        total.update(
            f"{path} {path.stat().st_size} {label}\n".encode("utf-8", "replace")
        )
    return total.hexdigest()


class Pictures(Dataset[tuple[Tensor, int]]):
    """
    Pictures in [0, 1] as they are tested, or as an epoch of training sees them.

    Each is drawn by a seed of its own, whichever process reads it.
    """

    def __init__(
        self, pictures: Sequence[Any], size: int, seeds: tuple[int, int] | None = None
    ) -> None:
        self.pictures = pictures
        self.size = size
        self.seeds = seeds  # of the run, and the epoch
        self.augment = v2.Compose(
            [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        """The picture (3, size, size) and its class, or why there is none."""
        side, crop = PAPER["shorter side and crop in tests"]
        side = round(self.size * side / crop)
        picture, label = self.pictures[index]
        if isinstance(picture, Path):
            path = picture
            try:
                picture = open_picture(path).image
            except UserError as error:
                return error  # raised in another process, it comes with a traceback
            try:
                check_pixels(picture, side, "crop")
            except UserError as error:
                return UserError(f"cannot read {path}: {error}")
        if self.seeds is None:
            picture = transforms.resize(picture, [side])
            picture = transforms.center_crop(picture, [self.size])
        else:
            with seeded(hash((*self.seeds, index)), torch.device("cpu")):
                picture = self.augment(picture)
        image = transforms.to_image(picture).as_subclass(Tensor)
        return transforms.to_dtype(image, torch.float32, scale=True), label


def collate(samples: list[Any]) -> Any:
    """A batch of pictures and classes, or why there is none."""
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels)
