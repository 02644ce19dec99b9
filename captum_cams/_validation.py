"""
Argument validation, and the warnings that tell why a map may mislead.

A message names the argument, what was expected, what came, and the remedy.
"""

import math
import sys
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.jit import ScriptModule
from torch.nn import Module

from captum_cams._nested import describe, find_tensors


class UserError(ValueError):
    """What the user of a command can put right, in one sentence."""


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {_shape(value)}"
    shown = value is None or isinstance(value, (Real, str))
    return repr(value) if shown else type(value).__name__


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _item(value: object) -> Any:
    """The number that a tensor without axes holds; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.dim() == 0 else value


def check_count(name: str, value: object, least: int = 1) -> int:
    """An integer of at least 1, or of another least one."""
    value = _item(value)
    expected = f"{name} must be an integer of at least {least}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{expected}, got {_kind(value)}")
    if value < least:
        raise ValueError(f"{expected}, got {value}")
    return int(value)


def check_seed(seed: object) -> int:
    """An integer that PyTorch's generators take."""
    seed = _item(seed)
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"seed must be an integer, got {_kind(seed)}")
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
        raise TypeError(f"{name} must be a number{or_none}, got {_kind(value)}")
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
            f"{name} must be a number or a sequence of numbers, got {_kind(values)}"
        ) from None
    return numbers


def check_flags(**flags: object) -> None:
    """Each True or False: any word would count as true, whatever it says."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, got {_kind(value)}")


def check_callable(
    name: str, value: object, *, optional: bool = False, remedy: str = ""
) -> None:
    """What can be called, or None where it is optional."""
    if not callable(value) and not (optional and value is None):
        or_none = ", or None" if optional else ""
        raise TypeError(
            f"{name} must be a function{or_none}, got {_kind(value)}{remedy}"
        )


def check_generator(generator: object) -> None:
    """A generator of random numbers, or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            "generator must be a torch.Generator, such as "
            "torch.Generator().manual_seed(0), or None for that one, got "
            f"{_kind(generator)}"
        )


def check_grad_kwargs(grad_kwargs: object) -> None:
    """Keyword arguments of `torch.autograd.grad`, or None."""
    if grad_kwargs is not None and not isinstance(grad_kwargs, dict):
        raise TypeError(
            "grad_kwargs must be a dict of keyword arguments of torch.autograd.grad, "
            f"or None, got {_kind(grad_kwargs)}"
        )


def check_device_ids(device_ids: object) -> None:
    """Numbers of devices, or None."""
    if device_ids is None:
        return
    if not isinstance(device_ids, (list, tuple)) or not all(
        isinstance(number, Integral) for number in device_ids
    ):
        raise TypeError(
            "device_ids must be a list of integers, the GPUs of a DataParallel model, "
            f"or None, got {_kind(device_ids)}"
        )


def check_nodes(n_steps: int, method: str = "gausslegendre") -> None:
    """No more nodes of Gauss and Legendre than numpy finds in a moment."""
    if method == "gausslegendre" and n_steps > 1000:
        raise ValueError(
            "n_steps must be at most 1000 for the rule of Gauss and Legendre, got "
            f"{n_steps}; a few tens are enough where the network is smooth"
        )


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(f"'{choice}'" for choice in choices)
        raise ValueError(f"{name} must be one of {known}, got {_kind(value)}")


def check_points(points: object, inputs: Tensor, alphas: Tensor) -> Tensor:
    """What a path gave: a finite point for each row; detached."""
    if not isinstance(points, Tensor):
        raise TypeError(f"path must return a tensor of points, got {_kind(points)}")
    if (points.shape, points.dtype, points.device) != (
        inputs.shape,
        inputs.dtype,
        inputs.device,
    ):
        raise ValueError(
            f"path must return points like its inputs, {_like(inputs)}, got "
            f"{_like(points)}"
        )
    finite = points.reshape(len(points), -1).isfinite().all(1)  # (B,)
    if not finite.all():
        raise ValueError(
            "path must return finite points, got NaN or infinity at alpha = "
            f"{alphas[~finite][0].item():.3g}; look for it in the inputs, in the "
            "baselines and in the path"
        )
    return points.detach()


