"""
Argument validation, and the warnings that tell why a map may mislead.

A message names the argument, what was expected, what came, and the remedy.
"""

import sys
import warnings
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import Module


def kind_of(value: object) -> str:
    """What came, for a message: never a whole tensor."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {shape_of(value)}"
    shown = value is None or isinstance(value, (Real, str))
    return repr(value) if shown else type(value).__name__


def shape_of(tensor: Tensor) -> str:
    """A shape, for a message."""
    return str(tuple(tensor.shape))


def _item(value: object) -> Any:
    """The number that a tensor without axes holds; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.dim() == 0 else value


def check_count(name: str, value: object, least: int = 1) -> int:
    """An integer of at least 1, or of another least one."""
    value = _item(value)
    expected = f"{name} must be an integer of at least {least}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{expected}, got {kind_of(value)}")
    if value < least:
        raise ValueError(f"{expected}, got {value}")
    return int(value)


def check_seed(seed: object) -> int:
    """An integer that PyTorch's generators take."""
    seed = _item(seed)
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"seed must be an integer, got {kind_of(seed)}")
    number = int(seed)
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"seed must be an integer of 64 bits, got {number}")
    return number


def check_number(
    name: str,
    value: object,
    interval: str,
    *,
    expected: str | None = None,
    none: str | None = None,
) -> float:
    """
    A number in an interval.

    Args:
        name (str): The argument.
        value (object): What came; a tensor without axes counts as its number.
        interval (str): Such as ``[0, 1)`` or ``(0, inf)``.
        expected (str, optional): The interval in other words. Default: None
        none (str, optional): What None stands for, where the caller takes it.
    """
    value = _item(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        or_none = "" if none is None else f", or None {none}".rstrip()
        raise TypeError(f"{name} must be a number{or_none}, got {kind_of(value)}")
    # A 0.15 in single precision means 0.15, not the 0.15000000596 that it holds.
    number = float(str(value)) if isinstance(value, np.floating) else float(value)
    low, high = map(float, interval[1:-1].split(","))
    above = number > low if interval[0] == "(" else number >= low
    below = number < high if interval[-1] == ")" else number <= high
    if not (above and below):
        or_none = "" if none is None else f", or be None {none}".rstrip()
        expected = expected or _in_words(interval)
        raise ValueError(f"{name} must {expected}{or_none}, got {value}")
    return number


def _in_words(interval: str) -> str:
    low, high = interval[1:-1].split(", ")
    if high == "inf":
        return f"be {'above' if interval[0] == '(' else 'at least'} {low}"
    if interval[0] == "(" and interval[-1] == ")":
        return f"lie between {low} and {high}"
    return f"lie in {interval}"


def check_numbers(name: str, values: object) -> Tensor:
    """Numbers, one or several, in double precision; on the CPU."""
    try:
        if isinstance(values, (bool, str)):
            raise TypeError
        if isinstance(values, Tensor) and values.is_complex():
            raise TypeError
        numbers = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(
            f"{name} must be a number or a sequence of numbers, got {kind_of(values)}"
        ) from None
    return numbers


def check_flags(**flags: object) -> None:
    """True or False alone, as any word, such as 'no', would count as true."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, got {kind_of(value)}")


def check_callable(
    name: str, value: object, *, optional: bool = False, remedy: str = ""
) -> None:
    """What can be called, or None where it is optional."""
    if isinstance(value, type) and issubclass(value, Module):
        raise TypeError(
            f"{name} must be a model or a function, got the class {value.__name__}; "
            f"pass an instance of it, {value.__name__}(...)"
        )
    if not callable(value) and not (optional and value is None):
        or_none = ", or None" if optional else ""
        raise TypeError(
            f"{name} must be a function{or_none}, got {kind_of(value)}{remedy}"
        )


def check_generator(generator: object) -> None:
    """A generator of random numbers, or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            "generator must be a torch.Generator, such as "
            "torch.Generator().manual_seed(0), or None for that one, got "
            f"{kind_of(generator)}"
        )


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(f"'{choice}'" for choice in choices)
        raise ValueError(f"{name} must be one of {known}, got {kind_of(value)}")


