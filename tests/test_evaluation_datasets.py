import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision import models, transforms

from captum_cams.evaluation import batches, evaluate, pictures
from captum_cams.evaluation.annotations import read_annotation
from captum_cams.evaluation.class_matching import WNIDS, match_classes
from captum_cams.evaluation.datasets import open_dataset
from captum_cams.evaluation.networks import Network
from captum_cams.evaluation.pictures import (
    RESIZE,
    covered_share,
    open_picture,
    read_picture,
    resize_boxes,
    resize_picture,
)
from captum_cams.examples import CLASSES


def annotation(*objects, before="", size=None):
    """Of names, boxes, and for some a 1 that marks them as difficult."""
    boxes = "".join(
        f"<object><name>{name}</name><difficult>{mark[0] if mark else 0}</difficult>"
        "<part><name>hand</name><bndbox><xmin>0</xmin>"
        "</bndbox></part><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box, *mark in objects
    )
    width, height = size or (0, 0)
    written = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"{before}<annotation>{written}{boxes}</annotation>"


def picture(path, width=40, height=20, box=(0, 0, 0, 0)):
    """Black, with a white box."""
    image = Image.new("RGB", (width, height))
    if box[2]:
        image.paste((255, 255, 255), box)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def edges_of(white):
    """The box around the pixels that are so, (H, W)."""
    rows, columns = white.any(1).nonzero(), white.any(0).nonzero()
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [int(edge) for edge in found]


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (30, 30)])
def test_boxes_follow_the_picture(width, height, resize):
    box = (12, 8, 18, 16)
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), box)
    pixels = resize_picture(image, 60, resize)
    (seen,) = resize_boxes(torch.tensor([box]), (height, width), 60, resize)
    assert seen.tolist() == pytest.approx(edges_of(pixels[0] > 0.5))


BOXES = [[12, 4, 40, 20], [0, 0, 8, 20], [16, 8, 20, 12], [-4, 16, 60, 30]]
BOXES += [[3, 4, 3, 9], [41, 2, 50, 9]]  # empty, and outside


def test_a_box_by_hand():
    """40 x 20 to 30 x 15 (times 3/4), of which the columns 7.5 to 22.5 are left."""
    seen = resize_boxes(torch.tensor(BOXES), (20, 40), 15, "crop")
    # torchvision starts the crop at column 8, the even one of 7 and 8.
    assert seen.tolist() == [[1, 3, 15, 15], [4, 6, 7, 9], [0, 12, 15, 15]]


def test_a_squashed_box_by_hand():
    """40 x 20 to 10 x 10: a quarter of the columns and half of the rows."""
    seen = resize_boxes(torch.tensor(BOXES), (20, 40), 10, "squash")
    whole = [[3, 2, 10, 10], [0, 0, 2, 10], [4, 4, 5, 6], [0, 8, 10, 10]]
    assert seen.tolist() == whole


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 30), (7, 5), (16, 16)])
def test_pixels_are_those_of_torchvisions_transforms(width, height):
    noise = torch.randint(256, (height, width, 3), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy())
    wanted = {
        "squash": [transforms.Resize((16, 16))],
        "crop": [transforms.Resize(16), transforms.CenterCrop(16)],
    }
    assert set(wanted) == set(RESIZE)
    for resize, steps in wanted.items():
        steps = transforms.Compose([*steps, transforms.ToTensor()])
        assert torch.equal(resize_picture(image, 16, resize), steps(image))


def test_the_share_in_boxes_is_that_of_a_count():
    """Edges are multiples of a quarter of a pixel, and each quarter is looked at."""
    generator = torch.Generator().manual_seed(0)
    for n in range(12):
        # Some stick out, some are empty, most overlap.
        corners = torch.randint(-8, 40, (n, 2, 2), generator=generator) / 4
        sides = torch.randint(0, 24, (n, 2), generator=generator) / 4
        boxes = torch.cat([corners[:, 0], corners[:, 0] + sides], 1)  # (n, 4)
        covered = 0
        for row in range(5 * 4):
            for column in range(7 * 4):
                x, y = (column + 0.5) / 4, (row + 0.5) / 4
                covered += any(
                    x0 < x < x1 and y0 < y < y1 for x0, y0, x1, y1 in boxes.tolist()
                )
        assert covered_share(boxes, (5, 7)) == covered / (5 * 7 * 16)
    assert covered_share(torch.tensor([[-9, -9, 99, 99]]), (5, 7)) == 1


