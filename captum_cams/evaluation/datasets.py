"""
Data sets: pictures, the classes they show, and where.

Boxes are x0, y0, x1, y1 in pixels, x1 and y1 exclusive. PASCAL VOC counts pixels from
1 and includes the last, so its boxes begin one pixel earlier than they are written;
ImageNet's and COCO's are taken as they are.
"""

import contextlib
import hashlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor

from captum_cams._validation import check_choice, check_count
from captum_cams.evaluation.annotations import (
    Annotation,
    positive_size,
    read_annotation,
)
from captum_cams.evaluation.class_matching import WNIDS
from captum_cams.evaluation.errors import UserError, brief_error
from captum_cams.evaluation.folders import class_folders
from captum_cams.evaluation.labels import read_labels
from captum_cams.evaluation.pictures import (
    covered_share,
    file_digest,
    open_picture,
    place_boxes,
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
    digest: str
    """As of :attr:`DataSet.digest`."""
    left_out: Mapping[str, int] = MappingProxyType({})
    """Boxes of the annotation that are not used, by the reason."""


class DataSet(NamedTuple):
    """Pictures by number, read when their turn comes."""

    names: Sequence[str]
    """One for each picture, to be shown."""
    classes: Sequence[str]
    """What its pictures show; empty where they are labeled by a network's outputs."""
    load: Callable[[int, int], Sample]
    """The sample of a number at a size; UserError says why there is none."""
    digest: Callable[[int], str]
    """Of the picture's file and its annotation: another one is another example."""
    notes: Sequence[str] = ()
    """Sentences on what was left out."""


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
        labels (str or Path, optional): ``imagenet``: a table with a header and the
            columns ``picture`` (or ``file``) and ``class`` (or ``class_index``), its
            index in the network's output; between them are commas, semicolons or tabs.
            Default: None, by the annotations' WordNet ids
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
        boxes, shares = {label: drawn.boxes}, {label: share}
        return Sample(drawn.images[0], boxes, 1, shares, digest(index))

    def digest(index: int) -> str:
        return f"drawn by {seed}, {index}"

    return DataSet([f"shape {i}" for i in range(count)], CLASSES, load, digest)


class _Files(NamedTuple):
    """Pictures in files, and how their annotations are found."""

    names: Sequence[str]
    paths: Sequence[str | Path]
    annotation: Callable[[int], Annotation[int]]
    evidence: Callable[[int], str]
    """What the annotation is read from, as text or as a digest."""

    def data_set(
        self, classes: Sequence[str], resize: str, notes: Sequence[str] = ()
    ) -> DataSet:
        def load(index: int, size: int) -> Sample:
            try:
                annotation = self.annotation(index)
                return _sample(
                    self.paths[index], size, resize, annotation, digest(index)
                )
            except UserError:
                raise
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"the annotation of {self.names[index]} is broken: "
                    f"{brief_error(error)}"
                ) from error

        def digest(index: int) -> str:
            picture, evidence = file_digest(self.paths[index]), self.evidence(index)
            return hashlib.sha256(f"{picture} {evidence}".encode()).hexdigest()[:32]

        return DataSet(self.names, classes, load, digest, notes)


def _folder(root: Path, resize: str) -> DataSet:
    classes, files, notes = class_folders(root)
    names = [str(path.relative_to(root)) for path, _ in files]
    return _Files(
        names,
        [path for path, _ in files],
        lambda index: Annotation({files[index][1]: []}),
        lambda index: classes[files[index][1]],
    ).data_set(classes, resize, notes)


def _voc(root: Path, split: str, resize: str) -> DataSet:
    year, _, images = split.partition("-")
    try:
        found = vision.VOCDetection(root, year, images)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot open VOC {split} in {root}: {error}") from error
    names = [Path(path).name for path in found.images]

    def annotation(index: int) -> Annotation[int]:
        _check_inside(Path(found.images[index]), root)
        read = read_annotation(found.annotations[index])
        boxes: dict[int, list[tuple[float, ...]]] = {}
        for name, edges in read.boxes.items():
            if name not in VOC_CLASSES:
                raise UserError(f"{found.annotations[index]} has the class {name!r}")
            boxes[VOC_CLASSES.index(name)] = [
                (x0 - 1, y0 - 1, x1, y1) for x0, y0, x1, y1 in edges
            ]
        return Annotation(boxes, read.size, read.left_out)

    def evidence(index: int) -> str:
        return file_digest(found.annotations[index])

    files = _Files(names, found.images, annotation, evidence)
    return files.data_set(VOC_CLASSES, resize)


