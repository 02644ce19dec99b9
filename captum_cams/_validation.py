"""
Argument validation, and the warnings that tell why a map may mislead.

A message names the argument, what was expected, what came, and the remedy.
"""

import math
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from captum_cams._nested import describe, find_tensors


class UserError(ValueError):
    """What the user of a command can put right, in one sentence."""


def kind_of(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {shape_of(value)}"
    shown = value is None or isinstance(value, (Real, str))
    return repr(value) if shown else type(value).__name__


def shape_of(tensor: Tensor) -> str:
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
    """Each True or False: any word would count as true, whatever it says."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, got {kind_of(value)}")


def check_callable(
    name: str, value: object, *, optional: bool = False, remedy: str = ""
) -> None:
    """What can be called, or None where it is optional."""
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


def check_real(name: str, tensor: object) -> None:
    """A tensor of numbers that are not complex."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {kind_of(tensor)}")
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
        given = getattr(baseline, "dtype", type(baseline).__name__)
        raise TypeError(f"{name} must be tensors or numbers, got {given}")
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
            raise TypeError(f"target must hold integers, got {target.dtype}")
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


def check_one_tensor(tensors: Sequence[Tensor]) -> None:
    """A layer that gives a single tensor."""
    if len(tensors) > 1:
        raise ValueError(
            f"layer must give one tensor here, got {len(tensors)}; choose a module "
            "that gives one of them"
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
            f"dtype, got {kind_of(maps)} for the layer's {describe(given)}"
        )
    return maps


def check_axes(name: str, tensor: Tensor, wanted: str, dims: int | None = None) -> None:
    """A tensor of so many axes, or of three at least."""
    if tensor.dim() != dims if dims else tensor.dim() < 3:
        raise ValueError(
            f"{name} takes a layer's tensor {wanted}, got shape {shape_of(tensor)}; "
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
            f"shape {shape_of(tensor)}; choose another layer"
        )
    return tensor


def check_batch(tensor: Tensor, rows: int) -> None:
    """A row for each example, also where a layer's tensor was transformed."""
    if tensor.shape[0] != rows:
        raise ValueError(
            f"layer must give one row for each of its {rows} examples, got shape "
            f"{shape_of(tensor)}; choose another layer, or a reshape_transform that "
            "keeps the rows"
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
            f"one example and one pixel, got shape {shape_of(attributions)}"
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
            f"shape {shape_of(attributions)}; sum over channels where there are several"
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
                f"shape {shape_of(tensor)}; pass what is not to be masked as "
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
            f"{shape_of(values)}"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"{name} must lie in [0, 1], as maps are normalised to it, got "
            f"{values.tolist()}"
        )


def list_of(values: object) -> list[Any]:
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
            f"regions must be boolean masks (N, *spatial), got shape {shape_of(regions)}"
        )
    shape = tuple(regions.shape[1:])
    if size is not None and list_of(size) != [*shape]:
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
                f"{kind_of(boxes)} for example {example}"
            )
        if not ((boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])).all():
            raise ValueError(
                "regions must hold boxes x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, "
                f"got others for example {example}; "
                "torchvision.ops.box_convert turns x, y, width, height into them"
            )
    sides = list_of(size)
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
            f"shapes {shape_of(hits)} and {shape_of(categories)}"
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
            f"output down, got {kind_of(names) if names else 'none'}"
        )
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise ValueError(
                "layers must be names out of model.named_modules(), got "
                f"{kind_of(name)}, which is not one of them"
            )
    return list(names)


def check_words(name: str, words: object) -> list[str]:
    """Words in a list, or one alone."""
    if isinstance(words, str):
        return [words]
    listed: list[Any] = list(words) if isinstance(words, Iterable) else [words]
    if not listed or not all(isinstance(word, str) for word in listed):
        given = ", ".join(map(kind_of, listed)) or "none"
        raise TypeError(f"{name} must be a list of names, got {given}")
    return listed


def check_mapping(name: str, value: object) -> None:
    """Names of methods, with something for each."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(
            f"{name} must be a dict of tensors by the methods' names, got "
            f"{kind_of(value)}"
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
            f"{kind_of(values)}"
        )
    for row in rows:
        if isinstance(row, Tensor) and row.shape[-1:] != (4,):
            raise ValueError(
                f"{name} must hold x0, y0, x1, y1 of each box, got shape {shape_of(row)}"
            )
    if len(rows) != number:
        raise ValueError(
            f"{name} must be as many as the pictures, {number}, got {len(rows)}"
        )
    return rows


def check_file(name: str, value: object) -> None:
    """The path of a file or a folder."""
    if not isinstance(value, (str, PathLike)):
        raise TypeError(f"{name} must be a path, got {kind_of(value)}")


def check_model_or_name(model: object) -> None:
    """A module, or a word that leads to one."""
    if model is not None and not isinstance(model, (str, Module)):
        raise TypeError(
            "model must be a classifier of torchvision by its name, "
            f"'module:callable', or a torch.nn.Module, got {kind_of(model)}"
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
            f"{shape_of(attributions)} after {tuple(shape)}"
        )


def check_per_channel(name: str, values: Tensor, inputs: Tensor) -> None:
    """A number of all channels, or one for each."""
    check_floating("inputs", inputs)
    if inputs.dim() < 3:
        raise ValueError(
            f"inputs must be pictures (N, C, *spatial), got shape {shape_of(inputs)}"
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
            f"shape {shape_of(labels)}{_UNMIXED}"
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
            f"got shape {shape_of(p)}; output_func may reshape them"
        )
    sums = p.sum(1)
    if not ((p >= 0).all() and (sums - 1).abs().max() < 0.02):
        raise ValueError(
            "forward_func must give probabilities, numbers of at least 0 whose sum is "
            f"1, got a least one of {p.min():.3g} and a largest sum of "
            f"{sums.max():.3g}; pass output_func=lambda y: y.softmax(1) for logits"
        )