def test_an_annotation_is_read(tmp_path):
    path = tmp_path / "a.xml"
    objects = [("cat", (1, 2, 3, 4)), ("dog", (5.5, 6, 7, 8))]
    path.write_text(annotation(*objects, ("cat", (5, 5, 6, 6), 1), size=(30, 20)))
    read = read_annotation(path)
    assert read.boxes == {"cat": [(1, 2, 3, 4)], "dog": [(5.5, 6, 7, 8)]}
    assert read.size == (30, 20)
    assert read.left_out == {"marked difficult": 1}


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width></size>"])
def test_an_annotation_without_a_size_says_nothing_of_it(size, tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation>{size}</annotation>")
    assert read_annotation(path).size is None


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (annotation(("&b;", (1, 2, 3, 4)), before=LAUGHS), "declares a document type"),
        (
            annotation(before='<!DOCTYPE x SYSTEM "file:///etc/passwd">'),
            "a document type",
        ),
        (annotation(("cat", (1, 2, 3, 4)))[:-13], "no element found"),
        ("\x00\x01", "not well-formed"),
        (annotation(("cat", (1, 2, 3, "x"))), "could not convert string to float: 'x'"),
        (annotation(("cat", (3, 2, 1, 4))), "a box has the edges 3.0, 2.0, 1.0, 4.0"),
        (annotation(("cat", (1, 2, "nan", 4))), "a box has the edges 1.0, 2.0, nan"),
        (annotation(("cat", (1, 2, 3, "inf"))), "must be finite and in the order left"),
        ("<annotation><object><name>cat</name></object></annotation>", "has no 'xmin'"),
    ],
)
def test_an_annotation_that_is_none(text, words, tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cannot read .*a.xml: ") as error:
        read_annotation(path)
    assert words in str(error.value)


def voc(root, *objects, of=None):
    """The annotation of a picture that is there: names, and boxes as ours are."""
    base = root / "VOCdevkit/VOC2007"
    written = [
        (name, (x0 + 1, y0 + 1, x1, y1), *mark)
        for name, (x0, y0, x1, y1), *mark in objects
    ]
    (base / "Annotations").mkdir(exist_ok=True)
    (base / "Annotations/1.xml").write_text(annotation(*written, size=of))
    (base / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (base / "ImageSets/Main/test.txt").write_text("1\n")


def voc_data(root, size, *objects, resize="squash", of=None):
    """A picture of a size, and its annotation, which may be `of` another size."""
    picture(root / "VOCdevkit/VOC2007/JPEGImages/1.jpg", *size)
    voc(root, *objects, of=of)
    return open_dataset("voc", root, resize=resize)


def coco_data(root, size, *objects, resize="squash", of=None, name="1.jpg"):
    pytest.importorskip("pycocotools")
    picture(root / "val2017/1.jpg", *size)
    names = list(dict.fromkeys(name for name, *_ in objects))
    width, height = of or (None, None)
    content = {
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "categories": [{"id": at, "name": name} for at, name in enumerate(names)],
        "annotations": [
            {
                "id": at,
                "image_id": 1,
                "category_id": names.index(name),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": mark[0] if mark else 0,
            }
            for at, (name, (x0, y0, x1, y1), *mark) in enumerate(objects)
        ],
    }
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations/instances_val2017.json"
    path.write_text(json.dumps(content))
    return open_dataset("coco", root, resize=resize)


def imagenet_data(root, size, *objects, resize="squash", of=None):
    name = "ILSVRC2012_val_00000001"
    picture(root / f"Data/CLS-LOC/val/{name}.JPEG", *size)
    (root / "Annotations/CLS-LOC/val").mkdir(parents=True, exist_ok=True)
    path = root / f"Annotations/CLS-LOC/val/{name}.xml"
    path.write_text(annotation(*objects, size=of))
    (root / "labels.csv").write_text(f"picture,class\n{name}.JPEG,3\n")
    return open_dataset("imagenet", root, labels=root / "labels.csv", resize=resize)


KINDS = [voc_data, coco_data, imagenet_data]


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("data_of", KINDS)
def test_a_second_box_counts_where_a_crop_hides_it(data_of, resize, tmp_path):
    """Of 40 x 20 a crop keeps the columns 10 to 30."""
    objects = [("dog", (12, 0, 28, 10)), ("cat", (0, 0, 8, 20))]
    sample = data_of(tmp_path, (40, 20), *objects, resize=resize).load(0, 20)
    assert sample.stored_boxes == 2
    seen = sum(map(len, sample.boxes.values()))
    assert seen == {"crop": 1, "squash": 2}[resize]
    # Those of both boxes together where they are of one class.
    shares = {160 / 800, 160 / 800} if len(sample.boxes) == 2 else {320 / 800}
    assert set(sample.stored_shares.values()) == shares
    assert sample.stored_shares.keys() == sample.boxes.keys()


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("data_of", KINDS)
def test_a_box_of_48_percent_stays_so_where_a_crop_enlarges_it(
    data_of, resize, tmp_path
):
    """Of 100 x 50 a crop keeps the columns 25 to 75, and the box fills 96% of them."""
    objects = [("dog", (26, 0, 74, 50))]
    sample = data_of(tmp_path, (100, 50), *objects, resize=resize).load(0, 50)
    assert [*sample.stored_shares.values()] == [0.48]
    (((x0, _, x1, _),),) = sample.boxes.values()
    assert x1 - x0 == {"crop": 48, "squash": 24}[resize]


@pytest.mark.parametrize("data_of", KINDS)
def test_boxes_that_overlap_or_stick_out_count_once_and_inside(data_of, tmp_path):
    objects = [("dog", (-4, 0, 20, 10)), ("dog", (10, 5, 60, 10))]
    sample = data_of(tmp_path, (40, 20), *objects, resize="squash").load(0, 20)
    assert sample.stored_boxes == 2
    assert [*sample.stored_shares.values()] == [(20 * 10 + 20 * 5) / 800]
    (boxes,) = sample.boxes.values()
    assert boxes.tolist() == [[0, 0, 10, 10], [5, 5, 20, 10]]


@pytest.mark.parametrize("data_of", [coco_data, imagenet_data])
def test_an_empty_box_is_counted_and_covers_nothing(data_of, tmp_path):
    objects = [("dog", (4, 4, 4, 9)), ("dog", (0, 0, 40, 2))]
    sample = data_of(tmp_path, (40, 20), *objects, resize="squash").load(0, 20)
    assert sample.stored_boxes == 2
    assert [*sample.stored_shares.values()] == [0.1]
    assert [*map(len, sample.boxes.values())] == [1]


def test_a_box_of_voc_may_be_one_pixel_wide(tmp_path):
    """Its edges are pixels, both of which belong to it."""
    data = voc_data(tmp_path, (40, 20), ("dog", (4, 0, 5, 20)), resize="squash")
    assert [*data.load(0, 20).stored_shares.values()] == [1 / 40]


@pytest.mark.parametrize("data_of", KINDS)
@pytest.mark.parametrize("box", [(9, 2, 3, 4), (1, 2, 3, float("nan"))])
def test_what_is_no_box_is_refused_everywhere(data_of, box, tmp_path):
    data = data_of(tmp_path, (40, 20), ("dog", box), resize="squash")
    with pytest.raises(
        ValueError, match=r"a box has the edges .*, which must be finite"
    ):
        data.load(0, 20)


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("kind", ["RGB", "L", "P", "RGBA", "CMYK", "I;16", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_boxes_lie_on_the_object_of_a_turned_photograph(
    orientation, kind, resize, tmp_path
):
    """Annotations refer to pixels as they are stored, which EXIF turns upright."""
    box = (12, 8, 18, 16)
    path = picture(tmp_path / "VOCdevkit/VOC2007/JPEGImages/1.jpg")
    white = np.zeros((20, 40), np.uint16)
    white[8:16, 12:18] = 255
    if kind == "I;16":
        image = Image.fromarray(white * 257)
    else:
        mode = "RGB" if kind == "TIFF" else kind
        image = Image.fromarray(white.astype(np.uint8)).convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    written = {"CMYK": "JPEG", "TIFF": "TIFF"}.get(kind, "PNG")
    image.save(path, written, exif=exif)
    voc(tmp_path, ("dog", box))
    sample = open_dataset("voc", tmp_path, resize=resize).load(0, 60)
    ((seen,),) = sample.boxes.values()
    assert seen.tolist() == pytest.approx(edges_of(sample.picture[0] > 0.5))
    assert [*sample.stored_shares.values()] == [6 * 8 / 800]
    read = open_picture(path)
    assert read.stored == (40, 20)
    upright = ImageOps.exif_transpose(Image.open(path)).size
    assert (
        read.image.size == upright == ((20, 40) if 5 <= orientation <= 8 else (40, 20))
    )


@pytest.mark.parametrize("resize", RESIZE)
def test_filters_get_what_is_stored(resize, tmp_path, monkeypatch):
    objects = [("dog", (12, 0, 28, 10)), ("cat", (0, 0, 8, 20))]
    voc_data(tmp_path, (40, 20), *objects, resize=resize)
    made, candidate = [], batches.Candidate

    def watched(*values, **named):
        made.append(candidate(*values, **named))
        return made[-1]

    monkeypatch.setattr(batches, "Candidate", watched)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 20)
    )
    chosen = {"methods": ["grad-cam"], "metrics": ["heatmap_mean"], "layers": ["0"]}
    chosen |= {"dataset": "voc", "root": tmp_path, "model": model, "size": 20}
    records = evaluate(tmp_path / "out", resize=resize, **chosen)
    assert records.run["settings"]["resize"] == resize
    assert {(one.boxes, one.share) for one in made} == {(2, 160 / 800)}


def test_shapes_have_one_box_and_its_share():
    sample = open_dataset("shapes", limit=1).load(0, 64)
    (((x0, y0, x1, y1),),) = sample.boxes.values()
    assert sample.stored_boxes == 1
    (share,) = sample.stored_shares.values()
    assert share == (x1 - x0) * (y1 - y0) / 64**2
    assert set(sample.boxes) == set(sample.stored_shares) <= set(range(len(CLASSES)))


def test_voc(tmp_path):
    base = tmp_path / "VOCdevkit/VOC2007"
    for name in ("000001", "000002"):
        picture(base / f"JPEGImages/{name}.jpg", 20, 20)
    (base / "Annotations").mkdir()
    objects = [
        ("dog", (1, 1, 10, 20)),
        ("cat", (3, 5, 20, 20)),
        ("dog", (11, 1, 20, 2)),
    ]
    (base / "Annotations/000001.xml").write_text(annotation(*objects))
    (base / "Annotations/000002.xml").write_text(annotation(("unicorn", (1, 1, 2, 2))))
    (base / "ImageSets/Main").mkdir(parents=True)
    (base / "ImageSets/Main/test.txt").write_text("000001\n000002\n")
    data = open_dataset("voc", tmp_path)
    assert list(data.names) == ["000001.jpg", "000002.jpg"]
    boxes = {
        data.classes[at]: box.tolist() for at, box in data.load(0, 20).boxes.items()
    }
    assert boxes == {
        "cat": [[2, 4, 20, 20]],
        "dog": [[0, 0, 10, 20], [10, 0, 20, 2]],
    }
    with pytest.raises(ValueError, match=r"000002.xml has the class 'unicorn'"):
        data.load(1, 20)


def test_coco(tmp_path):
    pytest.importorskip("pycocotools")
    for number in (1, 2):
        picture(tmp_path / f"val2017/{number}.jpg", 20, 20)
    box = {"iscrowd": 0, "area": 4, "image_id": 1}
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2)],
        "categories": [{"id": 90, "name": "brush"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 1, "category_id": 90, "bbox": [2, 3, 4, 5], **box},
            {"id": 2, "category_id": 3, "bbox": [0, 0, 20, 20], **box},
        ],
    }
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations/instances_val2017.json"
    path.write_text(json.dumps(content))
    data = open_dataset("coco", tmp_path)
    assert list(data.classes) == ["car", "brush"]
    boxes = data.load(0, 20).boxes
    assert {at: box.tolist() for at, box in boxes.items()} == {
        0: [[0, 0, 20, 20]],
        1: [[2, 3, 6, 8]],
    }
    with pytest.raises(ValueError, match=r"2.jpg has no annotated object"):
        data.load(1, 20)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="not a file of COCO's instances"):
        open_dataset("coco", tmp_path)


