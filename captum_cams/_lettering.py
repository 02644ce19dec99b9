"""Names of a user's files, classes and methods in figures: legible, and of a width."""

from bisect import bisect
from collections.abc import Collection
from typing import Any

from matplotlib import font_manager, rcParams
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from captum_cams._printable import escaped, is_drawn

_MOST_LETTERS = 60  # of a line, before it is broken
_LAST_RESORT = "Last Resort"  # a font of boxes for all that other fonts lack
_POINTS = 72  # to the inch

_FAMILIES: dict[str, str | None] = {}
"""Installed fonts by letters that the default font lacks, None where no font has it."""


def legible(line: str) -> str:
    r"""
    A line of text as it can be drawn.

    A long one is shortened in the middle, as names often differ at their ends. Letters
    that no installed font has are escaped, such as ``\u5c71``: matplotlib would draw
    all of them as one and the same box.
    """
    if len(line) > _MOST_LETTERS:
        half = _MOST_LETTERS // 2
        line = f"{line[: half - 1]}\N{HORIZONTAL ELLIPSIS}{line[-half:]}"
    lacking = {*_lacking(line)}
    families = _families({letter for letter in lacking if is_drawn(letter)})
    return "".join(
        escaped(letter) if letter in lacking and not families.get(letter) else letter
        for letter in line
    )


def text_style(*texts: str) -> dict[str, Any]:
    """
    How matplotlib must draw legible texts.

    In fonts that have all letters, and with dollar signs as they are, which otherwise
    begin a formula.
    """
    families = _families({letter for text in texts for letter in _lacking(text)})
    fallback = dict.fromkeys(filter(None, families.values()))
    return {"fontfamily": [*rcParams["font.family"], *fallback], "parse_math": False}


def fitted(text: str, inches: float, size: float) -> str:
    """
    Legible lines that are no wider than so many inches.

    Args:
        text (str): One line or several.
        inches (float): The room there is.
        size (float): Of the font, in points.
    """
    lines = []
    for line in map(legible, text.split("\n")):
        font = FontProperties(family=text_style(line)["fontfamily"], size=size)
        rest = line
        while rest:
            cut = _fitting(rest, inches * _POINTS, font)
            lines.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
    return "\n".join(lines)


def _fitting(line: str, points: float, font: FontProperties) -> int:
    """How many letters make the first row, to a space or a hyphen if there is one."""
    lengths = range(1, len(line) + 1)
    room = bisect(lengths, points, key=lambda length: _width(line[:length], font)) or 1
    if room < len(line) and line[room] != " ":
        words = max(line.rfind(" ", 0, room), line.rfind("-", 0, room)) + 1
        room = words or room
    return room


def _width(line: str, font: FontProperties) -> float:
    """In points."""
    width, _, _ = text_to_path.get_text_width_height_descent(line, font, False)
    return float(width)


def _lacking(text: str) -> list[str]:
    """Letters that the default fonts do not have."""
    fonts = [
        font_manager.get_font(font_manager.findfont(FontProperties(family=[family])))
        for family in rcParams["font.family"]
    ]
    return [
        letter
        for letter in dict.fromkeys(text)
        if letter != "\n"
        and not (
            is_drawn(letter) and any(font.get_char_index(ord(letter)) for font in fonts)
        )
    ]


def _families(letters: Collection[str]) -> dict[str, str | None]:
    """
    Installed fonts with these letters.

    All fonts are looked through only for letters that were not asked for before.
    """
    wanted = {letter for letter in letters if letter not in _FAMILIES}
    for entry in font_manager.fontManager.ttflist if wanted else ():
        plain = (entry.style, entry.weight, entry.stretch) == ("normal", 400, "normal")
        if not plain or entry.name.startswith(_LAST_RESORT):
            continue
        try:
            font = font_manager.get_font(entry.fname)
        except (OSError, RuntimeError):  # the list may be older than the files
            continue
        found = {letter for letter in wanted if font.get_char_index(ord(letter))}
        _FAMILIES.update(dict.fromkeys(found, entry.name))
        wanted -= found
        if not wanted:
            break
    _FAMILIES.update(dict.fromkeys(wanted))
    return {letter: _FAMILIES[letter] for letter in letters}
