"""Files of pictures, and the boxes on them, brought to a network's size."""

from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from captum_cams.evaluation.errors import UserError

transforms: Any = functional  # its types know tensors alone
tensors: Any = tv_tensors  # its types leave out what is public


def open_picture(path: str | Path) -> Any:
    """
    A picture of PIL in RGB, its pixels as they are stored.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with Image.open(path) as file:
            file.load()
            image: Image.Image = file
            if file.mode == "I" or file.mode.startswith("I;16"):
                # Pillow would cut 16 bits off at 255, and leave almost all white.
                gray = np.asarray(file) // 256
                image = Image.fromarray(gray.clip(0, 255).astype(np.uint8))
            return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise all kinds
        reason = getattr(error, "strerror", None) or "not a picture, or a broken one"
        raise UserError(f"cannot read {path}: {reason}") from error


def printable(text: str) -> str:
    """A text whose bytes that are no Unicode, as files' names may have, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_picture(path: str | Path, size: int) -> Tensor:
    """The upright picture's central square in [0, 1], (3, size, size)."""
    return crop_square(ImageOps.exif_transpose(open_picture(path)), size)[0]


def crop_square(
    image: Any, size: int, boxes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """
    The central square of a picture, and what of its boxes lies inside.

    Args:
        image: A picture of PIL, in RGB.
        size (int): Pixels along each side of the result. The picture is resized to so
            many along its shorter side, then cropped.
        boxes (Tensor, optional): (n, 4), the edges x0, y0, x1, y1 in the picture's
            pixels, x1 and y1 exclusive. Default: None, no boxes

    Returns:
        **pixels** in [0, 1], (3, size, size), and **boxes** in the same form, (m, 4),
        m <= n: those of which the crop leaves something.
    """
    edges = torch.zeros(0, 4) if boxes is None else boxes.float()
    there = tensors.BoundingBoxes(
        edges, format="XYXY", canvas_size=(image.height, image.width)
    )
    there = transforms.center_crop(transforms.resize(there, [size]), [size])
    seen = (there[:, 2] > there[:, 0]) & (there[:, 3] > there[:, 1])  # (n,)
    image = transforms.center_crop(transforms.resize(image, [size]), [size])
    pixels = transforms.pil_to_tensor(image).float() / 255  # (3, size, size)
    return pixels, there.as_subclass(Tensor)[seen]  # (m, 4)


def read_annotation(path: str | Path) -> list[tuple[str, tuple[float, ...]]]:
    """
    The objects of an annotation in PASCAL VOC's XML, which ImageNet has too.

    Document types are refused, and with them entities of a file's own: expanded, they
    could fill the memory.

    Args:
        path (str or Path): A file ``<annotation>``.

    Returns:
        *list* of **name** and **box** (xmin, ymin, xmax, ymax), as they are written, of
        each ``<object>`` in the order of the file.

    Raises:
        UserError: If the file is not such a one.
    """
    parser = expat.ParserCreate()
    where: list[str] = []
    objects: list[dict[str, str]] = []

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type, which is refused")

    def start(tag: str, _: object) -> None:
        where.append(tag)
        if where == ["annotation", "object"]:
            objects.append({})

    def text(data: str) -> None:
        # Not those of an object's parts, such as the hands and feet of a person.
        if where[1:-1] in (["object"], ["object", "bndbox"]):
            objects[-1][where[-1]] = objects[-1].get(where[-1], "") + data

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: where.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(Path(path).read_bytes(), True)
        return [(one["name"].strip(), _box(one)) for one in objects]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except KeyError as error:
        raise UserError(f"cannot read {path}: an object has no {error}") from error
    except (expat.ExpatError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _box(texts: dict[str, str]) -> tuple[float, ...]:
    sides = ("xmin", "ymin", "xmax", "ymax")
    box = tuple(float(texts[side]) for side in sides)
    if not (0 <= box[0] < box[2] < 1e6 and 0 <= box[1] < box[3] < 1e6):
        raise ValueError(f"a box has the edges {', '.join(map(str, box))}")
    return box