def test_folder(tmp_path):
    picture(tmp_path / "star/b.png")
    picture(tmp_path / "disk/a.png")
    (tmp_path / "disk/broken.png").write_bytes(b"no picture")
    data = open_dataset("folder", tmp_path)
    assert list(data.classes) == ["disk", "star"]
    assert list(data.names) == ["disk/a.png", "disk/broken.png", "star/b.png"]
    sample = data.load(2, 10)
    assert sample.picture.shape == (3, 10, 10)
    assert {at: len(boxes) for at, boxes in sample.boxes.items()} == {1: 0}
    with pytest.raises(ValueError, match=r"cannot read .*broken.png: not a picture"):
        data.load(1, 10)
    assert not data.notes


@pytest.fixture
def imagenet(tmp_path):
    base = tmp_path / "ILSVRC"
    for name in ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"):
        picture(base / f"Data/CLS-LOC/val/{name}.JPEG", 20, 20)
        path = base / f"Annotations/CLS-LOC/val/{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(annotation((WNIDS[7], (0, 2, 20, 10))))
    return tmp_path


def test_imagenet_by_its_annotations(imagenet):
    for root in (imagenet, imagenet / "ILSVRC"):
        data = open_dataset("imagenet", root)
        assert len(data.names) == 2
        ((label, boxes),) = data.load(0, 20).boxes.items()
        assert (data.classes[label], boxes.tolist()) == (WNIDS[7], [[0, 2, 20, 10]])
    path = imagenet / "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml"
    path.write_text(annotation(("n00000007", (0, 2, 20, 10))))
    with pytest.raises(ValueError, match="names no class of ImageNet"):
        data.load(0, 20)


