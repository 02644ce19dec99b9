"""Files of pictures, and the boxes on them, brought to a network's size."""

import math
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from captum_cams._lettering import escaped, is_drawn
from captum_cams.evaluation.errors import UserError

transforms: Any = functional  # its types know tensors alone
tensors: Any = tv_tensors  # its types leave out what is public

RESIZE = ("squash", "crop")
"""How a picture of any sides is made square, see :func:`resize_picture`."""


def open_picture(path: str | Path) -> Any:
    """
    A picture of PIL in RGB, its pixels as they are stored.

    Boxes of annotations refer to these, whichever way the camera was held.

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
                image.info = file.info  # with EXIF, which says what is up
            return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise all kinds
        reason = getattr(error, "strerror", None) or "not a picture, or a broken one"
        raise UserError(f"cannot read {path}: {reason}") from error


def printable(text: str) -> str:
    r"""
    One line that is what it looks like, for a terminal, a report or a table.

    Names of files and classes may hold anything. Line breaks, sequences that command a
    terminal, marks without width or that turn the direction of writing, and bytes that
    are no Unicode are escaped, such as ``\x1b``.
    """
    if text.isprintable():  # almost always, and known at once
        return text
    return "".join(one if is_drawn(one) else escaped(one) for one in text)


def read_picture(path: str | Path, size: int, resize: str) -> Tensor:
    """The upright picture in [0, 1], (3, size, size); `resize` is of :data:`RESIZE`."""
    return resize_picture(ImageOps.exif_transpose(open_picture(path)), size, resize)


def resize_picture(image: Any, size: int, resize: str) -> Tensor:
    """
    A picture of any sides as a square one.

    Pixels are interpolated by Pillow's bilinear filter, which is antialiased: what
    torchvision's ``Resize`` does to a picture of PIL.

    Args:
        image: A picture of PIL, in RGB.
        size (int): Pixels along each side of the result.
        resize (str): ``squash``: both sides to `size`, as torchvision's
            ``Resize((size, size))``; ``crop``: the shorter side to `size`, of which
            the central square is kept.

    Returns:
        *Tensor* in [0, 1], (3, size, size).
    """
    pixels: Tensor = transforms.pil_to_tensor(_squared(image, size, resize))
    return pixels.float() / 255  # (3, size, size)


def resize_boxes(
    boxes: Tensor, stored: tuple[int, int], size: int, resize: str
) -> Tensor:
    """
    The boxes on a picture after :func:`resize_picture`, clipped to it.

    Args:
        boxes (Tensor): (n, 4), the edges x0, y0, x1, y1 in pixels of the stored
            picture, x1 and y1 exclusive.
        stored (tuple of int): Height and width of the stored picture.
        size (int): As for the picture.
        resize (str): Likewise.

    Returns:
        *Tensor* in the same form, (m, 4), m <= n: the boxes of which something is left.
    """
    there = tensors.BoundingBoxes(boxes.float(), format="XYXY", canvas_size=stored)
    edges: Tensor = _squared(there, size, resize).as_subclass(Tensor).clamp(0, size)
    left = (edges[:, 2] > edges[:, 0]) & (edges[:, 3] > edges[:, 1])  # (n,)
    return edges[left]  # (m, 4)


def _squared(one: Any, size: int, resize: str) -> Any:
    """A picture of PIL or its boxes, of which torchvision treats both alike."""
    if resize == "squash":
        return transforms.resize(one, [size, size])
    return transforms.center_crop(transforms.resize(one, [size]), [size])


def covered_share(boxes: Tensor, stored: tuple[int, int]) -> float:
    """
    The share of a picture's area in the union of boxes.

    Args:
        boxes (Tensor): As for :func:`resize_boxes`; what lies outside of the picture
            does not count.
        stored (tuple of int): Height and width of the picture.

    Returns:
        *float* in [0, 1]: of the area, without rounding to pixels.
    """
    height, width = stored
    x = boxes[:, 0::2].double().clamp(0, width)  # (n, 2), left and right
    y = boxes[:, 1::2].double().clamp(0, height)  # (n, 2), top and bottom
    # No edge runs through a cell of the grid that all edges make.
    columns, in_columns = _cells(x)  # (X,), (n, X)
    rows, in_rows = _cells(y)  # (Y,), (n, Y)
    covered = (in_rows.T @ in_columns).clamp(max=1)  # (Y, X)
    return float(rows @ covered @ columns) / (height * width)


def _cells(ends: Tensor) -> tuple[Tensor, Tensor]:
    """Widths of the cells between neighboring ends, and which intervals hold them."""
    edges = ends.flatten().sort().values  # (X + 1,)
    starts = edges[:-1]  # (X,)
    inside = (ends[:, :1] <= starts) & (starts < ends[:, 1:])  # (n, X)
    return edges.diff(), inside.double()


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
    return check_box(*(float(texts[side]) for side in ("xmin", "ymin", "xmax", "ymax")))


def check_box(x0: float, y0: float, x1: float, y1: float) -> tuple[float, ...]:
    """The edges; ValueError if they are those of no box. A box may be empty."""
    edges = (x0, y0, x1, y1)
    if not (all(map(math.isfinite, edges)) and x0 <= x1 and y0 <= y1):
        raise ValueError(
            f"a box has the edges {', '.join(map(str, edges))}, which must be finite "
            "and in the order left, top, right, bottom"
        )
    return edges