def _like(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {_shape(tensor)} on {tensor.device}"


def check_path_end(points: Tensor, starts: Tensor, ends: Tensor, alpha: int) -> None:
    """A path that is at its start, or at its end, up to rounding."""
    distance = (points - (ends if alpha else starts)).abs().max().item()
    largest = max(ends.abs().max().item(), starts.abs().max().item())
    if distance > torch.finfo(ends.dtype).eps ** 0.5 * largest:
        raise ValueError(
            "path must lead from the baselines at alpha = 0 to the inputs at alpha = "
            f"1, but is up to {distance:.3g} off at alpha = {alpha}; pass the "
            "baselines that belong to it"
        )


def check_parametrisation(f: Callable[[Tensor], Tensor]) -> None:
    """A function that rises from 0 to 1, as far as some places tell."""
    values = f(torch.linspace(0, 1, 101, dtype=torch.float64))
    if not isinstance(values, Tensor) or values.shape != (101,):
        raise ValueError(
            "f must give one place for each alpha, a tensor (B,) for one of shape "
            f"(B,), got {_kind(values)} for 101 of them"
        )
    start, end = values[0].item(), values[-1].item()
    if not (abs(start) < 1e-6 and abs(end - 1) < 1e-6 and (values.diff() >= 0).all()):
        raise ValueError(
            "f must rise from f(0) = 0 to f(1) = 1 and never fall, got f(0) = "
            f"{start:.3g}, f(1) = {end:.3g} and a smallest growth of "
            f"{values.diff().min():.3g} between 101 equally spaced places"
        )


def check_groups(groups: int, channels: int) -> None:
    """No more groups than channels."""
    if groups > channels:
        raise ValueError(
            f"groups must be at most the number of the layer's channels, {channels}, "
            f"got {groups}"
        )


def check_blur(inputs: Tensor, kernel_size: object, sigma: object) -> tuple[int, float]:
    """A Gaussian kernel that fits every spatial side under a reflected border."""
    check_floating("inputs", inputs)
    if inputs.dim() < 3:
        raise ValueError(
            "a blur needs inputs with spatial axes, (N, C, *spatial), got shape "
            f"{_shape(inputs)}; give baselines as a tensor or a number instead"
        )
    taps, deviation = check_kernel(kernel_size, sigma)
    side = min(inputs.shape[2:])
    if side <= taps // 2:
        raise ValueError(
            f"the blur's kernel size {taps} needs sides of at least "
            f"{taps // 2 + 1} pixels, got inputs of shape {_shape(inputs)}; "
            f"a kernel size of {2 * side - 1} or less fits"
        )
    return taps, deviation


def check_kernel(kernel_size: object, sigma: object) -> tuple[int, float]:
    """Taps and standard deviation of a Gaussian blur."""
    taps = check_count("the blur's kernel size", kernel_size)
    if taps % 2 == 0:
        raise ValueError(f"the blur's kernel size must be odd, got {kernel_size}")
    return taps, check_number("the blur's sigma", sigma, "(0, inf)")


def check_real(name: str, tensor: object) -> None:
    """A tensor of numbers that are not complex."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {_kind(tensor)}")
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


def check_recording() -> None:
    """A grad mode in which gradients can be had."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "gradients are needed, but torch.inference_mode() is on and records none; "
            "call attribute outside of it, under torch.no_grad() if you like"
        )