def test_imagenet_by_labels(imagenet):
    labels = imagenet / "labels.csv"
    labels.write_text("picture,class\nILSVRC2012_val_00000001.JPEG,12\n")
    data = open_dataset("imagenet", imagenet, labels=labels)
    assert list(data.load(0, 20).boxes) == [12]
    with pytest.raises(ValueError, match=r"has no line for ILSVRC2012_val_00000002"):
        data.load(1, 20)
    labels.write_text("picture,class\nILSVRC2012_val_00000002.JPEG,3\n", "utf-8-sig")
    data = open_dataset("imagenet", imagenet, labels=labels)  # as Excel writes it
    assert list(data.load(1, 20).boxes) == [3]


def test_a_data_set_that_is_not_there(tmp_path):
    for name, words in {
        "voc": r"needs .*2007.* or .*2012.*, which is not there",
        "coco": r"needs .*instances_val2017.json or ",
        "imagenet": r"needs .*\*.JPEG, and finds none",
        "folder": "a folder of pictures for each class, and .* has none",
    }.items():
        with pytest.raises(ValueError, match=words):
            open_dataset(name, tmp_path)
        with pytest.raises(ValueError, match="needs a root"):
            open_dataset(name)
    with pytest.raises(ValueError, match="root must be a folder"):
        open_dataset("voc", tmp_path / "none")
    with pytest.raises(ValueError, match="is drawn and has no root"):
        open_dataset("shapes", tmp_path)
    for name, option in (("imagenet", "split"), ("folder", "split"), ("voc", "labels")):
        with pytest.raises(ValueError, match=rf"^{option} (is|are) for dataset"):
            open_dataset(name, tmp_path, **{option: "train"})


