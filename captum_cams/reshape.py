r"""
What turns a layer's output into feature maps (N, K, \*spatial): `reshape_transform`.

Pure tensors and shapes, no model. A transform is a selection and rearrangement of
elements: the same one is applied to activations and to gradients. :func:`fits` judges
whether what comes out can be feature maps of an input.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import combinations
from typing import Any, NoReturn

from torch import Tensor

from captum_cams._nested import describe, find_tensors

__all__ = [
    "Transform",
    "can_be_upsampled",
    "channels_last",
    "fits",
    "fitting",
    "vit_tokens",
]

Transform = Callable[..., Tensor]

# The tokens of the patches follow at most so many others: a class token, a distillation
# token, registers.
_MOST_PREFIX_TOKENS = 16


def vit_tokens(
    tokens: Tensor,
    grid: Sequence[int] | None = None,
    prefix_tokens: int = 1,
    *,
    input_size: Sequence[int] | None = None,
) -> Tensor:
    r"""
    Tokens of a vision transformer's patches as feature maps.

    The class token is dropped, and with it what it carries: behind the last attention
    the output depends on the class token alone. A sensible layer is thus one before
    it, such as torchvision's ``vit.encoder.layers[-1].ln_1``.

    Args:
        tokens (Tensor): (N, tokens, K), the class token first, then the patches row by
            row; or a tuple, dict or dataclass that holds them beside what is no tensor.
        grid (sequence of int, optional): Patches along each spatial axis. Default:
            None, the one grid of patches with equal sides that `input_size` leaves;
            without `input_size` a square
        prefix_tokens (int): Tokens before those of the patches: 0 without a class
            token, 2 with a distillation token, and so on. Default: 1
        input_size (sequence of int, optional): The input's spatial sides. The methods
            of this package pass those of the first input that has any. Default: None

    Returns:
        *Tensor*, (N, K, \*grid).

    Raises:
        ValueError: If the tokens do not fill the grid; if there is no `grid`, and none
            or several fit.

    Examples::

        >>> import torch
        >>> vit_tokens(torch.zeros(2, 197, 768)).shape
        torch.Size([2, 768, 14, 14])
        >>> vit_tokens(torch.zeros(2, 257, 384), input_size=(128, 512)).shape
        torch.Size([2, 384, 8, 32])

        Other grids and numbers of tokens are bound by ``functools.partial``:

        >>> from functools import partial
        >>> wide = partial(vit_tokens, grid=(7, 14), prefix_tokens=5)
        >>> wide(torch.zeros(2, 103, 384)).shape
        torch.Size([2, 384, 7, 14])
    """
    tokens = _single_tensor(tokens)
    _check_axes("vit_tokens", tokens, "(N, tokens, K)", 3)
    patches = tokens.shape[1] - prefix_tokens
    if grid is None:
        grids = _grids(patches, input_size)
        if len(grids) != 1:
            other = _prefix_tokens(tokens.shape[1], input_size)
            _raise_no_single_grid(tokens, prefix_tokens, grids, input_size, other)
        (grid,) = grids
    _check_tokens(tokens, prefix_tokens, grid)
    shape = (len(tokens), tokens.shape[2], *grid)
    maps = tokens[:, prefix_tokens:].transpose(1, 2)  # (N, K, patches)
    return maps.reshape(shape)  # (N, K, *grid)


def channels_last(maps: Tensor) -> Tensor:
    r"""
    Feature maps whose channels are their last axis, as those of a Swin transformer.

    Args:
        maps (Tensor): (N, \*spatial, K), or what holds them beside what is no tensor.

    Returns:
        *Tensor*, (N, K, \*spatial).

    Examples::

        >>> import torch
        >>> channels_last(torch.zeros(2, 7, 7, 768)).shape
        torch.Size([2, 768, 7, 7])
    """
    maps = _single_tensor(maps)
    _check_axes("channels_last", maps, r"(N, *spatial, K)")
    return maps.movedim(-1, 1)  # (N, K, *spatial)


def _single_tensor(given: Any) -> Tensor:
    """The one tensor of feature maps in what a layer gave."""
    if isinstance(given, Tensor):
        return given
    tensors = check_feature_maps(given)
    check_one_tensor(tensors)
    return tensors[0]


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
            f"shape {tuple(tensor.shape)}; choose another layer"
        )
    return tensor


def check_one_tensor(tensors: Sequence[Tensor]) -> None:
    """A layer that gives a single tensor."""
    if len(tensors) > 1:
        raise ValueError(
            f"layer must give one tensor here, got {len(tensors)}; choose a module "
            "that gives one of them"
        )


def fits(shape: Sequence[int], inputs: Sequence[Sequence[int]]) -> bool:
    r"""
    Whether a tensor can be feature maps of an input, judged by the two shapes.

    It has the input's spatial axes, no side is longer than the input's (but for one
    pixel of padding), and one stride, a whole number, leads from the input's sides to
    all of the tensor's. Pixels that strides, padding and convolutions without padding
    add or lose are allowed for. Of three axes one, such as time, may have another
    stride. A tensor that fits better with its last axis as channels does not fit.

    Args:
        shape (sequence of int): The tensor's, (N, K, \*spatial).
        inputs (sequence of sequence of int): The shapes of one or more inputs, of which
            one must fit. Those without spatial axes judge nothing.

    Returns:
        *bool*, also True for (N, K), one number a channel, and where no input has
        spatial axes.

    Examples::

        >>> fits((1, 512, 7, 7), [(1, 3, 224, 224)])
        True
        >>> fits((1, 7, 7, 768), [(1, 3, 224, 224)])  # channels last
        False
        >>> fits((1, 384, 16, 16), [(1, 3, 128, 512)])
        False
    """
    sizes = [tuple(size[2:]) for size in inputs if len(size) > 2]
    if len(shape) < 3 or not sizes:
        return True
    return any(_fits(shape, size) for size in sizes)


def _fits(shape: Sequence[int], size: Sequence[int]) -> bool:
    if len(shape) != len(size) + 2:
        return False
    axes, others = _axes(shape[2:], size), _axes(shape[1:-1], size)
    if _is_covered(axes):
        return True
    if len(axes) > 1 and _is_covered(others):  # channels last
        return False
    return _share_stride(axes) or (
        len(axes) > 2
        and all(_share_stride([axis]) for axis in axes)
        and any(map(_share_stride, combinations(axes, 2)))
    )


def _is_covered(axes: Sequence[tuple[int, int]]) -> bool:
    """Whether square patches of one size cover the whole input."""
    return _share_stride(axes, rounding=0.5, most_lost=1)


def _axes(sides: Sequence[int], size: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sides, size, strict=True))


def _share_stride(
    axes: Sequence[tuple[int, int]], rounding: float = 1, most_lost: float = math.inf
) -> bool:
    """
    Whether one whole stride leads to the sides s of all axes from the input's sides h.

    That is s = (h - p) / stride up to `rounding`, with the same p for all axes: the
    pixels that convolutions without padding lose at the border, at most `most_lost`
    strides of them, or (p < 0) that padding adds, at most one stride of them.
    """
    for stride in range(1, max(h for _, h in axes) + 1):
        low = max(h - stride * (s + rounding) for s, h in axes)
        high = min(h - stride * (s - rounding) for s, h in axes)
        if max(low, -stride) < min(high, most_lost * stride):
            return True
    return False


def fitting(shape: Sequence[int], inputs: Sequence[Sequence[int]]) -> Transform | None:
    r"""
    The transform of this module that turns a tensor into feature maps that fit.

    Args:
        shape (sequence of int): The tensor's.
        inputs (sequence of sequence of int): As in :func:`fits`.

    Returns:
        :func:`channels_last`, :func:`vit_tokens` or a ``functools.partial`` of it with
        another number of `prefix_tokens`; None where neither fits.
    """
    for size in (tuple(size[2:]) for size in inputs if len(size) > 2):
        if len(shape) == len(size) + 2:
            last = (shape[0], shape[-1], *shape[1:-1])
            if _fits(last, size):
                return channels_last
        elif len(shape) == 3:
            prefix = _prefix_tokens(shape[1], size)
            if prefix == 1:
                return vit_tokens
            if prefix is not None:
                return partial(vit_tokens, prefix_tokens=prefix)
    return None


def remedy(shape: Sequence[int], inputs: Sequence[Sequence[int]]) -> str:
    """What to pass to a method so that what its layer gives fits, in words."""
    if len(shape) > 2 and fits(shape, inputs):
        return "no reshape_transform, as what the layer gives fits"
    transform = fitting(shape, inputs)
    if isinstance(transform, partial):
        bound = f"prefix_tokens={transform.keywords['prefix_tokens']}"
        name = f"functools.partial(captum_cams.reshape.vit_tokens, {bound})"
    elif transform is not None:
        name = f"captum_cams.reshape.{transform.__name__}"
    elif len(shape) == 3 and any(len(size) > 3 for size in inputs):
        name = "captum_cams.reshape.vit_tokens with grid= bound by functools.partial"
    else:
        return "a reshape_transform that gives feature maps of the inputs' proportions"
    return f"a reshape_transform, such as {name}"


def can_be_upsampled(shape: Sequence[int], inputs: Sequence[Sequence[int]]) -> bool:
    r"""
    Whether upsampling can make masks of all inputs from a tensor.

    More lenient than :func:`fits`: a network may treat its axes differently, or resize
    its input. Only what certainly is no mask is refused: a tensor with other axes, one
    that fits after one of this module's transforms, and one that is longer than the
    input along one axis and shorter along another.
    """
    if len(shape) < 3 or any(len(size) != len(shape) for size in inputs):
        return False
    if fits(shape, inputs):
        return True
    longer = [{s > h for s, h in _axes(shape[2:], size[2:])} for size in inputs]
    return fitting(shape, inputs) is None and any(len(ways) == 1 for ways in longer)


def sized(
    transform: Transform | None, inputs: Sequence[Sequence[int]]
) -> Transform | None:
    """
    The transform, with the input's size bound to its parameter `input_size`, if any.

    The size is the spatial sides of the first of the inputs' shapes that has any. One
    that the caller has bound stays.
    """
    size = next((tuple(size[2:]) for size in inputs if len(size) > 2), None)
    if transform is None or size is None:
        return transform
    if isinstance(transform, partial) and "input_size" in transform.keywords:
        return transform
    try:
        parameters = inspect.signature(transform).parameters
    except (TypeError, ValueError):  # a builtin's parameters are not known
        return transform
    if "input_size" not in parameters:
        return transform
    function: Callable[..., Tensor] = transform
    return partial(function, input_size=size)


def _prefix_tokens(tokens: int, input_size: Sequence[int] | None) -> int | None:
    """
    The number of tokens before those of the patches, if it leaves one grid for these.

    One class token or none is likely. More tokens must leave patches that divide the
    input without a remainder: otherwise some number of them would leave a square grid
    of almost any sequence.
    """
    likely: list[int] = [1, 0, *range(2, _MOST_PREFIX_TOKENS + 1)]
    for prefix in likely:
        grids = _grids(tokens - prefix, input_size)
        if len(grids) == 1 and (
            prefix < 2
            or input_size is None
            or all(h % side == 0 for side, h in _axes(grids[0], input_size))
        ):
            return prefix
    return None


def _grids(patches: int, input_size: Sequence[int] | None) -> list[tuple[int, ...]]:
    """The grids of so many patches that fit an input; without one, the square grid."""
    if patches < 1:
        return []
    if input_size is None:
        side = math.isqrt(patches)
        return [(side, side)] if side * side == patches else []
    return _grids_of(patches, tuple(input_size))


@lru_cache(maxsize=64)
def _grids_of(patches: int, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    """
    The grids of so many patches in an input of this size.

    Axes of equal length have equally many patches, and patches of a picture are square.
    Of three axes this holds for two: those of equal length, else the last two.
    """

    def fit(grid: tuple[int, ...]) -> bool:
        axes = _axes(grid, size)
        alike = [(a, b) for a, b in combinations(axes, 2) if a[1] == b[1]]
        if any(a != b for a, b in alike):
            return False
        # Where no two axes are equally long, the sides of the patches are compared.
        return bool(alike) or _is_covered(axes[-2:])

    return list(filter(fit, _factors(patches, size)))


def _factors(number: int, size: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The ways to write a number as a product of sides no longer than these."""
    if len(size) == 1:
        if number <= size[0]:
            yield (number,)
        return
    for side in range(1, min(number, size[0]) + 1):
        if number % side == 0:
            for others in _factors(number // side, size[1:]):
                yield side, *others


def _check_axes(
    name: str, tensor: Tensor, wanted: str, dims: int | None = None
) -> None:
    """A tensor of so many axes, or of three at least."""
    if tensor.dim() != dims if dims else tensor.dim() < 3:
        raise ValueError(
            f"{name} takes a layer's tensor {wanted}, got shape {tuple(tensor.shape)}; "
            "choose another layer or reshape_transform"
        )


def _check_tokens(tokens: Tensor, prefix_tokens: int, grid: Sequence[int]) -> None:
    """Tokens that fill a grid behind the first few."""
    patches = tokens.shape[1] - prefix_tokens
    if prefix_tokens < 0 or math.prod(grid) != patches or patches == 0:
        raise ValueError(
            "vit_tokens needs as many tokens as the grid has places, behind the "
            f"prefix_tokens, got {tokens.shape[1]} tokens with prefix_tokens = "
            f"{prefix_tokens} for the grid {tuple(grid)}; give it both with "
            "functools.partial"
        )


def _raise_no_single_grid(
    tokens: Tensor,
    prefix_tokens: int,
    grids: Sequence[tuple[int, ...]],
    input_size: Sequence[int] | None,
    other: int | None,
) -> NoReturn:
    """Patches without a grid, or with several; `other` prefix tokens leave one grid."""
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
