"""Finds the modules that a model consists of, or that a function refers to."""

from contextlib import suppress
from functools import partial
from inspect import getattr_static
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor
from torch.nn import Module

# A function may refer to any number of objects: the search ends after so many.
_MAX_OBJECTS = 1000

# What may hold modules that are not registered.
_HOLDERS = (list, tuple, FunctionType, MethodType, partial)


def find_modules(forward_func: Any) -> list[Module]:
    """
    The modules that a model consists of, or that a function refers to.

    A function is searched for what it is bound to, closes over and has as defaults,
    and for the globals that it names; objects for their attributes.
    """
    found: dict[Module, None] = {}
    seen: set[int] = set()
    waiting = [forward_func]
    while waiting and len(seen) < _MAX_OBJECTS:
        value = waiting.pop(0)
        if id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Module):
                parts = list(value.modules())
                found.update(dict.fromkeys(parts))
                # Modules that a user's class keeps in a plain list, or has a function
                # of, are not registered.
                own = [p for p in parts if not type(p).__module__.startswith("torch.")]
                held = (item for part in own for item in vars(part).values())
                waiting += [item for item in held if isinstance(item, _HOLDERS)]
            else:
                waiting += _references(value)
    return list(found)


def _references(value: Any) -> list[Any]:
    """What a function, a collection or an object refers to."""
    if isinstance(
        value, (str, bytes, int, float, Tensor, type, ModuleType, type(None))
    ):
        return []
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    parts = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # of a variable that is not assigned yet
                parts.append(cell.cell_contents)
        parts += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return parts + _named_globals(value.__code__, value.__globals__)
    call = getattr_static(type(value), "__call__", None)
    return [*parts, call] if isinstance(call, FunctionType) else parts


def _named_globals(code: CodeType, known: dict[str, Any]) -> list[Any]:
    """The globals that a function names, and the models in modules among them."""
    named = [known[name] for name in code.co_names if name in known]
    for value in list(named):
        if isinstance(value, ModuleType):
            inside = (vars(value).get(name) for name in code.co_names)
            named += [item for item in inside if isinstance(item, Module)]
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return named + [item for part in inner for item in _named_globals(part, known)]