def check_inputs(inputs: object, *, integers: bool = False) -> tuple[Tensor, ...]:
    """
    Floating tensors, finite, with one number of examples; detached, in a tuple.

    With `integers` any real dtype, as where nothing is computed between two inputs.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        given = ", ".join(type(tensor).__name__ for tensor in tensors) or "nothing"
        raise TypeError(f"inputs must be a tensor or a tuple of tensors, got {given}")
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
                f"shape {_shape(tensor)}"
            )
    if len({tensor.shape[0] for tensor in tensors}) > 1:
        shapes = ", ".join(_shape(tensor) for tensor in tensors)
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
        given = getattr(baseline, "dtype", type(baseline).__name__)
        raise TypeError(f"{name} must be tensors or numbers, got {given}")
    fits = baseline.dim() == 0 or (
        baseline.shape[1:] == tensor.shape[1:]
        and baseline.shape[0] in (1, tensor.shape[0])
    )
    if not fits:
        raise ValueError(
            f"{name} must have the inputs' shape {_shape(tensor)}, or 1 in its "
            f"first place, or be a number, got shape {_shape(baseline)}"
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
            raise TypeError(f"target must hold integers, got {target.dtype}")
        column = target.shape[1:] == (1,)  # as topk(1).indices gives them
        if target.numel() != 1 and target.dim() > 1 and not column:
            raise ValueError(
                "target as a tensor must hold one index for all examples, or be of "
                f"shape ({num_examples},) or ({num_examples}, 1), got shape "
                f"{_shape(target)}; to index several axes pass a list of tuples"
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
                f"or a list of integers or tuples, got {_kind(element)}"
            )
        indices.append(int(part))
    return tuple(indices)


def check_output(output: object, rows: int, target: Tensor | None) -> Tensor:
    """What `forward_func` returned: a tensor with a row an example, and the target."""
    if not isinstance(output, Tensor):
        found = find_tensors(output, "model(*args)")
        # A loss has no row for each example.
        found.sort(key=lambda part: part[1].shape[:1] != (rows,))
        such = f", such as lambda *args: {found[0][0]}" if found else ""
        raise TypeError(
            f"forward_func must return a tensor, got {type(output).__name__}; wrap it "
            f"in a function that returns the scores alone{such} (it holds "
            f"{describe(output)}), or call model.eval() where it is training mode that "
            "adds outputs"
        )
    if output.dim() == 0 and rows == 1:
        output = output.reshape(1)
    if output.dim() == 0 or output.shape[0] != rows:
        raise ValueError(
            f"forward_func must return one row for each of its {rows} examples, got "
            f"shape {_shape(output)}"
        )
    axes = () if target is None else tuple(range(1, 1 + target.shape[1]))
    if len(axes) >= output.dim() or output.shape[1 + len(axes) :].numel() != 1:
        raise ValueError(
            f"target must select one number of each example from an output of shape "
            f"{_shape(output)}, got "
            + ("None" if target is None else f"an index into {len(axes)} of its axes")
        )
    if target is not None:
        for axis, indices in zip(axes, target.unbind(1), strict=True):
            size = output.shape[axis]
            outside = (indices < -size) | (indices >= size)
            if outside.any():
                raise ValueError(
                    f"target must lie in [0, {size - 1}] for an output of shape "
                    f"{_shape(output)}, got {int(indices[outside][0])}"
                )
    return output


def check_model(model: object) -> None:
    """A module, whose modes can be set."""
    if not isinstance(model, Module):
        raise TypeError(
            "model must be a torch.nn.Module, as it is set to evaluation mode for a "
            f"while, got {type(model).__name__}"
        )


def check_layer(layer: object) -> None:
    """A module, or a list of modules."""
    modules = layer if isinstance(layer, list) else [layer]
    if not modules or not all(isinstance(module, Module) for module in modules):
        given = (
            ", ".join(type(module).__name__ for module in modules) or "an empty list"
        )
        raise TypeError(
            "layer must be a torch.nn.Module of the model, or a list of them, got "
            f"{given}"
        )
    for module in modules:
        if isinstance(module, ScriptModule):
            raise TypeError(
                "layer must be a module that runs in Python, got one that is traced "
                f"or scripted ({type(module).__name__}), which takes no hooks; explain "
                "the model that it was made from"
            )


def check_one_layer(layer: object) -> None:
    """A single module."""
    if isinstance(layer, list):
        raise TypeError(
            f"layer must be one torch.nn.Module here, got a list of {len(layer)}; "
            "explain them one after the other"
        )
    check_layer(layer)


def check_one_tensor(tensors: Sequence[Tensor]) -> None:
    """A layer that gives a single tensor."""
    if len(tensors) > 1:
        raise ValueError(
            f"layer must give one tensor here, got {len(tensors)}; choose a module "
            "that gives one of them"
        )


def check_transform(transform: object) -> None:
    """A function of a tensor, or None."""
    if transform is not None and not callable(transform):
        raise TypeError(
            "reshape_transform must be a function of a tensor, or None, got "
            f"{_kind(transform)}; captum_cams.reshape holds some"
        )


def check_transformed(maps: object, given: object) -> Tensor:
    """What a transform made of what a layer gave: feature maps."""
    if (
        not isinstance(maps, Tensor)
        or maps.dim() < 3
        or not maps.is_floating_point()
        or maps.numel() == 0
    ):
        raise ValueError(
            "reshape_transform must give feature maps (N, K, *spatial) of a floating "
            f"dtype, got {_kind(maps)} for the layer's {describe(given)}"
        )
    return maps


def check_axes(name: str, tensor: Tensor, wanted: str, dims: int | None = None) -> None:
    """A tensor of so many axes, or of three at least."""
    if tensor.dim() != dims if dims else tensor.dim() < 3:
        raise ValueError(
            f"{name} takes a layer's tensor {wanted}, got shape {_shape(tensor)}; "
            "choose another layer or reshape_transform"
        )


def check_tokens(tokens: Tensor, prefix_tokens: int, grid: Sequence[int]) -> None:
    """Tokens that fill a grid behind the first few."""
    patches = tokens.shape[1] - prefix_tokens
    if prefix_tokens < 0 or math.prod(grid) != patches or patches == 0:
        raise ValueError(
            "vit_tokens needs as many tokens as the grid has places, behind the "
            f"prefix_tokens, got {tokens.shape[1]} tokens with prefix_tokens = "
            f"{prefix_tokens} for the grid {tuple(grid)}; give it both with "
            "functools.partial"
        )


def raise_grid(
    tokens: Tensor,
    prefix_tokens: int,
    grids: Sequence[tuple[int, ...]],
    input_size: Sequence[int] | None,
    other: int | None,
) -> NoReturn:
    """No grid for the patches, or several; `other` prefix tokens would leave one."""
    patches = tokens.shape[1] - prefix_tokens
    if input_size is None:
        found = f"which leaves {patches} patches, no square"
    elif grids:
        several = " or ".join(map(str, grids[:4])) + ", ..." * (len(grids) > 4)
        found = f"whose {patches} patches may be a grid of {several}"
    else:
        found = f"whose {patches} patches make no grid of patches with equal sides"
    size = "" if input_size is None else f" for an input of size {tuple(input_size)}"
    hint = "" if other is None else f"; prefix_tokens = {other} leaves a grid"
    raise ValueError(
        f"vit_tokens got {tokens.shape[1]} tokens with prefix_tokens = {prefix_tokens}"
        f"{size}, {found}; give it grid=, the patches along each axis, and "
        f"prefix_tokens= with functools.partial{hint}"
    )


def check_spatial(
    fit: bool, maps: Sequence[int], inputs: Sequence[Sequence[int]], remedy: str
) -> None:
    """Maps that can be enlarged to every input."""
    if not fit:
        raise ValueError(
            "layer must give feature maps (N, K, *spatial) whose spatial axes fit the "
            f"inputs' axes, got shape {tuple(maps)} for inputs of shape "
            f"{', '.join(str(tuple(shape)) for shape in inputs)}; choose a "
            f"convolutional layer, or give {remedy}"
        )


def check_positional(inputs: tuple[object, ...]) -> None:
    """The inputs of a layer, as its hook sees them."""
    if not inputs:
        raise ValueError(
            "layer must be called with its input as a positional argument for "
            "attribute_to_layer_input, got none; map its output instead"
        )


def check_feature_maps(given: object) -> list[Tensor]:
    """The feature maps in what a layer gave: all of a tuple, or the only ones."""
    if isinstance(given, Tensor):
        return [_check_feature_map(given)]
    found = find_tensors(given, "given")
    maps = [
        (path, tensor)
        for path, tensor in found
        if tensor.is_floating_point() and tensor.dim() > 1
    ]
    tensors = [tensor for _, tensor in maps]
    plain = isinstance(given, (tuple, list)) and len(given) == len(maps) == len(found)
    if plain and maps:
        return tensors
    if len({id(tensor) for tensor in tensors}) == 1:
        return tensors[:1]
    if len(found) == 1:
        _check_feature_map(found[0][1])
    remedy = (
        "select its feature maps with a reshape_transform, such as lambda given: "
        f"{maps[0][0]}, rearranged to (N, K, *spatial)"
        if maps
        else "choose a module inside it"
    )
    raise TypeError(
        f"layer must give tensors or a tuple of tensors, got {describe(given)}; "
        f"{remedy}"
    )


def _check_feature_map(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise TypeError(
            f"layer must give tensors of a floating dtype, got {tensor.dtype}; "
            "choose a layer behind it"
        )
    if tensor.dim() < 2:
        raise ValueError(
            "layer must give channels for each example, (N, K, *spatial), got "
            f"shape {_shape(tensor)}; choose another layer"
        )
    return tensor


def check_batch(tensor: Tensor, rows: int) -> None:
    """A row for each example, also where a layer's tensor was transformed."""
    if tensor.shape[0] != rows:
        raise ValueError(
            f"layer must give one row for each of its {rows} examples, got shape "
            f"{_shape(tensor)}; choose another layer, or a reshape_transform that "
            "keeps the rows"
        )


