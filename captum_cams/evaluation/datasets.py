"""
Data sets: pictures, the classes they show, and where.

Boxes are x0, y0, x1, y1 in pixels, x1 and y1 exclusive. PASCAL VOC counts pixels from
1 and includes the last, so its boxes begin one pixel earlier than they are written;
ImageNet's and COCO's are taken as they are.
"""

import contextlib
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor

from captum_cams._validation import check_choice, check_count
from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.pictures import (
    check_box,
    covered_share,
    open_picture,
    read_annotation,
    resize_boxes,
    resize_picture,
)
from captum_cams.examples import CLASSES, shape_pictures

vision: Any = torchvision.datasets  # its types leave out what is public

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

SHAPES = 16
"""How many pictures of shapes there are without a limit."""


class Sample(NamedTuple):
    """A picture, and for each class that it shows the boxes around it."""

    picture: Tensor
    """(3, size, size) in [0, 1]."""
    boxes: Mapping[int, Tensor]
    """By the class' index in :attr:`DataSet.classes`, ascending; (n, 4) each, n may
    be 0."""
    stored_boxes: int
    """The number of boxes of all classes in the annotation, whatever is left of them
    on :attr:`picture`."""
    stored_shares: Mapping[int, float]
    """For each class the share of the area in its boxes, of the picture as stored."""


class DataSet(NamedTuple):
    """Pictures by number, read when their turn comes."""

    names: Sequence[str]
    """One for each picture, to be shown."""
    classes: Sequence[str]
    """What its pictures show; empty where they are labeled by a network's outputs."""
    load: Callable[[int, int], Sample]
    """The sample of a number at a size; UserError says why there is none."""


def open_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    labels: str | Path | None = None,
    limit: int | None = None,
    resize: str = "squash",
    seed: int = 0,
) -> DataSet:
    """
    A data set by its name.

    Args:
        name (str): One of :data:`DATASETS`.
        root (str or Path, optional): Its folder. Default: None, for ``shapes``
        split (str, optional): ``voc``: year and image set, such as ``2007-test``;
            ``coco``: such as ``val2017``. Default: None, the first of `SPLITS` there is
        labels (str or Path, optional): ``imagenet``: a CSV file with a header and the
            columns ``picture`` (or ``file``) and ``class`` (or ``class_index``): its
            index in the network's output. Default: None, by the wnids of the
            annotations, which ``LOC_synset_mapping.txt`` lists
        limit (int, optional): How many pictures ``shapes`` draws. Default: None
        resize (str): How pictures are made square: ``squash`` or ``crop``, see
            :func:`~captum_cams.evaluation.pictures.resize_picture`. Those of ``shapes``
            are square already. Default: ``squash``
        seed (int): Seed of the pictures of ``shapes``. Default: 0

    Raises:
        UserError: If its files are not there or not as they should be.
    """
    check_choice("dataset", name, DATASETS)
    if labels is not None and name != "imagenet":
        raise UserError(f"labels are for dataset imagenet alone, got dataset {name}")
    if split is not None and name not in SPLITS:
        raise UserError(
            f"split is for datasets {' and '.join(SPLITS)} alone, got dataset {name}"
        )
    if name == "shapes":
        if root is not None:
            raise UserError(f"dataset shapes is drawn and has no root, got {root}")
        return _shapes(SHAPES if limit is None else check_count("limit", limit), seed)
    if root is None:
        raise UserError(f"dataset {name} needs a root: the folder that holds it")
    if not Path(root).is_dir():
        raise UserError(f"root must be a folder, got {root}")
    if name == "imagenet":
        return _imagenet(Path(root), labels, resize)
    if name == "folder":
        return _folder(Path(root), resize)
    split = _split(name, Path(root), split)
    opened = _voc if name == "voc" else _coco
    return opened(Path(root), split, resize)


DATASETS = ("shapes", "imagenet", "voc", "coco", "folder")
SPLITS = {"voc": ("2007-test", "2012-val"), "coco": ("val2017", "val2014")}


def _split(name: str, root: Path, split: str | None) -> str:
    def listed(split: str) -> Path:
        if name == "coco":
            return root / "annotations" / f"instances_{split}.json"
        year, _, images = split.partition("-")
        return root / f"VOCdevkit/VOC{year}/ImageSets/Main/{images}.txt"

    candidates = SPLITS[name] if split is None else (split,)
    for candidate in candidates:
        if listed(candidate).is_file():
            return candidate
    wanted = " or ".join(str(listed(candidate)) for candidate in candidates)
    raise UserError(f"dataset {name} needs {wanted}, which is not there")


def _shapes(count: int, seed: int) -> DataSet:
    def load(index: int, size: int) -> Sample:
        # Not the seeds of the pictures that the network was trained on.
        drawn = shape_pictures(1, size, seed=(seed + 1) * 10**7 + index)
        label = int(drawn.labels)
        share = covered_share(drawn.boxes, (size, size))
        return Sample(drawn.images[0], {label: drawn.boxes}, 1, {label: share})

    return DataSet([f"shape {i}" for i in range(count)], CLASSES, load)


def _folder(root: Path, resize: str) -> DataSet:
    try:
        found = vision.ImageFolder(root)
    except FileNotFoundError as error:
        raise UserError(
            f"root must hold a folder of pictures for each class: {error}"
        ) from error

    def load(index: int, size: int) -> Sample:
        path, label = found.samples[index]
        return _sample(path, size, resize, {label: []})

    names = [str(Path(path).relative_to(root)) for path, _ in found.samples]
    return DataSet(names, found.classes, load)