def _as_tensor(values: Iterable[object]) -> str:
    """How pictures and arrays become tensors, for a message."""
    if any(isinstance(value, np.ndarray) for value in values):
        return "; convert arrays with torch.from_numpy()"
    if any(isinstance(value, Image) for value in values):
        return (
            "; convert pictures with torchvision.transforms.functional.to_tensor(), "
            "and .unsqueeze(0) for the batch dimension"
        )
    return ""


def check_real(name: str, tensor: object) -> None:
    """A tensor of numbers that are not complex."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {kind_of(tensor)}{_as_tensor([tensor])}"
        )
    if tensor.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")


def check_floating(name: str, tensor: Tensor) -> None:
    """A tensor of a floating dtype."""
    check_real(name, tensor)
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} must be of a floating dtype, got {tensor.dtype}; convert it with "
            ".float()"
        )


def check_inputs(inputs: object, *, integers: bool = False) -> tuple[Tensor, ...]:
    """
    Floating tensors, finite, with one number of examples; detached, in a tuple.

    With `integers` any real dtype, as where nothing is computed between two inputs.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        given = ", ".join(type(tensor).__name__ for tensor in tensors) or "nothing"
        raise TypeError(
            f"inputs must be a tensor or a tuple of tensors, got {given}"
            f"{_as_tensor(tensors)}"
        )
    for tensor in tensors:
        if integers and (tensor.is_complex() or tensor.is_quantized):
            raise TypeError(f"inputs must hold real numbers, got {tensor.dtype}")
        if not integers and not tensor.is_floating_point():
            raise TypeError(
                f"inputs must be of a floating dtype, got {tensor.dtype}; convert "
                "them, or pass what is not to be explained as additional_forward_args; "
                "integers such as token ids are taken by Ablation-CAM and by methods "
                "that explain a layer by its gradients at the inputs alone"
            )
        if tensor.dim() == 0 or tensor.shape[0] == 0:
            raise ValueError(
                "inputs must hold at least one example along their first axis, got "
                f"shape {shape_of(tensor)}"
            )
    if len({tensor.shape[0] for tensor in tensors}) > 1:
        shapes = ", ".join(shape_of(tensor) for tensor in tensors)
        raise ValueError(f"inputs must agree in their first axis, got shapes {shapes}")
    for tensor in tensors:
        check_finite("inputs", tensor, remedy="leave that example out or mend it")
    return tuple(tensor.detach() for tensor in tensors)


def check_baselines(
    baselines: object, inputs: tuple[Tensor, ...], name: str = "baselines"
) -> tuple[Tensor, ...]:
    """One finite baseline an input, as tensors expanded to the inputs' shapes."""
    if baselines is None:
        baselines = (0,) * len(inputs)
    values = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(values) != len(inputs):
        raise ValueError(
            f"{name} must be as many as the inputs, {len(inputs)}, got {len(values)}"
        )
    return tuple(
        _expand_baseline(value, tensor, name)
        for value, tensor in zip(values, inputs, strict=True)
    )


def _expand_baseline(baseline: object, tensor: Tensor, name: str) -> Tensor:
    if isinstance(baseline, Real):
        baseline = torch.tensor(float(baseline), dtype=torch.float64)
    if not isinstance(baseline, Tensor) or baseline.is_complex():
        given = (
            baseline.dtype if isinstance(baseline, Tensor) else type(baseline).__name__
        )
        raise TypeError(
            f"{name} must be tensors or numbers, got {given}{_as_tensor([baseline])}"
        )
    fits = baseline.dim() == 0 or (
        baseline.shape[1:] == tensor.shape[1:]
        and baseline.shape[0] in (1, tensor.shape[0])
    )
    if not fits:
        raise ValueError(
            f"{name} must have the inputs' shape {shape_of(tensor)}, or 1 in its "
            f"first place, or be a number, got shape {shape_of(baseline)}"
        )
    if baseline.device != tensor.device and baseline.dim() > 0:
        raise ValueError(
            f"{name} must be on the inputs' device {tensor.device}, got "
            f"{baseline.device}; move them with .to()"
        )
    values = baseline.detach().to(tensor)
    if values.dim() > 0:
        check_finite(name, values, remedy="leave that example out or mend it")
    elif not values.isfinite():
        raise ValueError(
            f"{name} must be finite as {tensor.dtype}, got {baseline.item()}"
        )
    return values.expand_as(tensor)