def check_recorded(maps: Tensor) -> None:
    """Maps from which a gradient leads back to what a layer gave."""
    if not maps.requires_grad:
        raise ValueError(
            "reshape_transform must rearrange by operations that autograd records, "
            "without .detach(), NumPy or torch.no_grad(), to tell what belongs to a "
            f"channel, got maps of shape {_shape(maps)} without a record"
        )


def raise_fixed_batch(rows: int, examples: int, error: Exception) -> NoReturn:
    """An error that the length of a batch brought about."""
    reason = f"{type(error).__name__}: {error}"
    raise ValueError(
        f"forward_func fails on a batch of {rows} rows, but not on one of {examples}, "
        "as many as there are examples; pass internal_batch_size="
        f"{examples} (of metrics max_examples_per_batch), as the model seems to fix "
        f"its batch ({textwrap.shorten(reason, 200)})"
    ) from error


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


def check_range(maps: Tensor, examples: Tensor | None = None) -> Tensor:
    """Maps of finite numbers, where what they were made of was finite."""
    check_finite(
        "maps",
        maps,
        examples,
        f"numbers on the way overflow {maps.dtype}: scale the output or the features "
        "down, or compute in torch.float64",
    )
    return maps


def warn(message: str) -> None:
    """A warning at the line outside of this package and Captum that called."""
    frame, level = sys._getframe(1), 2
    inside = ("captum", "captum_cams", "contextlib")
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def warn_of_axes(
    name: str, maps: Sequence[int], inputs: Sequence[Sequence[int]], remedy: str
) -> None:
    """A tensor that may hold no maps: its spatial axes do not fit the inputs."""
    given, *shapes = (
        f"(N, {', '.join(map(str, shape[1:]))})" for shape in (maps, *inputs)
    )
    warn(
        f"{name} gives shape {given} for inputs of shape {', '.join(shapes)}: its "
        "second axis is taken for channels, the others for places, which do not fit "
        "those of the inputs; if they are none, as with a transformer's tokens or "
        f"channels last, the map is wrong: pass {remedy}"
    )