def _coco(root: Path, split: str, resize: str) -> DataSet:
    annotations = root / "annotations" / f"instances_{split}.json"
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it talks
            found = vision.CocoDetection(root / split, annotations)
        coco, numbers = found.coco, found.ids
        categories = sorted(coco.cats)
        classes = [str(coco.cats[number]["name"]) for number in categories]
        names = [str(coco.imgs[number]["file_name"]) for number in numbers]
    except ImportError as error:
        raise UserError(
            "dataset coco needs pycocotools; pip install 'captum-cams[coco]' brings it"
        ) from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{annotations} is not a file of COCO's instances: {brief_error(error)}"
        ) from error
    paths = [root / split / name for name in names]

    def annotation(index: int) -> Annotation[int]:
        _check_inside(paths[index], root / split)
        of_picture = coco.imgs[numbers[index]]
        size = positive_size(of_picture.get("width"), of_picture.get("height"))
        read: Annotation[int] = Annotation(size=size)
        for one in coco.imgToAnns[numbers[index]]:
            x, y, width, height = map(float, one["bbox"])
            label = categories.index(one["category_id"])
            crowd = "iscrowd" if one.get("iscrowd") else ""
            read.add(label, (x, y, x + width, y + height), crowd)
        return read

    def evidence(index: int) -> str:
        number = numbers[index]
        return repr((coco.imgs[number], coco.imgToAnns[number]))

    return _Files(names, paths, annotation, evidence).data_set(classes, resize)


def _check_inside(path: Path, folder: Path) -> None:
    """Whether a path that an annotation gives lies in the data set's folder."""
    if ".." in path.parts or not path.is_relative_to(folder):
        raise UserError(f"its path {path} leads out of the data set's folder")


def _imagenet(root: Path, labels: str | Path | None, resize: str) -> DataSet:
    base = root / "ILSVRC" if (root / "ILSVRC").is_dir() else root
    pictures = base / "Data/CLS-LOC/val"
    annotations = base / "Annotations/CLS-LOC/val"
    files = sorted(pictures.glob("[!.]*.JPEG"))
    if not files:
        raise UserError(f"dataset imagenet needs {pictures}/*.JPEG, and finds none")
    names = [path.name for path in files]
    listed = None if labels is None else read_labels(Path(labels))
    xml = [annotations / f"{path.stem}.xml" for path in files]

    def annotation(index: int) -> Annotation[int]:
        read = read_annotation(xml[index])
        if listed is not None:
            label = listed.of(names[index])
        else:
            wnid = next(iter(read.boxes), None)
            if wnid not in WNIDS:
                raise UserError(f"{xml[index]} names no class of ImageNet")
            label = WNIDS.index(wnid)
        edges = list(itertools.chain(*read.boxes.values()))
        return Annotation({label: edges}, read.size, read.left_out)

    notes = [] if listed is None else listed.notes(names)
    if others := sum(1 for _ in pictures.iterdir()) - len(files):
        notes.append(f"Other files than *.JPEG among the pictures: {others}, left out.")
    found = _Files(names, files, annotation, lambda index: file_digest(xml[index]))
    return found.data_set(WNIDS if listed is None else (), resize, notes)


def _sample(
    path: str | Path,
    size: int,
    resize: str,
    annotation: Annotation[int],
    digest: str,
) -> Sample:
    """The picture and its boxes at a size, and what is stored of them."""
    if not annotation.boxes:
        marked = [f"{count} {why}" for why, count in annotation.left_out.items()]
        but = f" but {', '.join(marked)}" if marked else ""
        raise UserError(f"{Path(path).name} has no annotated object{but}")
    picture = open_picture(path)
    shape = picture.image.height, picture.image.width
    try:
        placed = {
            label: place_boxes(
                torch.tensor(annotation.boxes[label], dtype=torch.float64).view(-1, 4),
                annotation.size,
                picture,
            )  # (n, 4)
            for label in sorted(annotation.boxes)
        }
        pixels = resize_picture(picture.image, size, resize)
    except UserError as error:
        raise UserError(f"{Path(path).name}: {error}") from error
    return Sample(
        pixels,
        {at: resize_boxes(rows, shape, size, resize) for at, rows in placed.items()},
        sum(map(len, placed.values())),
        {at: covered_share(rows, shape) for at, rows in placed.items()},
        digest,
        annotation.left_out,
    )
