"""Text that is what it looks like, whatever names of files and classes may hold."""

import unicodedata


def escaped(letter: str) -> str:
    r"""A letter as Python writes it in ASCII, such as ``\u5c71``."""
    return letter.encode("unicode_escape").decode("ascii")


def is_drawn(letter: str) -> bool:
    r"""
    Whether a letter makes a mark or a space, and nothing but that.

    Control characters do not, nor do those that turn the direction of writing, have no
    width or break a line, nor halves of pairs, which stand for bytes of a file's name
    that are no Unicode.
    """
    category = unicodedata.category(letter)
    return category[0] != "C" and category not in ("Zl", "Zp")


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