def test_shapes_are_others_for_another_seed_and_the_same_for_the_same():
    one, same, other = (
        open_dataset("shapes", limit=3, seed=s).load(2, 64).picture for s in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.skipif(
    "CAPTUM_CAMS_REAL" not in os.environ, reason="needs CAPTUM_CAMS_REAL"
)
def test_real_pictures():
    real = Path(os.environ["CAPTUM_CAMS_REAL"])
    data = open_dataset("imagenet", real / "ILSVRC", labels=real / "labels.csv")
    sample = data.load(data.names.index("ILSVRC2012_val_00000361.JPEG"), 227)
    assert list(sample.boxes) == [300]
    assert len(sample.boxes[300]) == 1


@pytest.mark.parametrize("data_of", KINDS)
def test_marked_boxes_are_left_out_and_counted(data_of, tmp_path):
    objects = [("dog", (0, 0, 20, 10)), ("dog", (20, 0, 40, 20), 1)]
    sample = data_of(tmp_path, (40, 20), *objects).load(0, 20)
    mark = "iscrowd" if data_of is coco_data else "difficult"
    assert sample.left_out == {f"marked {mark}": 1}
    assert sample.stored_boxes == 1
    assert [*sample.stored_shares.values()] == [0.25]


@pytest.mark.parametrize("data_of", [voc_data, coco_data])
def test_a_picture_of_marked_boxes_alone_is_none(data_of, tmp_path):
    data = data_of(tmp_path, (40, 20), ("dog", (0, 0, 20, 10), 1))
    with pytest.raises(ValueError, match=r"has no annotated object but 1 marked "):
        data.load(0, 20)


@pytest.mark.parametrize("data_of", KINDS)
@pytest.mark.parametrize("of", [(80, 40), (20, 10), (40, 20), (81, 40), None])
def test_boxes_of_a_resized_picture_are_scaled(data_of, of, tmp_path):
    times = 1 if of is None else of[1] / 20
    box = tuple(times * edge for edge in (8, 4, 16, 12))
    sample = data_of(tmp_path, (40, 20), ("dog", box), of=of).load(0, 40)
    ((seen,),) = sample.boxes.values()
    assert seen.tolist() == pytest.approx([8, 8, 16, 24], abs=0.25)


@pytest.mark.parametrize("data_of", KINDS)
@pytest.mark.parametrize("of", [(20, 20), (20, 40), (40, 25), (4, 3)])
def test_boxes_of_a_cropped_picture_are_lost(data_of, of, tmp_path):
    data = data_of(tmp_path, (40, 20), ("dog", (1, 1, 3, 3)), of=of)
    words = rf"is of {of[0]} x {of[1]} pixels, and the picture has 40 x 20, which are"
    with pytest.raises(ValueError, match=words):
        data.load(0, 20)


@pytest.mark.parametrize("of", [(20, 40), (40, 80)])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_on_the_upright_picture_are_known_by_its_proportions(
    orientation, of, tmp_path
):
    data = coco_data(tmp_path, (40, 20), ("dog", (2, 4, 6, 12)), of=of)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(tmp_path / "val2017/1.jpg", exif=exif)
    ((seen,),) = data.load(0, 40).boxes.values()
    times = 20 / of[0]
    assert seen.tolist() == [4 * times, 4 * times, 12 * times, 12 * times]


@pytest.mark.parametrize("name", ["../val2017/1.jpg", "/etc/hostname", "a/../../1.jpg"])
def test_paths_stay_in_the_data_sets_folder(name, tmp_path):
    data = coco_data(tmp_path, (40, 20), ("dog", (2, 4, 6, 12)), name=name)
    with pytest.raises(ValueError, match="leads out of the data set's folder"):
        data.load(0, 20)


def test_lists_of_voc_stay_in_its_folder(tmp_path):
    voc_data(tmp_path, (40, 20), ("dog", (2, 4, 6, 12)))
    base = tmp_path / "VOCdevkit/VOC2007"
    (base / "ImageSets/Main/test.txt").write_text("../JPEGImages/1\n")
    with pytest.raises(ValueError, match="leads out of the data set's folder"):
        open_dataset("voc", tmp_path).load(0, 20)


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_tables_of_labels_as_spreadsheets_write_them(between, imagenet):
    labels = imagenet / "labels.csv"
    names = [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2, 3)]
    rows = [("file", "note", "class_index"), *((name, "", 4) for name in names)]
    text = "\r\n".join(between.join(map(str, row)) for row in rows)
    labels.write_text(text, "utf-8-sig")
    data = open_dataset("imagenet", imagenet, labels=labels)
    assert [*data.load(1, 20).boxes] == [4]
    assert list(data.notes) == [
        "1 pictures that labels.csv names are not there, the first in line 4."
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must have a header with the columns picture and class, got $"),
        ("a,b\n1,2\n", "got 'a', 'b'$"),
        ("x.JPEG;3\ny.JPEG;4\n", "got 'x.JPEG', '3'$"),
        ("picture,class\nx.JPEG\n", "line 2 of labels .* got 'x.JPEG'$"),
        ("picture,class\nx.JPEG,3\ny.JPEG,tench\n", "line 3 .* got 'y.JPEG,tench'$"),
    ],
)
def test_tables_that_hold_no_labels(text, words, imagenet):
    labels = imagenet / "labels.csv"
    labels.write_text(text)
    with pytest.raises(ValueError, match=words):
        open_dataset("imagenet", imagenet, labels=labels)


