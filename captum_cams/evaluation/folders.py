"""Folders that hold a folder of pictures for each class."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from captum_cams.evaluation.errors import UserError

_MOST_NAMES = 5


class ClassFolders(NamedTuple):
    """Pictures by class."""

    classes: list[str]
    """Names of the folders that hold pictures, sorted."""
    files: list[tuple[Path, int]]
    """Each picture with the index of its class, sorted."""
    notes: list[str]
    """Sentences on what was left out."""


def class_folders(root: Path) -> ClassFolders:
    """
    The pictures in the folders of `root`, and in the folders of these.

    What begins with a dot, and ``__MACOSX``, is a tool's own and no class or picture;
    other files than pictures, by their names' ends, are left out and counted.

    Raises:
        UserError: If there are none, or a folder cannot be read.
    """
    found: dict[str, list[Path]] = {}
    others: Counter[str] = Counter()
    links: list[str] = []
    try:
        here = sorted(root.iterdir())
        folders = [path for path in here if path.is_dir()]
        hidden = [path.name for path in folders if _is_hidden(path.name)]
        for folder in folders:
            if not _is_hidden(folder.name):
                found[folder.name] = sorted(pictures_below(folder, others, links))
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    beside = [path.name for path in here if path.is_file() and is_picture(path)]
    classes = [name for name, files in found.items() if files]
    if not classes:
        raise UserError(
            f"root must hold a folder of pictures for each class, and {root} has "
            + (f"{len(beside)} pictures but none in a folder" if beside else "none")
        )
    notes = [
        text + f"left out: {_listed(names)}."
        for text, names in (
            ("Folders without a picture were ", [n for n in found if n not in classes]),
            ("Hidden folders were ", hidden),
            ("Pictures outside of the classes' folders were ", beside),
            ("Links to a folder that they are in were ", links),
        )
        if names
    ]
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        notes.append(
            f"Files that are no pictures by their names were left out: {kinds}."
        )
    files = [(path, at) for at, name in enumerate(classes) for path in found[name]]
    return ClassFolders(classes, files, notes)


def pictures_below(
    folder: Path, others: Counter[str], links: list[str]
) -> Iterator[Path]:
    """
    The pictures in a folder and in the folders of it, by their names' ends.

    Args:
        folder (Path): Where to look, following links.
        others (Counter): Where other files are counted, by their kind.
        links (list of str): Where links to a folder that they are in are added.

    Raises:
        OSError: If a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise error

    for name, inside, files in os.walk(folder, onerror=stop, followlinks=True):
        here, real = Path(name), os.path.realpath(name)
        for one in [*inside]:
            leads_to = os.path.realpath(here / one)
            back = os.path.commonpath([leads_to, real]) == leads_to
            if back:
                links.append(str(here / one))
            if back or _is_hidden(one):
                inside.remove(one)
        for one in files:
            if _is_hidden(one):
                continue
            if is_picture(here / one):
                yield here / one
            else:
                others[Path(one).suffix.lower() or one] += 1


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def is_picture(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.suffix.lower() in IMG_EXTENSIONS and not _is_hidden(path.name)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join([*names][:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
