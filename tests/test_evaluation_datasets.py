import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as transforms

from captum_cams.evaluation.datasets import open_dataset
from captum_cams.evaluation.pictures import crop_square, read_annotation


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


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (30, 30)])
def test_boxes_follow_the_picture(width, height):
    box = (12, 8, 18, 16)
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), box)
    pixels, (seen,) = crop_square(image, 60, torch.tensor([box]))
    white = pixels[0] > 0.5  # (60, 60)
    rows, columns = white.any(1).nonzero(), white.any(0).nonzero()
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert seen.tolist() == [int(edge) for edge in found]


def test_a_box_by_hand():
    """40 x 20 to 30 x 15 (times 3/4), of which the columns 7.5 to 22.5 are left."""
    image = Image.new("RGB", (40, 20))
    boxes = torch.tensor([[12, 4, 40, 20], [0, 0, 8, 20], [16, 8, 20, 12]])
    pixels, seen = crop_square(image, 15, boxes)
    assert pixels.shape == (3, 15, 15)
    # torchvision starts the crop at column 8, the even one of 7 and 8.
    assert seen.tolist() == [[1, 3, 15, 15], [4, 6, 7, 9]]


def test_pixels_are_those_of_torchvisions_transforms():
    noise = torch.randint(256, (20, 30, 3), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy())
    wanted = transforms.center_crop(transforms.resize(image, [16]), [16])
    assert torch.equal(crop_square(image, 16)[0], transforms.to_tensor(wanted))


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
        ("<annotation><object><name>cat</name></object></annotation>", "has no 'xmin'"),
    ],
)
def test_an_annotation_that_is_none(text, words, tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cannot read .*a.xml: ") as error:
        read_annotation(path)
    assert words in str(error.value)


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