def warn_of_training(modules: Collection[str]) -> None:
    """Modules that compute something else while a model is trained."""
    warn(
        "the model is in training mode, and in it "
        f"{', '.join(sorted(modules))}: its outputs depend on the batch or on chance, "
        "and so do the attributions; call model.eval() first"
    )


def warn_of_unsteadiness(reasons: Sequence[str]) -> None:
    """Modules in evaluation mode whose outputs depend on more than their example."""
    warn(
        "the outputs may depend on the batch, on chance or on what ran before, and so "
        f"may the attributions, though in evaluation mode: {'; '.join(reasons)} "
        "(buffers are put back); switch that off first, as with "
        "torch.ao.quantization.disable_observer, track_running_stats=True or "
        "dropout(x, p, self.training)"
    )


def warn_of_uses(layer: Module, uses: int) -> None:
    """A layer that a pass uses more than once."""
    warn(
        f"layer ({type(layer).__name__}) is used {uses} times in a pass: the map is "
        "that of its last use; to explain another one, let it run through a "
        "copy.deepcopy of the layer, or of the part of the model that holds it"
    )


def warn_of_zeros(examples: Sequence[int], reason: str) -> None:
    """Examples whose maps are 0 for one reason."""
    some = ", ".join(map(str, examples[:10])) + ", ..." * (len(examples) > 10)
    warn(f"the map is 0 for example{'s' * (len(examples) > 1)} {some}: {reason}")


def check_any_maps(attributions: object) -> Tensor:
    """Maps of any size: (N, pixels), detached, in single precision at least."""
    if not isinstance(attributions, Tensor):
        raise TypeError(
            f"attributions must be a tensor of maps, got {type(attributions).__name__}"
        )
    if not attributions.is_floating_point():
        raise TypeError(
            f"attributions must be of a floating dtype, got {attributions.dtype}; "
            "convert them with .float()"
        )
    if attributions.dim() < 2 or attributions.numel() == 0:
        raise ValueError(
            "attributions must be maps (N, 1, *spatial) or (N, *spatial) of at least "
            f"one example and one pixel, got shape {_shape(attributions)}"
        )
    maps = attributions.detach().flatten(1)  # (N, pixels)
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def check_map(attributions: Tensor, num_examples: int, spatial: int) -> Tensor:
    """A map an example: (N, 1, *spatial), detached, in single precision at least."""
    maps = check_any_maps(attributions)
    shape = attributions.shape
    fits = shape[0] == num_examples and (
        len(shape) == spatial + 1 or (len(shape) == spatial + 2 and shape[1] == 1)
    )
    if not fits or not 1 <= spatial <= 3:
        raise ValueError(
            "attributions must be maps (N, 1, *spatial) or (N, *spatial) of "
            f"{num_examples} examples with {spatial} spatial axes, 3 at most, got "
            f"shape {_shape(attributions)}; sum over channels where there are several"
        )
    return maps.view(num_examples, 1, *shape[-spatial:])  # (N, 1, *spatial)


