"""Files of pictures, and the boxes on them, brought to a network's size."""

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from captum_cams.evaluation.errors import UserError, brief_error

transforms: Any = functional  # its types know tensors alone
tensors: Any = tv_tensors  # its types leave out what is public

RESIZE = ("squash", "crop")
"""How a picture of any sides is made square, see :func:`resize_picture`."""
MOST_PIXELS = 178_956_970
"""Of a picture that is read or made: the limit beyond which Pillow reads none."""

_ORIENTATION = 0x0112  # a tag of EXIF
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_OTHER_FILES = {
    rb".{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)": "a HEIC picture",
    rb".{4}ftyp(avif|avis)": "an AVIF picture",
    rb".{4}ftyp": "a video",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL picture",
    rb"\s*(<\?xml.*)?<svg": "an SVG drawing",
    rb"%PDF": "a PDF document",
    rb"\s*<(!doctype html|html)": "a web page",
    rb"version https://git-lfs": "a pointer of Git LFS, not the file it stands for",
}
"""By how they begin: files that are taken for pictures, which Pillow may not read."""


class Picture(NamedTuple):
    """A picture as it is meant to be seen."""

    image: Any
    """Upright, of PIL in RGB."""
    stored: tuple[int, int]
    """Width and height of the pixels in the file."""
    orientation: int
    """Of EXIF, from 1 to 8: how these pixels are turned to be upright."""


def open_picture(path: str | Path) -> Picture:
    """
    A picture, turned as EXIF says, on white where it is transparent.

    Gray of 16 bits is read as such; numbers of which nothing says which is white are
    refused.

    Raises:
        UserError: If it cannot be read, with the reason.
    """
    try:
        with warnings.catch_warnings():
            # It warns of half the number of pixels that it refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                return _upright(file)
    except Exception as error:  # Pillow's decoders raise all kinds
        reason = _why_unreadable(path, error)
        raise UserError(f"cannot read {path}: {reason}") from error


def _upright(file: Any) -> Picture:
    orientation = _orientation(file)
    file.load()  # which turns a TIFF already
    image = _opaque(_eight_bits(ImageOps.exif_transpose(file)))
    stored = image.size[::-1] if orientation >= 5 else image.size
    return Picture(image, stored, orientation)


def _orientation(file: Any) -> int:
    found = file.getexif().get(_ORIENTATION)
    return found if found in range(1, 9) else 1


def _eight_bits(image: Any) -> Any:
    """Pillow would cut larger numbers off at 255, and leave almost all white."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise UserError(
            "its pixels are of 32 bits, and nothing says which number is white; save "
            "it with 8 or 16 bits"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        gray = (values // 256).clip(0, 255).astype(np.uint8)  # (H, W)
        gray[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(gray)
    return image


def _opaque(image: Any) -> Any:
    """In RGB, on white: what a transparent pixel hides is not to be explained."""
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _why_unreadable(path: str | Path, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MOST_PIXELS} pixels; make it smaller"
    with Path(path).open("rb") as file:
        start = file.read(1000)
    if not start:
        return "it is empty"
    for pattern, kind in _OTHER_FILES.items():
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return f"it is {kind}; make a PNG or JPEG file of it"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a format that Pillow knows, or a broken one"
    return f"not a picture, or a broken one ({brief_error(error)})"


def file_digest(path: str | Path) -> str:
    """Of a file's bytes; of one that cannot be read a word that says so."""
    total = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(2**20):
                total.update(block)
    except OSError:
        return "unreadable"
    return total.hexdigest()


