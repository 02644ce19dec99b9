"""Tables of pictures and their classes, in files as spreadsheets write them."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from captum_cams.evaluation.errors import UserError

_PICTURE = ("picture", "file")
_CLASS = ("class", "class_index")
_BETWEEN = ",;\t"


class Labels(NamedTuple):
    """The classes of pictures."""

    path: Path
    rows: dict[str, list[tuple[int, int]]]
    """For each picture the lines of the file that name it, and the class in each."""

    def of(self, picture: str) -> int:
        """
        The class of a picture.

        Raises:
            UserError: If it has none, or several.
        """
        rows = self.rows.get(picture)
        if not rows:
            raise UserError(f"{self.path} has no line for {picture}")
        for line, label in rows:
            if label != rows[0][1]:
                raise UserError(
                    f"{self.path} has two classes for {picture}: {rows[0][1]} in line "
                    f"{rows[0][0]}, {label} in line {line}"
                )
        return rows[0][1]

    def notes(self, pictures: Iterable[str]) -> list[str]:
        """A sentence on rows without a picture, if there are any."""
        there = {*pictures}
        lines = [rows[0][0] for name, rows in self.rows.items() if name not in there]
        if not lines:
            return []
        return [
            f"{len(lines)} pictures that {self.path.name} names are not there, the "
            f"first in line {lines[0]}."
        ]


def read_labels(path: Path) -> Labels:
    """
    A table with a header and columns of pictures and of their classes' numbers.

    Raises:
        UserError: If the file is not such a one, with the columns that were found.
    """
    labels = Labels(path, {})
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise UserError(f"cannot read labels {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"labels {path} must be a text file in UTF-8") from error
    between = max(_BETWEEN, key=(lines[0] if lines else "").count)
    rows = csv.reader(lines, delimiter=between)
    header = [name.strip() for name in next(rows, [])]
    places = [
        next((header.index(name) for name in names if name in header), None)
        for names in (_PICTURE, _CLASS)
    ]
    wanted = "must have a header with the columns picture and class"
    if None in places:
        raise UserError(f"labels {path} {wanted}, got {', '.join(map(repr, header))}")
    try:
        for row in filter(None, rows):
            picture, label = (
                row[place].strip() for place in places if place is not None
            )
            labels.rows.setdefault(picture, []).append((rows.line_num, int(label)))
    except (csv.Error, IndexError, ValueError) as error:
        raise UserError(
            f"line {rows.line_num} of labels {path} must have a picture and the number "
            f"of its class, the place in the network's output, got "
            f"{lines[rows.line_num - 1]!r}"
        ) from error
    return labels