def _voc(root: Path, split: str, resize: str) -> DataSet:
    year, _, images = split.partition("-")
    try:
        found = vision.VOCDetection(root, year, images)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot open VOC {split} in {root}: {error}") from error

    def load(index: int, size: int) -> Sample:
        boxes: dict[int, list[Sequence[float]]] = {}
        for name, (x0, y0, x1, y1) in read_annotation(found.annotations[index]):
            if name not in VOC_CLASSES:
                raise UserError(f"{found.annotations[index]} has the class {name!r}")
            box = (x0 - 1, y0 - 1, x1, y1)
            boxes.setdefault(VOC_CLASSES.index(name), []).append(box)
        return _sample(found.images[index], size, resize, boxes)

    return DataSet([Path(path).name for path in found.images], VOC_CLASSES, load)


def _coco(root: Path, split: str, resize: str) -> DataSet:
    annotations = root / "annotations" / f"instances_{split}.json"
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it talks
            found = vision.CocoDetection(root / split, annotations)
        coco, numbers = found.coco, found.ids
        categories = sorted(coco.cats)
        classes = [coco.cats[number]["name"] for number in categories]
        names = [coco.imgs[number]["file_name"] for number in numbers]
    except ImportError as error:
        raise UserError(
            "dataset coco needs pycocotools; pip install 'captum-cams[coco]' brings it"
        ) from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{annotations} is not a file of COCO's instances: "
            f"{type(error).__name__}: {error}"
        ) from error

    def load(index: int, size: int) -> Sample:
        boxes: dict[int, list[Sequence[float]]] = {}
        for one in coco.imgToAnns[numbers[index]]:
            try:
                x, y, width, height = map(float, one["bbox"])
                box = check_box(x, y, x + width, y + height)
                label = categories.index(one["category_id"])
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"the annotation of {names[index]} is broken: "
                    f"{type(error).__name__}: {error}"
                ) from error
            boxes.setdefault(label, []).append(box)
        return _sample(root / split / names[index], size, resize, boxes)

    return DataSet(names, classes, load)


def _imagenet(root: Path, labels: str | Path | None, resize: str) -> DataSet:
    base = root / "ILSVRC" if (root / "ILSVRC").is_dir() else root
    pictures = base / "Data/CLS-LOC/val"
    annotations = base / "Annotations/CLS-LOC/val"
    files = sorted(pictures.glob("*.JPEG"))
    if not files:
        raise UserError(f"dataset imagenet needs {pictures}/*.JPEG, and finds none")
    listed = None if labels is None else _labels(Path(labels))
    wnids = _wnids(base) if listed is None else {}

    def load(index: int, size: int) -> Sample:
        path = files[index]
        annotation = annotations / f"{path.stem}.xml"
        objects = read_annotation(annotation)
        if listed is not None:
            if path.name not in listed:
                raise UserError(f"{labels} has no line for {path.name}")
            label = listed[path.name]
        else:
            if not objects or objects[0][0] not in wnids:
                raise UserError(f"{annotation} names no class of ImageNet")
            label = wnids[objects[0][0]]
        return _sample(path, size, resize, {label: [box for _, box in objects]})

    return DataSet([path.name for path in files], (), load)


def _wnids(base: Path) -> dict[str, int]:
    """The 1000 classes, in the order of their wnids."""
    for folder in (base, base.parent):
        mapping = folder / "LOC_synset_mapping.txt"
        if mapping.is_file():
            lines = mapping.read_text("utf-8", "replace").splitlines()
            wnids = sorted(line.split()[0] for line in lines if line.strip())
            break
    else:
        mapping = base / "Data/CLS-LOC/train"
        wnids = sorted(path.name for path in mapping.glob("n*"))
    if len(wnids) != 1000:
        raise UserError(
            f"dataset imagenet needs its 1000 classes: LOC_synset_mapping.txt or the "
            f"folders of Data/CLS-LOC/train in {base}, or give labels, a CSV file"
        )
    return {wnid: index for index, wnid in enumerate(wnids)}


def _labels(path: Path) -> dict[str, int]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        header = rows[0].keys() if rows else ()
        picture = "picture" if "picture" in header else "file"
        label = "class" if "class" in header else "class_index"
        return {row[picture]: int(row[label]) for row in rows}
    except OSError as error:
        raise UserError(f"cannot read labels {path}: {error.strerror}") from error
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"labels {path} must be a CSV file with a header and the columns picture "
            f"and class, the class' place in the network's output, got "
            f"{type(error).__name__}: {error}"
        ) from error


def _sample(
    path: str | Path,
    size: int,
    resize: str,
    boxes: Mapping[int, Sequence[Sequence[float]]],
) -> Sample:
    """The picture and its boxes at a size, and what is stored of them."""
    if not boxes:
        raise UserError(f"{Path(path).name} has no annotated object")
    image = open_picture(path)
    shape = image.height, image.width
    stored = {
        label: torch.tensor(boxes[label], dtype=torch.float64).reshape(-1, 4)  # (n, 4)
        for label in sorted(boxes)
    }
    return Sample(
        resize_picture(image, size, resize),
        {at: resize_boxes(rows, shape, size, resize) for at, rows in stored.items()},
        sum(map(len, stored.values())),
        {at: covered_share(rows, shape) for at, rows in stored.items()},
    )