def test_a_picture_with_two_labels_has_none(imagenet):
    labels = imagenet / "labels.csv"
    name = "ILSVRC2012_val_00000001.JPEG"
    labels.write_text(f"picture,class\n{name},3\n{name},3\n")
    data = open_dataset("imagenet", imagenet, labels=labels)
    assert [*data.load(0, 20).boxes] == [3]
    labels.write_text(f"picture,class\n{name},3\n\n{name},5\n")
    data = open_dataset("imagenet", imagenet, labels=labels)
    words = r"has two classes for .*: 3 in line 2, 5 in line 4"
    with pytest.raises(ValueError, match=words):
        data.load(0, 20)


def test_what_is_no_class_and_no_picture_is_told(tmp_path):
    for name in ("cat/1.png", "cat/more/2.PNG", "dog/3.png", "4.png"):
        picture(tmp_path / name)
    for name in (".ipynb_checkpoints/1.png", "__MACOSX/cat/1.png", "cat/._1.png"):
        picture(tmp_path / name)
    for name in ("empty", "texts"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts/a.txt").write_text("")
    (tmp_path / "cat/a.json").write_text("")
    (tmp_path / "cat/more/back").symlink_to(tmp_path / "cat")
    (tmp_path / "dog/all").symlink_to(tmp_path)
    data = open_dataset("folder", tmp_path)
    assert list(data.classes) == ["cat", "dog"]
    assert list(data.names) == ["cat/1.png", "cat/more/2.PNG", "dog/3.png"]
    assert [*data.load(2, 10).boxes] == [1]
    assert list(data.notes) == [
        "Folders without a picture were left out: empty, texts.",
        "Hidden folders were left out: .ipynb_checkpoints, __MACOSX.",
        "Pictures outside of the classes' folders were left out: 4.png.",
        "Links to a folder that they are in were left out: "
        f"{tmp_path}/cat/more/back, {tmp_path}/dog/all.",
        "Files that are no pictures by their names were left out: 1 .json, 1 .txt.",
    ]


def test_a_link_to_another_folder_of_pictures_is_followed(tmp_path):
    picture(tmp_path / "elsewhere/1.png")
    (tmp_path / "data/cat").mkdir(parents=True)
    (tmp_path / "data/cat/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/dog").symlink_to(tmp_path / "elsewhere")
    data = open_dataset("folder", tmp_path / "data")
    assert list(data.names) == ["cat/more/1.png", "dog/1.png"]


def test_pictures_without_folders_are_no_classes(tmp_path):
    picture(tmp_path / "1.png")
    with pytest.raises(ValueError, match="has 1 pictures but none in a folder"):
        open_dataset("folder", tmp_path)


def net(names):
    return Network("net", nn.Identity(), names)


IMAGENET = models.ResNet18_Weights.DEFAULT.meta["categories"]


@pytest.mark.parametrize(
    ("classes", "names", "outputs", "found"),
    [
        (["disk", "ring", "star"], ["star", "disk", "ring"], 3, [1, 2, 0]),
        (["Polar-Bear", "polar_bear"], ["polar bear", "Polar-Bear"], 2, [1, None]),
        (["cat", "unicorn"], ["dog", "cat"], 2, [1, None]),
        (["n01443537", "n15075141_tissue"], IMAGENET, 1000, [1, 999]),
        (["tench", "n01440764"], IMAGENET, 1000, [0, 0]),
        (["a", "c"], ["a", "b", "a", "c"], 4, [None, 3]),
        (["Cardigan", "cardigan"], IMAGENET, 1000, [264, 474]),
        (["0", "1", "10", "2"], (), 11, [0, 1, 10, 2]),
        (["1", "10", *"23456789"], (), 10, [0, 9, *range(1, 9)]),
        (["000", "007"], IMAGENET, 1000, [0, 7]),
        (["b", "a"], (), 2, [0, 1]),
    ],
)
def test_classes_are_matched_by_the_best_evidence(classes, names, outputs, found):
    matched = match_classes(classes, net(names), outputs)
    assert matched.outputs == found
    assert bool(matched.note) == (not names or classes[0] == "000")


def test_all_of_imagenet_in_folders_by_name_or_id():
    by_name = match_classes(sorted(IMAGENET), net(IMAGENET), 1000).outputs
    assert [IMAGENET[output] for output in by_name] == sorted(IMAGENET)
    by_id = match_classes(WNIDS[::-1], net(IMAGENET), 1000).outputs
    assert by_id == [*range(999, -1, -1)]


@pytest.mark.parametrize(
    ("classes", "names", "outputs"),
    [(["a", "b"], ["c", "d"], 2), (["a", "b"], (), 3), (["5", "7"], (), 3)],
)
def test_classes_without_outputs_are_refused(classes, names, outputs):
    with pytest.raises(ValueError, match=r"no name in common; give .* --classes"):
        match_classes(classes, net(names), outputs)


def saved(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *itertools.product(("RGBA", "LA"), ("png", "tif", "webp")),
        *((mode, "png") for mode in ("P", "L", "RGB", "I;16")),
    ],
)
def test_what_is_transparent_is_white(mode, suffix, tmp_path):
    """A black and a white half, of which the right half is transparent."""
    path = tmp_path / f"a.{suffix}"
    gray = np.zeros((4, 4), np.uint8)
    gray[2:] = 204
    alpha = np.full((4, 4), 255, np.uint8)
    alpha[:, 2:] = 0
    wanted = gray.copy()
    wanted[:, 2:] = 255
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(gray).convert(mode)
        image.putalpha(Image.fromarray(alpha))
        if (mode, suffix) == ("LA", "webp"):
            image = image.convert("RGBA")
        options = {"lossless": True, "exact": True} if suffix == "webp" else {}
        image.save(path, **options)
    else:  # one color or number is transparent
        gray[:, 2:] = 102
        image = Image.fromarray(gray)
        if mode == "I;16":
            image = Image.fromarray(gray.astype(np.uint16) * 257)
        elif mode != "L":
            image = image.convert("RGB").convert(mode)
        key = {"RGB": (102, 102, 102), "I;16": 102 * 257, "L": 102}.get(mode)
        if key is None:
            key = image.getpixel((3, 3))
        image.save(path, transparency=key)
    read = open_picture(path).image
    assert read.mode == "RGB"
    assert np.abs(np.asarray(read)[..., 0] - wanted.astype(int)).max() <= 1


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_without_a_white_are_refused(kind, tmp_path):
    values = np.linspace(0, 1, 16).reshape(4, 4).astype(kind)
    path = saved(tmp_path / "a.tif", values)
    with pytest.raises(ValueError, match="nothing says which number is white; save it"):
        open_picture(path)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "it is empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is a HEIC picture; make a PNG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mif1heic", "it is a video"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'></svg>", "it is an SVG drawing"),
        (b"<svg width='3'>", "it is an SVG drawing"),
        (b"%PDF-1.4", "it is a PDF document"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"noise", "of a format that Pillow knows, or a broken one"),
    ],
)
def test_other_files_are_called_what_they_are(start, words, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(start)
    with pytest.raises(ValueError, match=f"^cannot read .*a.jpg: .*{words}"):
        open_picture(path)


def test_a_broken_picture_is_told_from_none(tmp_path):
    path = tmp_path / "a.png"
    saved(path, np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"a broken one \(OSError: .*truncated"):
        open_picture(path)


@pytest.mark.parametrize("resize", RESIZE)
def test_a_long_picture_is_not_made_huge(resize, tmp_path):
    path = tmp_path / "a.png"
    Image.new("1", (60000, 1)).save(path)
    assert path.stat().st_size < 300
    if resize == "squash":
        assert read_picture(path, 224, resize).shape == (3, 224, 224)
        words = "make 99999 x 99999 of them, more than .*; give a smaller size"
        with pytest.raises(ValueError, match=words):
            read_picture(path, 99999, resize)
        return
    words = "60000 x 1 pixels would make 13440000 x 224 .* --resize squash makes fewer"
    with pytest.raises(ValueError, match=words):
        read_picture(path, 224, resize)


def test_a_picture_of_too_many_pixels_is_called_so(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("1", (40, 40)).save(path)
    monkeypatch.setattr(pictures.Image, "MAX_IMAGE_PIXELS", 1000)
    assert open_picture(path).image.size == (40, 40)  # no warning either
    monkeypatch.setattr(pictures.Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(ValueError, match="more than 178956970 pixels; make it smaller"):
        open_picture(path)
