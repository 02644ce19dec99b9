"""What a user of the commands can put right, in one sentence."""

import textwrap
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """An error whose message alone is shown by the commands, without a traceback."""


class MisreadError(UserError):
    """One that is not a single picture's fault, and ends a run instead of skipping."""


def closest_names(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is not known."""
    names = get_close_matches(name, known, n=4, cutoff=0)
    return f"the closest names are {', '.join(names)}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is of too little memory, of an accelerator's or of the CPU's."""
    # PyTorch's own class is not imported for it.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def brief_error(error: Exception) -> str:
    """The error in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)
