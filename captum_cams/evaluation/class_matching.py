"""The outputs of a network that stand for the classes of a data set."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torchvision

from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.networks import Network

models: Any = torchvision.models  # its types leave out what is public

WNIDS = tuple(Path(__file__).with_name("wnids.txt").read_text("ascii").split())
"""The WordNet ids of ImageNet's 1000 classes, in the order of its networks' outputs."""


class Matched(NamedTuple):
    """The outputs of classes."""

    outputs: list[int | None]
    """One for each class; None where the network has none."""
    note: str = ""
    """A sentence for people, where that rests on no names."""


def match_classes(classes: Sequence[str], network: Network, outputs: int) -> Matched:
    """
    The output of each class, by the best evidence there is.

    Names decide where the network's are known, WordNet ids among them. Where they are
    not, folders that are numbers are the outputs of these numbers, and classes that
    are as many as the outputs are in their order.

    Args:
        classes (sequence of str): What the data set shows.
        network (Network): With the names of its outputs, where they are known.
        outputs (int): How many there are.

    Raises:
        UserError: If no class has an output.
    """
    names = network.classes if len(network.classes) == outputs else ()
    if names:
        found = _by_names(classes, names, network.wnids or _imagenet_wnids(names))
        if any(output is not None for output in found):
            return Matched(found)
    numbers = _numbers(classes, outputs)
    if numbers:
        return Matched(
            [*numbers],
            "The classes are numbers and were taken for those of the network's "
            f"outputs: {_shown(classes, numbers)}.",
        )
    if not names and len(classes) == outputs:
        return Matched(
            [*range(outputs)],
            "The names of the network's outputs are not known: classes are in their "
            f"order, {_shown(classes, range(outputs))}.",
        )
    known = f"such as {names[0]!r}" if names else "whose names are not known"
    raise UserError(
        f"{network.name} has {outputs} outputs, {known}, the data set {len(classes)} "
        f"classes such as {classes[0]!r}, and no name in common; give the names of the "
        "outputs in a file, --classes"
    )


def _imagenet_wnids(names: Sequence[str]) -> Sequence[str]:
    """The WordNet ids of outputs with torchvision's names of ImageNet's classes."""
    known = models.ResNet18_Weights.DEFAULT.meta["categories"]
    return WNIDS if list(names) == known else ()


def _shown(classes: Sequence[str], outputs: Sequence[int]) -> str:
    pairs = [
        f"{name} is output {at}" for name, at in zip(classes, outputs, strict=True)
    ]
    return ", ".join(pairs[:3] + ["..."] * (len(pairs) > 3))


def _by_names(
    classes: Sequence[str], names: Sequence[str], wnids: Sequence[str]
) -> list[int | None]:
    # Names that differ in case alone are two classes: exact ones come first.
    ways = _places(names), _places(map(_key, names)), _places(wnids)
    found: list[int | None] = []
    for name in classes:
        wnid = re.match(r"n\d{8}(?!\d)", name)
        keys = name, _key(name), wnid[0] if wnid else ""
        at = [way[key] for way, key in zip(ways, keys, strict=True) if key in way]
        # A name of several outputs, as ImageNet's crane, is of none.
        found.append(at[0][0] if at and len(at[0]) == 1 else None)
    return found


def _places(words: Iterable[str]) -> Mapping[str, list[int]]:
    places: dict[str, list[int]] = {}
    for at, word in enumerate(words):
        places.setdefault(word, []).append(at)
    return places


def _key(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def _numbers(classes: Sequence[str], outputs: int) -> list[int]:
    """The classes as numbers from 0, or nothing."""
    if not all(name.isdecimal() for name in classes):
        return []
    numbers = [int(name) for name in classes]
    if sorted(numbers) == [*range(1, outputs + 1)]:  # counted from 1
        numbers = [number - 1 for number in numbers]
    unique = len({*numbers}) == len(numbers)
    return numbers if unique and max(numbers) < outputs else []
