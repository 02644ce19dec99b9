r"""
What turns a layer's output into feature maps (N, K, \*spatial): `reshape_transform`.

Pure tensors, no model. A transform is a selection and rearrangement of elements: the
same one is applied to activations and to gradients.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from captum_cams._checks import check_axes, check_tokens


def vit_tokens(
    tokens: Tensor, grid: Sequence[int] | None = None, prefix_tokens: int = 1
) -> Tensor:
    r"""
    Tokens of a vision transformer's patches as feature maps.

    The class token is dropped, and with it what it carries: behind the last attention
    the output depends on the class token alone. A sensible layer is thus one before
    it, such as torchvision's ``vit.encoder.layers[-1].ln_1``.

    Args:
        tokens (Tensor): (N, tokens, K), the class token first, then the patches row by
            row.
        grid (sequence of int, optional): Patches along each spatial axis. Default:
            None, a square
        prefix_tokens (int): Tokens before those of the patches: 0 without a class
            token, 2 with a distillation token, and so on. Default: 1

    Returns:
        *Tensor*, (N, K, \*grid).

    Raises:
        ValueError: If the tokens do not fill the grid.

    Examples::

        >>> import torch
        >>> vit_tokens(torch.zeros(2, 197, 768)).shape
        torch.Size([2, 768, 14, 14])

        Other grids and numbers of tokens are bound by ``functools.partial``:

        >>> from functools import partial
        >>> wide = partial(vit_tokens, grid=(7, 14), prefix_tokens=5)
        >>> wide(torch.zeros(2, 103, 384)).shape
        torch.Size([2, 384, 7, 14])
    """
    check_axes("vit_tokens", tokens, "(N, tokens, K)", 3)
    patches = tokens[:, prefix_tokens:]  # (N, patches, K)
    if grid is None:
        grid = [math.isqrt(patches.shape[1])] * 2
    check_tokens(tokens, prefix_tokens, grid)
    shape = (len(tokens), tokens.shape[2], *grid)
    return patches.transpose(1, 2).reshape(shape)  # (N, K, *grid)


def channels_last(maps: Tensor) -> Tensor:
    r"""
    Feature maps whose channels are their last axis, as those of a Swin transformer.

    Args:
        maps (Tensor): (N, \*spatial, K).

    Returns:
        *Tensor*, (N, K, \*spatial).

    Examples::

        >>> import torch
        >>> channels_last(torch.zeros(2, 7, 7, 768)).shape
        torch.Size([2, 768, 7, 7])
    """
    check_axes("channels_last", maps, r"(N, *spatial, K)")
    return maps.movedim(-1, 1)  # (N, K, *spatial)