def check_maps(
    attributions: Tensor | tuple[Tensor, ...], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """One map an input and example, on the inputs' device."""
    maps = attributions if isinstance(attributions, tuple) else (attributions,)
    if len(maps) != len(inputs):
        raise ValueError(
            f"attributions must be as many as the inputs, {len(inputs)}, got "
            f"{len(maps)}"
        )
    for tensor in inputs:
        if tensor.dim() < 3:
            raise ValueError(
                "inputs must have spatial axes to be masked, (N, C, *spatial), got "
                f"shape {_shape(tensor)}; pass what is not to be masked as "
                "additional_forward_args"
            )
    checked = tuple(
        check_map(values, tensor.shape[0], tensor.dim() - 2)
        for values, tensor in zip(maps, inputs, strict=True)
    )
    for values, tensor in zip(checked, inputs, strict=True):
        if values.device != tensor.device:
            raise ValueError(
                f"attributions must be on the inputs' device {tensor.device}, got "
                f"{values.device}; move them with .to()"
            )
    return checked


def check_thresholds(name: str, values: Tensor) -> None:
    """A number in [0, 1], or several in one row."""
    if values.dim() > 1 or values.numel() == 0:
        raise ValueError(
            f"{name} must be a number or a sequence of numbers, got shape "
            f"{_shape(values)}"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"{name} must lie in [0, 1], as maps are normalised to it, got "
            f"{values.tolist()}"
        )


def _listed(values: object) -> list[Any]:
    """What a sequence holds; nothing of what is none, as a word or a number."""
    if isinstance(values, (Tensor, np.ndarray)) and values.ndim == 1:
        return list(values.tolist())
    if isinstance(values, Sequence) and not isinstance(values, str):
        return list(values)
    return []


def check_region_masks(regions: Tensor, size: Sequence[int] | None) -> None:
    """A boolean mask an example, which brings its own size."""
    if regions.dtype != torch.bool:
        raise TypeError(
            "regions must be boolean masks (N, *spatial), or a list of tensors of "
            f"boxes (n, 4), got a tensor of {regions.dtype}; boxes of one an example "
            "become a list with .split(1)"
        )
    if regions.dim() < 2:
        raise ValueError(
            f"regions must be boolean masks (N, *spatial), got shape {_shape(regions)}"
        )
    shape = tuple(regions.shape[1:])
    if size is not None and _listed(size) != [*shape]:
        raise ValueError(
            f"size must be that of the masks, {shape}, or be left out, got {size!r}"
        )


def check_boxes(
    regions: object, size: Sequence[int] | None
) -> tuple[list[Tensor], list[int]]:
    """Boxes x0, y0, x1, y1 of each example, and height and width of its picture."""
    if not isinstance(regions, (list, tuple)):
        raise TypeError(
            "regions must be boolean masks (N, *spatial), or a list of tensors of "
            f"boxes (n, 4), got {type(regions).__name__}"
        )
    for example, boxes in enumerate(regions):
        if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(
                "regions must hold a tensor of boxes (n, 4) for each example, got "
                f"{_kind(boxes)} for example {example}"
            )
        if not ((boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])).all():
            raise ValueError(
                "regions must hold boxes x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, "
                f"got others for example {example}; "
                "torchvision.ops.box_convert turns x, y, width, height into them"
            )
    sides = _listed(size)
    if len(sides) != 2:
        raise ValueError(
            "size must be (height, width) of the picture in whose pixels the boxes "
            f"are given, got {size!r}"
        )
    sides = [check_count("a side of size", side) for side in sides]
    return list(regions), sides