def check_target(target: object, num_examples: int) -> Tensor | None:
    """
    Any of Captum's forms of a target as indices, one row an example.

    Returns:
        An int64 tensor (N, d) on the CPU, d being the number of indexed axes, or None.
    """
    if target is None:
        return None
    if isinstance(target, Tensor):
        if not _holds_integers(target):
            raise TypeError(
                f"target must hold integers, got {target.dtype}; pass indices of "
                "classes, of one-hot rows their .argmax(1)"
            )
        column = target.shape[1:] == (1,)  # as topk(1).indices gives them
        if target.numel() != 1 and target.dim() > 1 and not column:
            raise ValueError(
                "target as a tensor must hold one index for all examples, or be of "
                f"shape ({num_examples},) or ({num_examples}, 1), got shape "
                f"{shape_of(target)}; to index several axes pass a list of tuples"
            )
        target = target.flatten().tolist()
    if isinstance(target, list):
        rows = [_indices(element) for element in target]
        if len(rows) == 1:
            rows *= num_examples
    else:
        rows = [_indices(target)] * num_examples
    if len(rows) != num_examples:
        raise ValueError(
            "target must be one index for all examples or one for each, "
            f"{num_examples}, got {len(rows)}"
        )
    if len({len(row) for row in rows}) > 1:
        raise ValueError("target must index the same number of axes for every example")
    return torch.tensor(rows, dtype=torch.int64)  # (N, d)


def _holds_integers(tensor: Tensor) -> bool:
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    return whole and tensor.dtype != torch.bool


def _indices(element: Any) -> tuple[int, ...]:
    """An index of each axis, of one example."""
    indices = []
    for part in element if isinstance(element, tuple) else (element,):
        if isinstance(part, Tensor) and part.numel() == 1 and _holds_integers(part):
            part = part.item()
        if not isinstance(part, Integral):
            raise TypeError(
                "target must be an integer, a tuple of integers, a tensor of integers, "
                f"or a list of integers or tuples, got {kind_of(element)}"
                f"{_as_tensor([element])}"
            )
        indices.append(int(part))
    return tuple(indices)


def check_model(model: object) -> None:
    """A module, whose modes can be set."""
    if not isinstance(model, Module):
        raise TypeError(
            "model must be a torch.nn.Module, as it is set to evaluation mode for a "
            f"while, got {type(model).__name__}"
        )


def check_finite(
    name: str,
    tensor: Tensor,
    examples: Tensor | None = None,
    remedy: str = "look for it in the inputs and in the model's weights",
) -> None:
    """No NaN and no infinity; `examples` names the example of each row."""
    # The sum is one quick pass; only an odd one is looked at more closely.
    if tensor.flatten().sum(dtype=torch.float32).isfinite():
        return
    broken = ~tensor.reshape(len(tensor), -1).isfinite().all(1)  # (B,)
    if broken.any():
        row = int(broken.nonzero()[0])
        example = row if examples is None else int(examples[row])
        raise ValueError(
            f"{name} must be finite, got NaN or infinity for example {example}; "
            f"{remedy}"
        )


def warn(message: str) -> None:
    """Warn at the caller's line, outside of this package and Captum."""
    frame, level = sys._getframe(1), 2
    inside = ("captum", "captum_cams", "contextlib")
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def list_of(values: object) -> list[Any]:
    """What a sequence holds; an empty list for a word, a number and the like."""
    if isinstance(values, (Tensor, np.ndarray)) and values.ndim == 1:
        return list(values.tolist())
    if isinstance(values, Sequence) and not isinstance(values, str):
        return list(values)
    return []


def check_words(name: str, words: object) -> list[str]:
    """Words in a list, or one alone."""
    if isinstance(words, str):
        return [words]
    listed: list[Any] = list(words) if isinstance(words, Iterable) else [words]
    if not listed or not all(isinstance(word, str) for word in listed):
        given = ", ".join(map(kind_of, listed)) or "none"
        raise TypeError(f"{name} must be a list of names, got {given}")
    return listed


def check_all_positive(name: str, values: Tensor) -> None:
    """Numbers above 0."""
    if not (values > 0).all():
        raise ValueError(f"{name} must be above 0, got {values.flatten().tolist()}")
