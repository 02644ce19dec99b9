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
from typing import Any

from torch import Tensor

from captum_cams._validation import (
    check_axes,
    check_feature_maps,
    check_one_tensor,
    check_tokens,
    raise_grid,
)

Transform = Callable[[Tensor], Tensor]

# Most tokens that are looked for before those of the patches: a class token, one of
# distillation, registers.
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
    tokens = _the_tensor(tokens)
    check_axes("vit_tokens", tokens, "(N, tokens, K)", 3)
    patches = tokens.shape[1] - prefix_tokens
    if grid is None:
        grids = _grids(patches, input_size)
        if len(grids) != 1:
            other = _prefix_tokens(tokens.shape[1], input_size)
            raise_grid(tokens, prefix_tokens, grids, input_size, other)
        (grid,) = grids
    check_tokens(tokens, prefix_tokens, grid)
    shape = (len(tokens), tokens.shape[2], *grid)
    places = tokens[:, prefix_tokens:].transpose(1, 2)  # (N, K, patches)
    return places.reshape(shape)  # (N, K, *grid)


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
    maps = _the_tensor(maps)
    check_axes("channels_last", maps, r"(N, *spatial, K)")
    return maps.movedim(-1, 1)  # (N, K, *spatial)


def _the_tensor(given: Any) -> Tensor:
    """What a layer gave: a tensor, or what holds one that can be feature maps."""
    if isinstance(given, Tensor):
        return given
    tensors = check_feature_maps(given)
    check_one_tensor(tensors)
    return tensors[0]


def fits(shape: Sequence[int], inputs: Sequence[Sequence[int]]) -> bool:
    r"""
    Whether a tensor can be feature maps of an input, judged by the two shapes.

    It has the input's spatial axes, no side is longer than the input's (but for one
    place of padding), and one stride, which must be a whole number, leads from the
    input to all of them. What strides, paddings and convolutions without padding round
    away is allowed for, and of three axes one, such as time, may have another stride;
    but not where channels in the tensor's last axis explain it better.

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
    """Whether strides as long as a square patch lead over the whole input."""
    return _share_stride(axes, rounding=0.5, most_lost=1)


def _axes(sides: Sequence[int], size: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sides, size, strict=True))


def _share_stride(
    axes: Sequence[tuple[int, int]], rounding: float = 1, most_lost: float = math.inf
) -> bool:
    """
    Whether one whole stride leads to the sides s of all axes from the input's sides h.

    That is s = (h - p) / stride up to `rounding`, with the same p for all axes: pixels
    that convolutions without padding lose at the border, `most_lost` strides of them
    at most, or that padding adds, one stride's worth at most.
    """
    for stride in range(1, max(h for _, h in axes) + 1):
        low = max(h - stride * (s + rounding) for s, h in axes)
        high = min(h - stride * (s - rounding) for s, h in axes)
        if max(low, -stride) < min(high, most_lost * stride):
            return True
    return False


def fitting(shape: Sequence[int], inputs: Sequence[Sequence[int]]) -> Transform | None:
    r"""
    The transform of this module that makes fitting feature maps of a tensor.

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
    """What to pass to a method for what a layer gives, in words."""
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


def can_be_enlarged(shape: Sequence[int], inputs: Sequence[Sequence[int]]) -> bool:
    r"""
    Whether a tensor can be made masks of all inputs by enlarging it.

    More lenient than :func:`fits`: a network may treat its axes differently, or enlarge
    its input. Refused is what is no mask for certain: other axes, a tensor that one of
    this module's transforms explains better, one longer along one axis and shorter
    along another.
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
    A transform that knows the input's size, where it asks for it.

    One with a parameter `input_size` is given the spatial sides of the first of the
    inputs' shapes that has any, unless the caller has bound others.
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
    asking: Callable[..., Tensor] = transform
    return partial(asking, input_size=size)


def _prefix_tokens(tokens: int, input_size: Sequence[int] | None) -> int | None:
    """
    The number of tokens before those of the patches, if a grid is left for these.

    A class token or none is likely. More must leave patches that fill the input
    without a remainder, as some square number is near any number.
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
    """The grids of so many patches that fit an input, or the square without one."""
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

    Axes of equal length get equally many patches, and a picture gets patches of equal
    sides. Of three axes only two need to: those of equal length, else the last two.
    """

    def fit(grid: tuple[int, ...]) -> bool:
        axes = _axes(grid, size)
        alike = [(a, b) for a, b in combinations(axes, 2) if a[1] == b[1]]
        if any(a != b for a, b in alike):
            return False
        # Axes of other lengths than all others are compared by the patches' sides.
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
