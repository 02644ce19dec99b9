import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from captum_cams.evaluation import batches, evaluate
from captum_cams.evaluation.datasets import open_dataset
from captum_cams.evaluation.pictures import (
    RESIZE,
    covered_share,
    read_annotation,
    resize_boxes,
    resize_picture,
)
from captum_cams.examples import CLASSES


def annotation(*objects, before=""):
    boxes = "".join(
        f"<object><name>{name}</name><part><name>hand</name><bndbox><xmin>0</xmin>"
        "</bndbox></part><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box in objects
    )
    return f"{before}<annotation><size><width>3</width></size>{boxes}</annotation>"


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
    path.write_text(annotation(*objects))
    assert read_annotation(path) == objects


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


def voc(root, *objects):
    """The annotation of a picture that is there: names, and boxes as ours are."""
    base = root / "VOCdevkit/VOC2007"
    written = [(name, (x0 + 1, y0 + 1, x1, y1)) for name, (x0, y0, x1, y1) in objects]
    (base / "Annotations").mkdir(exist_ok=True)
    (base / "Annotations/1.xml").write_text(annotation(*written))
    (base / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (base / "ImageSets/Main/test.txt").write_text("1\n")


def voc_data(root, size, *objects, resize):
    picture(root / "VOCdevkit/VOC2007/JPEGImages/1.jpg", *size)
    voc(root, *objects)
    return open_dataset("voc", root, resize=resize)


def coco_data(root, size, *objects, resize):
    pytest.importorskip("pycocotools")
    picture(root / "val2017/1.jpg", *size)
    names = list(dict.fromkeys(name for name, _ in objects))
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "categories": [{"id": at, "name": name} for at, name in enumerate(names)],
        "annotations": [
            {
                "id": at,
                "image_id": 1,
                "category_id": names.index(name),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
            }
            for at, (name, (x0, y0, x1, y1)) in enumerate(objects)
        ],
    }
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations/instances_val2017.json"
    path.write_text(json.dumps(content))
    return open_dataset("coco", root, resize=resize)


def imagenet_data(root, size, *objects, resize):
    name = "ILSVRC2012_val_00000001"
    picture(root / f"Data/CLS-LOC/val/{name}.JPEG", *size)
    (root / "Annotations/CLS-LOC/val").mkdir(parents=True, exist_ok=True)
    path = root / f"Annotations/CLS-LOC/val/{name}.xml"
    path.write_text(annotation(*objects))
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
@pytest.mark.parametrize("kind", ["RGB", "L", "P", "RGBA", "CMYK", "I;16"])
def test_boxes_lie_on_the_object_of_a_turned_photograph(kind, resize, tmp_path):
    """Annotations refer to pixels as they are stored, whatever EXIF says."""
    box = (12, 8, 18, 16)
    path = picture(tmp_path / "VOCdevkit/VOC2007/JPEGImages/1.jpg")
    white = np.zeros((20, 40), np.uint16)
    white[8:16, 12:18] = 255
    if kind == "I;16":
        image = Image.fromarray(white * 257)
    else:
        image = Image.fromarray(white.astype(np.uint8)).convert("RGB").convert(kind)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    image.save(path, "JPEG" if kind == "CMYK" else "PNG", exif=exif)
    voc(tmp_path, ("dog", box))
    sample = open_dataset("voc", tmp_path, resize=resize).load(0, 60)
    ((seen,),) = sample.boxes.values()
    assert seen.tolist() == pytest.approx(edges_of(sample.picture[0] > 0.5))
    assert [*sample.stored_shares.values()] == [6 * 8 / 800]


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


@pytest.fixture
def imagenet(tmp_path):
    base = tmp_path / "ILSVRC"
    for name in ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"):
        picture(base / f"Data/CLS-LOC/val/{name}.JPEG", 20, 20)
        path = base / f"Annotations/CLS-LOC/val/{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(annotation(("n00000007", (0, 2, 20, 10))))
    return tmp_path


def test_imagenet_by_its_own_list(imagenet):
    wnids = [f"n{number:08}" for number in range(1000)]
    text = "\n".join(f"{wnid} some name, or two" for wnid in wnids)
    (imagenet / "LOC_synset_mapping.txt").write_text(text)
    for root in (imagenet, imagenet / "ILSVRC"):
        data = open_dataset("imagenet", root)
        assert len(data.names) == 2
        ((target, boxes),) = data.load(0, 20).boxes.items()
        assert (target, boxes.tolist()) == (7, [[0, 2, 20, 10]])


def test_imagenet_by_labels(imagenet):
    labels = imagenet / "labels.csv"
    with pytest.raises(ValueError, match=r"needs its 1000 classes: .* or give labels"):
        open_dataset("imagenet", imagenet)
    labels.write_text("picture,class\nILSVRC2012_val_00000001.JPEG,12\n")
    data = open_dataset("imagenet", imagenet, labels=labels)
    assert list(data.load(0, 20).boxes) == [12]
    with pytest.raises(ValueError, match=r"has no line for ILSVRC2012_val_00000002"):
        data.load(1, 20)
    labels.write_text("picture,class\nILSVRC2012_val_00000002.JPEG,3\n", "utf-8-sig")
    data = open_dataset("imagenet", imagenet, labels=labels)  # as Excel writes it
    assert list(data.load(1, 20).boxes) == [3]
    labels.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="with a header and the columns picture and"):
        open_dataset("imagenet", imagenet, labels=labels)


def test_a_data_set_that_is_not_there(tmp_path):
    for name, words in {
        "voc": r"needs .*2007.* or .*2012.*, which is not there",
        "coco": r"needs .*instances_val2017.json or ",
        "imagenet": r"needs .*\*.JPEG, and finds none",
        "folder": "a folder of pictures for each class",
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
