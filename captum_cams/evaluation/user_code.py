"""What the words of a user name: objects of their own modules, and calls of these."""

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

from captum_cams.evaluation.errors import UserError


def split_names(text: str) -> list[str]:
    """
    Parts between commas, but not those within brackets.

    Raises:
        UserError: If one is empty.
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    names = [part.strip() for part in parts]
    if "" in names:
        raise UserError(
            f"must be names with commas between them, got an empty one in {text!r}"
        )
    return names


def import_object(name: str) -> Any:
    """What ``"module:attribute"`` names, in the current folder too."""
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    return getattr(importlib.import_module(module_name), attribute)


def parse_call(text: str) -> tuple[str, dict[str, Any] | None]:
    """
    A name and the literals behind it, as of ``name`` or ``module:name(argument=1)``.

    The arguments are None where they are anything else.
    """
    match = re.fullmatch(r"([\w.:-]+)(?:\((.*)\))?", text.strip())
    if match is None:
        return text, None
    try:
        call: Any = ast.parse(f"f({match[2] or ''})", mode="eval").body
        pairs = [(word.arg, ast.literal_eval(word.value)) for word in call.keywords]
        plain = isinstance(call.func, ast.Name) and not call.args
    except (
        AttributeError,
        MemoryError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
    ):
        return match[1], None
    return match[1], dict(pairs) if plain and all(key for key, _ in pairs) else None
