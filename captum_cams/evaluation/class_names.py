"""The names of a network's outputs, from a file."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.networks import Network

_FORMS = (
    'a name for each output, one a line, or in JSON a list or {"0": name, "1": name, '
    "...}"
)


def name_outputs(network: Network, path: str | Path, outputs: int) -> Network:
    """
    The network with the names of its outputs that a file holds.

    A file has one name a line, or is in JSON: a list, or a mapping of the outputs'
    numbers. In place of a name JSON may have a pair of WordNet's id and the name, as
    ImageNet's usual file does. Lines that all begin with such an id are named by what
    follows it, up to the first comma, as of ``n01440764 tench, Tinca tinca``.

    Args:
        network (Network): Whose outputs are named.
        path (str or Path): Of the file, in UTF-8.
        outputs (int): How many the network has.

    Raises:
        UserError: If the file cannot be read, or has not a name for each output.
    """
    names, wnids = _split(_read(path))
    for number, name in enumerate(names, start=1):
        if not name:
            raise UserError(f"classes {path} must hold {_FORMS}; number {number} is ''")
    if len(names) != outputs:
        raise UserError(
            f"classes {path} must hold a name for each of the {outputs} outputs of "
            f"{network.name}, in their order, got {len(names)}"
        )
    return network._replace(classes=names, wnids=wnids)


def _read(path: str | Path) -> list[Any]:
    """Names, or pairs of an id and a name."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig").strip()
    except OSError as error:
        raise UserError(f"cannot read classes {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read classes {path}: not text in UTF-8; save it as such"
        ) from error
    if not text.startswith(("[", "{")):
        return [line.strip() for line in text.split("\n")] if text else []
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = [found[str(number)] for number in range(len(found))]
    except (KeyError, ValueError) as error:
        raise UserError(f"classes {path} must hold {_FORMS}") from error
    for one in found:
        words = one if isinstance(one, list) and len(one) == 2 else [one]
        if not all(isinstance(word, str) for word in words):
            raise UserError(
                f"classes {path} must hold {_FORMS}, got {one!r} among them"
            )
    return list(found)


def _split(entries: Sequence[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names, and the ids of WordNet where all have one."""
    pairs = []
    for entry in entries:
        if isinstance(entry, list):
            pairs.append(entry)
        elif found := re.fullmatch(r"(n\d{8})(?:\s+(.*))?", entry):
            name, _, _ = (found[2] or found[1]).partition(",")
            pairs.append([found[1], name.strip()])
    if len(pairs) < len(entries):
        return tuple(entries), ()
    wnids, names = zip(*pairs, strict=True) if pairs else ((), ())
    return tuple(names), tuple(wnids)