def check_hits(hits: object, categories: object) -> None:
    """Two tensors (N,) of real numbers."""
    if not isinstance(hits, Tensor) or not isinstance(categories, Tensor):
        raise TypeError(
            f"hits and categories must be tensors, got {type(hits).__name__} and "
            f"{type(categories).__name__}"
        )
    if hits.is_complex() or categories.is_complex():
        raise TypeError(
            "hits and categories must hold real numbers, got "
            f"{hits.dtype} and {categories.dtype}"
        )
    if hits.dim() != 1 or hits.shape != categories.shape or len(hits) == 0:
        raise ValueError(
            "hits and categories must be of one shape (N,) with N of at least 1, got "
            f"shapes {_shape(hits)} and {_shape(categories)}"
        )


def is_resettable(module: Module) -> bool:
    """Whether a module can draw the parameters of its own anew."""
    return callable(getattr(module, "reset_parameters", None))


def check_resettable(name: str, module: Module) -> None:
    """A module that can draw the parameters of its own anew."""
    if not is_resettable(module):
        raise ValueError(
            "layers must be made of modules that can draw their parameters anew with "
            f"reset_parameters(), got '{name}' ({type(module).__name__}) without it; "
            "give its class that method, or name other layers"
        )


def check_layer_names(names: object, known: Collection[str]) -> list[str]:
    """Names out of ``model.named_modules()``."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise TypeError(
            "layers must be a list of names out of model.named_modules(), from the "
            f"output down, got {_kind(names) if names else 'none'}"
        )
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise ValueError(
                "layers must be names out of model.named_modules(), got "
                f"{_kind(name)}, which is not one of them"
            )
    return list(names)


def check_words(name: str, words: object) -> list[str]:
    """Words in a list, or one alone."""
    if isinstance(words, str):
        return [words]
    listed: list[Any] = list(words) if isinstance(words, Iterable) else [words]
    if not listed or not all(isinstance(word, str) for word in listed):
        given = ", ".join(map(_kind, listed)) or "none"
        raise TypeError(f"{name} must be a list of names, got {given}")
    return listed


def check_mapping(name: str, value: object) -> None:
    """Names of methods, with something for each."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(
            f"{name} must be a dict of tensors by the methods' names, got "
            f"{_kind(value)}"
        )


def check_rows(name: str, values: object, kind: type, number: int) -> list[Any]:
    """A text, or a tensor of boxes, for each picture; or None."""
    if values is None:
        return [None] * number
    rows = list(values) if isinstance(values, (Sequence, Tensor)) else [values]
    if isinstance(values, str) or not all(
        row is None or isinstance(row, kind) for row in rows
    ):
        raise TypeError(
            f"{name} must be a sequence of {kind.__name__}, one for each picture, got "
            f"{_kind(values)}"
        )
    for row in rows:
        if isinstance(row, Tensor) and row.shape[-1:] != (4,):
            raise ValueError(
                f"{name} must hold x0, y0, x1, y1 of each box, got shape {_shape(row)}"
            )
    if len(rows) != number:
        raise ValueError(
            f"{name} must be as many as the pictures, {number}, got {len(rows)}"
        )
    return rows


def check_file(name: str, value: object) -> None:
    """The path of a file or a folder."""
    if not isinstance(value, (str, PathLike)):
        raise TypeError(f"{name} must be a path, got {_kind(value)}")


def check_model_or_name(model: object) -> None:
    """A module, or a word that leads to one."""
    if model is not None and not isinstance(model, (str, Module)):
        raise TypeError(
            "model must be a classifier of torchvision by its name, "
            f"'module:callable', or a torch.nn.Module, got {_kind(model)}"
        )


def check_colors(name: str, values: object) -> None:
    """A number for each of three colors, or None; `std` above 0."""
    if values is None:
        return
    numbers = check_numbers(name, values)
    if numbers.shape != (3,):
        raise ValueError(
            f"{name} must hold a number for each of 3 colors, got {numbers.tolist()}"
        )
    if not numbers.isfinite().all():
        raise ValueError(f"{name} must be finite, got {numbers.tolist()}")
    if name == "std":
        check_all_positive(name, numbers)


def check_explanation(attributions: Tensor, shape: torch.Size) -> None:
    """A map of the size that the untouched model gave."""
    if attributions.shape != shape:
        raise ValueError(
            "explain must give maps of one shape for every model, got "
            f"{_shape(attributions)} after {tuple(shape)}"
        )