def read_picture(path: str | Path, size: int, resize: str) -> Tensor:
    """The picture in [0, 1], (3, size, size); `resize` is one of :data:`RESIZE`."""
    image = open_picture(path).image
    try:
        return resize_picture(image, size, resize)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error


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

    Raises:
        UserError: If more than :data:`MOST_PIXELS` would be made on the way.
    """
    check_pixels(image, size, resize)
    pixels: Tensor = transforms.pil_to_tensor(_squared(image, size, resize))
    return pixels.float() / 255  # (3, size, size)


def check_pixels(image: Any, size: int, resize: str) -> None:
    """Whether :func:`resize_picture` makes no more than :data:`MOST_PIXELS`."""
    shorter, longer = sorted(image.size)
    length = size * longer // shorter if resize == "crop" else size
    if length * size > MOST_PIXELS:
        raise UserError(
            f"resizing {image.width} x {image.height} pixels would make {length} x "
            f"{size} of them, more than {MOST_PIXELS}; "
            + (
                "--resize squash makes fewer"
                if length > size
                else "give a smaller size"
            )
        )


def resize_boxes(
    boxes: Tensor, shape: tuple[int, int], size: int, resize: str
) -> Tensor:
    """
    The boxes on a picture after :func:`resize_picture`, clipped to it.

    Args:
        boxes (Tensor): (n, 4), the edges x0, y0, x1, y1 in pixels of the picture
            before, x1 and y1 exclusive.
        shape (tuple of int): Height and width of the picture before.
        size (int): As for the picture.
        resize (str): Likewise.

    Returns:
        *Tensor* in the same form, (m, 4), m <= n: the boxes of which something is left.
    """
    there = tensors.BoundingBoxes(boxes.float(), format="XYXY", canvas_size=shape)
    edges: Tensor = _squared(there, size, resize).as_subclass(Tensor).clamp(0, size)
    left = (edges[:, 2] > edges[:, 0]) & (edges[:, 3] > edges[:, 1])  # (n,)
    return edges[left]  # (m, 4)


def _squared(one: Any, size: int, resize: str) -> Any:
    """A picture of PIL or its boxes, of which torchvision treats both alike."""
    if resize == "squash":
        return transforms.resize(one, [size, size])
    return transforms.center_crop(transforms.resize(one, [size]), [size])


def place_boxes(
    boxes: Tensor, size: tuple[int, int] | None, picture: Picture
) -> Tensor:
    """
    The boxes of an annotation on the upright picture.

    The picture may have been resized, with the same proportions, since it was
    annotated. An annotation is of the pixels as they are stored, unless it has the
    proportions of the upright picture alone.

    Args:
        boxes (Tensor): (n, 4), in the pixels that the annotation is of.
        size (tuple of int, optional): Their width and height, as the annotation says;
            None, where it does not, for those of the file.
        picture (Picture): Which the boxes are of.

    Returns:
        *Tensor*, (n, 4).

    Raises:
        UserError: If the annotation is of other proportions.
    """
    size = size or picture.stored
    for canvas, orientation in (
        (picture.stored, picture.orientation),
        (picture.image.size, 1),
    ):
        width, height = canvas
        # The shorter side may have been rounded, by less than a pixel of the longer.
        if abs(width * size[1] - height * size[0]) < max(*size, *canvas):
            scale = boxes.new_tensor([width / size[0], height / size[1]]).repeat(2)
            return _turned(boxes * scale, canvas, orientation)
    raise UserError(
        f"its annotation is of {size[0]} x {size[1]} pixels, and the picture has "
        f"{picture.stored[0]} x {picture.stored[1]}, which are other proportions: "
        "where its boxes are is not known"
    )


def _turned(boxes: Tensor, canvas: tuple[int, int], orientation: int) -> Tensor:
    """Boxes on the stored pixels, (n, 4), as EXIF's orientation turns these."""
    width, height = canvas
    if orientation >= 5:
        boxes, width, height = boxes[:, [1, 0, 3, 2]], height, width
    x0, y0, x1, y1 = boxes.unbind(1)
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    return torch.stack([x0, y0, x1, y1], 1)  # (n, 4)


def covered_share(boxes: Tensor, shape: tuple[int, int]) -> float:
    """
    The share of a picture's area in the union of boxes.

    Args:
        boxes (Tensor): As for :func:`resize_boxes`; what lies outside of the picture
            does not count.
        shape (tuple of int): Height and width of the picture.

    Returns:
        *float* in [0, 1]: of the area, without rounding to pixels.
    """
    height, width = shape
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
