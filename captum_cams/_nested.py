"""Tensors nested in tuples, lists, mappings and dataclasses, as layers give them."""

import copy
import dataclasses
import textwrap
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import Tensor

# Parts of one tuple or mapping that a description shows.
_MAX_SHOWN = 6


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """`value` with all tensors replaced; parts without any stay the same objects."""
    if isinstance(value, Tensor):
        return function(value)
    old = [part for _, part in _parts(value)]
    new = [map_tensors(function, part) for part in old]
    if all(one is other for one, other in zip(old, new, strict=True)):
        return value
    if isinstance(value, (tuple, list)):
        return _rebuild(value, new)
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return dict(zip(value, new, strict=True))
    made: Any = copy.copy(value)
    if isinstance(value, MutableMapping):
        made.update(zip(value, new, strict=True))
    else:
        for (selector, _), part in zip(_parts(value), new, strict=True):
            object.__setattr__(made, selector[1:], part)  # also if it is frozen
    return made


def _rebuild(value: Any, parts: list[Any]) -> Any:
    """A tuple or list of the type of another one, with other parts."""
    if isinstance(value, list):
        made = copy.copy(value)
        made[:] = parts
        return made
    try:
        # A named tuple's own constructor takes other arguments.
        return tuple.__new__(type(value), parts)
    except TypeError:  # the types that PyTorch's functions return, as torch.max does
        return type(value)(parts)


def find_tensors(value: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """All tensors in `value`, each after the expression that selects it from `path`."""
    if isinstance(value, Tensor):
        return [(path, value)]
    return [
        found
        for selector, part in _parts(value)
        for found in find_tensors(part, path + selector)
    ]


def describe(value: Any) -> str:
    """Types, names and shapes of `value`, nested as it is."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        kind = "" if value.is_floating_point() else f" of {dtype}"
        return f"tensor{kind} of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return textwrap.shorten(repr(value), 30)
    parts = [
        describe(part) if selector.startswith("[") and selector[1:-1].isdigit()
        else f"{selector.strip('.[]')}: {describe(part)}"
        for selector, part in _parts(value)
    ]  # fmt: skip
    more = ["..."] * (len(parts) > _MAX_SHOWN)
    inside = ", ".join([*parts[:_MAX_SHOWN], *more])
    return f"{type(value).__name__}({inside})" if parts else type(value).__name__


def _parts(value: Any) -> list[tuple[str, Any]]:
    """The parts of `value`, each after the expression that selects it."""
    if isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None)
        selectors = (
            [f"[{i}]" for i in range(len(value))]
            if names is None
            else [f".{name}" for name in names]
        )
        return list(zip(selectors, value, strict=True))
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return [(f".{n}", getattr(value, n)) for n in names if hasattr(value, n)]
    return []