def check_per_channel(name: str, values: Tensor, inputs: Tensor) -> None:
    """A number of all channels, or one for each."""
    check_floating("inputs", inputs)
    if inputs.dim() < 3:
        raise ValueError(
            f"inputs must be pictures (N, C, *spatial), got shape {_shape(inputs)}"
        )
    if values.numel() not in (1, inputs.shape[1]):
        raise ValueError(
            f"{name} must hold 1 number or one for each of the {inputs.shape[1]} "
            f"channels, got {values.numel()}"
        )
    if not values.isfinite().all():
        raise ValueError(f"{name} must be finite, got {values.tolist()}")


def check_labels(labels: object, inputs: Tensor) -> None:
    """The class of each input."""
    if not isinstance(labels, Tensor) or not _holds_integers(labels):
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of integers, got {given}{_UNMIXED}")
    if labels.shape != inputs.shape[:1]:
        raise ValueError(
            f"labels must be one class for each of {len(inputs)} inputs, (N,), got "
            f"shape {_shape(labels)}{_UNMIXED}"
        )


_UNMIXED = "; blend before transforms that mix classes, such as MixUp"


def check_all_positive(name: str, values: Tensor) -> None:
    """Numbers above 0."""
    if not (values > 0).all():
        raise ValueError(f"{name} must be above 0, got {values.flatten().tolist()}")


def check_probabilities(p: Tensor) -> None:
    """Probabilities of two or more classes, up to rounding in half precision."""
    if p.dim() != 2 or p.shape[1] < 2:
        raise ValueError(
            "forward_func must give the probabilities of two or more classes, (N, C), "
            f"got shape {_shape(p)}; output_func may reshape them"
        )
    sums = p.sum(1)
    if not ((p >= 0).all() and (sums - 1).abs().max() < 0.02):
        raise ValueError(
            "forward_func must give probabilities, numbers of at least 0 whose sum is "
            f"1, got a least one of {p.min():.3g} and a largest sum of "
            f"{sums.max():.3g}; pass output_func=lambda y: y.softmax(1) for logits"
        )


def check_pictures(inputs: Sequence[Tensor]) -> int:
    """Inputs with spatial axes, the same number of them in each; returns it."""
    for tensor in inputs:
        if not 3 <= tensor.dim() <= 5 or tensor.dim() != inputs[0].dim():
            shapes = ", ".join(_shape(tensor) for tensor in inputs)
            raise ValueError(
                "inputs must have 1 to 3 spatial axes to be masked, (N, C, *spatial), "
                f"all the same number, got shapes {shapes}; pass what is not to be "
                "masked as additional_forward_args"
            )
    return inputs[0].dim() - 2


def check_grid(grid_size: object, sizes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Cells along every spatial axis, no more than pixels."""
    axes = len(sizes[0])
    cells = grid_size if isinstance(grid_size, tuple) else (grid_size,) * axes
    if len(cells) != axes:
        raise ValueError(
            "grid_size must be one number of cells, or one for each of the inputs' "
            f"{axes} spatial axes, got {len(cells)}"
        )
    counts = tuple(check_count("grid_size", count) for count in cells)
    for size in sizes:
        if any(count > side for count, side in zip(counts, size, strict=True)):
            raise ValueError(
                "grid_size must be at most the number of pixels of each axis, "
                f"{tuple(size)}, got {counts}"
            )
    return counts


def check_scales(scales: object) -> None:
    """Numbers above 0, at least one."""
    if not _listed(scales):
        raise TypeError(
            "scales must be a sequence of Felzenszwalb's scales, at least one, got "
            f"{_kind(scales)}"
        )
    for scale in _listed(scales):
        check_number("scales", scale, "(0, inf)")


def check_rgb(inputs: Sequence[Tensor]) -> Tensor:
    """Pictures in one tensor."""
    if len(inputs) > 1 or inputs[0].dim() != 4:
        shapes = ", ".join(_shape(tensor) for tensor in inputs)
        raise ValueError(
            "inputs must be pictures (N, C, H, W) in one tensor to be segmented, got "
            f"{shapes}; pass everything else as additional_forward_args"
        )
    return inputs[0]


def check_black_and_white(black: Tensor, white: Tensor) -> None:
    """Two colours, the second one lighter in every channel."""
    if not (white > black).all():
        raise ValueError(
            "white must be above black in every channel, got others; for inputs "
            "normalised as (picture - mean) / std they are (1 - mean) / std and "
            "-mean / std"
        )
