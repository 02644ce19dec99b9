"""
Annotations: the classes that a picture shows, and the boxes around them.

One rule for all data sets: an object marked as difficult or as a crowd is left out and
counted; an annotation with anything else that cannot be used is refused as a whole, as
its picture would be judged by half of the truth.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar
from xml.parsers import expat

from captum_cams.evaluation.errors import UserError

Label = TypeVar("Label", str, int)


@dataclass
class Annotation(Generic[Label]):
    """What is known of a picture."""

    boxes: dict[Label, list[tuple[float, ...]]] = field(default_factory=dict)
    """For each class that it shows the boxes around it, x0, y0, x1, y1; there may be
    none."""
    size: tuple[int, int] | None = None
    """Width and height of the pixels that the boxes are in, if it says so."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Boxes that are not used, by the reason."""

    def add(self, label: Label, edges: Sequence[float], mark: str = "") -> None:
        """
        A box of a class, or one that is left out for a mark on it.

        Raises:
            ValueError: If the edges are those of no box. A box may be empty.
        """
        x0, y0, x1, y1 = edges
        if not (all(map(math.isfinite, edges)) and x0 <= x1 and y0 <= y1):
            raise ValueError(
                f"a box has the edges {', '.join(map(str, edges))}, which must be "
                "finite and in the order left, top, right, bottom"
            )
        if mark:
            self.left_out[f"marked {mark}"] += 1
        else:
            self.boxes.setdefault(label, []).append(tuple(edges))


def positive_size(width: object, height: object) -> tuple[int, int] | None:
    """A size as an annotation gives it; some tools write 0 where they know none."""
    try:
        size = int(str(width)), int(str(height))
    except ValueError:
        return None
    return size if min(size) > 0 else None


def read_annotation(path: str | Path) -> Annotation[str]:
    """
    An annotation in PASCAL VOC's XML, which ImageNet has too.

    Document types are refused, and with them entities of a file's own: expanded, they
    could fill the memory.

    Args:
        path (str or Path): A file ``<annotation>``.

    Returns:
        **Annotation** by the objects' names, its boxes (xmin, ymin, xmax, ymax) as
        they are written.

    Raises:
        UserError: If the file is not such a one.
    """
    parser = expat.ParserCreate()
    where: list[str] = []
    size: dict[str, str] = {}
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
        elif where[1:-1] == ["size"]:
            size[where[-1]] = size.get(where[-1], "") + data

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: where.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(Path(path).read_bytes(), True)
        read: Annotation[str] = Annotation(
            size=positive_size(size.get("width"), size.get("height"))
        )
        for one in objects:
            edges = [float(one[side]) for side in ("xmin", "ymin", "xmax", "ymax")]
            difficult = one.get("difficult", "0").strip() not in ("", "0")
            read.add(one["name"].strip(), edges, "difficult" if difficult else "")
        return read
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except KeyError as error:
        raise UserError(f"cannot read {path}: an object has no {error}") from error
    except (expat.ExpatError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
