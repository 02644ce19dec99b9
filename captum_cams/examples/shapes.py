"""Pictures of textured shapes, drawn on the spot: nothing to download."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Each form is a signed distance in units in which it about fills [-1, 1]:
# negative inside, and near the edge as steep as the distance itself.


def _disk(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.8


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    slanted = math.sqrt(0.75) * x.abs() - 0.5 * y
    return torch.maximum(slanted, y) - 0.5


def _star(x: Tensor, y: Tensor) -> Tensor:
    # Fold the plane onto half of one point of five, whose edge is one line.
    fifth = 2 * math.pi / 5
    angle = torch.atan2(x, y)
    angle = (angle - fifth * torch.round(angle / fifth)).abs()
    radius = torch.hypot(x, y)
    inner = 0.42
    edge_x = inner * math.sin(fifth / 2)
    edge_y = inner * math.cos(fifth / 2) - 1
    across = radius * torch.sin(angle) * -edge_y
    along = (radius * torch.cos(angle) - 1) * edge_x
    return (across + along) / math.hypot(edge_x, edge_y)


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.77).abs() - 0.23


def _cross(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    long, short = torch.maximum(x, y), torch.minimum(x, y)
    return torch.maximum(long - 1, short - 0.3)


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 1, 0.8 - torch.hypot(x - 0.5, y))


def _heart(x: Tensor, y: Tensor) -> Tensor:
    # A square with a half disk on two neighboring sides.
    side = 0.55
    square = torch.maximum(x.abs(), y.abs())
    right = torch.hypot(x - side, y)
    upper = torch.hypot(x, y - side)
    return torch.minimum(torch.minimum(right, upper), square) - side


_Form = Callable[[Tensor, Tensor], Tensor]

_FORMS: dict[str, _Form] = {
    "disk": _disk,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
}

CLASSES: tuple[str, ...] = tuple(_FORMS)

# Weights of two crossed waves, their product, noise and 1 in the logit between
# a texture's two colors, then the share of the drawn frequency.
_TEXTURES = torch.tensor(
    [
        [4.0, 0.0, 0.0, 0.0, 0.0, 1.0],  # stripes
        [0.0, 0.0, 8.0, 0.0, 0.0, 0.8],  # checks
        [6.0, 6.0, 0.0, 0.0, -5.0, 1.0],  # dots
        [0.0, 0.0, 0.0, 4.0, 0.0, 1.0],  # noise
        [2.0, 0.0, 0.0, 0.0, 0.0, 0.07],  # a gradient
    ]
)


class ShapePictures(NamedTuple):
    """Pictures of one shape each, with what they show and where."""

    images: Tensor
    """(N, 3, size, size), float32 in [0, 1]."""
    labels: Tensor
    """(N,), int64: indices into ``CLASSES``."""
    boxes: Tensor
    """(N, 4), float32: x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""


class _Draw:
    """Uniform random numbers from a generator of each picture's own."""

    def __init__(self, n: int, seed: int) -> None:
        # The CPU generator reads 32 bits. The golden ratio keeps the runs of
        # neighboring seeds far apart.
        first = seed * 0x9E3779B1
        self.generators = [
            torch.Generator().manual_seed((first + i) % 2**32) for i in range(n)
        ]

    def __call__(self, k: int, low: float = 0, high: float = 1) -> Tensor:
        rows = [torch.rand(k, generator=g) for g in self.generators]
        return low + (high - low) * torch.stack(rows)  # (N, k)

    def number(self, low: float = 0, high: float = 1) -> Tensor:
        return self(1, low, high)[:, :, None]  # (N, 1, 1)


def _paint(
    draw: _Draw, x: Tensor, y: Tensor, unlike: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A random texture (N, 3, H, W) and its main color (N, 3)."""
    kind = (draw(1) * len(_TEXTURES)).long().flatten()  # (N,)
    parts = _TEXTURES[kind].T[:, :, None, None]  # (6, N, 1, 1)
    first, second, product, noisy, always, pace = parts
    angle = draw.number(0, math.pi)
    step = 2 * math.pi * pace * draw.number(5, 14)
    cos, sin = step * angle.cos(), step * angle.sin()
    u = torch.sin(cos * x + sin * y + draw.number(0, 2 * math.pi))  # (N, H, W)
    w = torch.sin(cos * y - sin * x + draw.number(0, 2 * math.pi))  # (N, H, W)
    coarse = draw(256, -2, 2).reshape(-1, 1, 16, 16)  # (N, 1, 16, 16)
    noise = F.interpolate(
        coarse, size=u.shape[-2:], mode="bilinear", align_corners=False
    ).squeeze(1)  # (N, H, W)
    mix = first * u + second * w + product * (u * w) + noisy * noise + always
    mix = torch.sigmoid(mix)[:, None]  # (N, 1, H, W)

    colors = draw(15).reshape(-1, 5, 3)  # (N, 5, 3)
    if unlike is None:
        color = colors[:, 0]  # (N, 3)
    else:
        apart = (colors - unlike[:, None]).norm(dim=2)  # (N, 5)
        color = colors[torch.arange(len(apart)), apart.argmax(1)]  # (N, 3)
    other = (color + draw(3, -0.35, 0.35)).clamp(0, 1)  # (N, 3)
    start = color[:, :, None, None]  # (N, 3, 1, 1)
    change = (other - color)[:, :, None, None]  # (N, 3, 1, 1)
    return torch.addcmul(start, change, mix), (color + other) / 2


def _draw_form(
    form: _Form, angle: Tensor, area: Tensor, spot: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Where a form lies (M, 2) and how much of each pixel it takes (M, H, W)."""
    size = x.shape[-1]
    cos, sin = angle.cos(), angle.sin()  # (M, 1)
    unit = torch.linspace(-1.2, 1.2, 97)
    v, u = torch.meshgrid(unit, unit, indexing="ij")
    edge = form(u, v).abs() < 0.03
    u, v = u[edge], v[edge]  # (K,)
    outline = torch.stack([cos * u - sin * v, sin * u + cos * v], 2)  # (M, K, 2)
    low, high = outline.amin(1), outline.amax(1)  # (M, 2)
    sides = high - low
    margin = 0.02 + 1 / size
    scale = (area / sides.prod(1, keepdim=True)).sqrt()  # (M, 1)
    scale = scale.minimum((1 - 2 * margin) / sides.amax(1, keepdim=True))
    room = 1 - 2 * margin - scale * sides
    center = margin + spot * room - scale * low  # (M, 2)

    scale, cos, sin = scale[..., None], cos[..., None], sin[..., None]  # (M, 1, 1)
    right = (x - center[:, 0, None, None]) / scale  # (M, 1, W)
    down = (y - center[:, 1, None, None]) / scale  # (M, H, 1)
    distance = form(cos * right + sin * down, cos * down - sin * right)  # (M, H, W)
    return center, (0.5 - size * scale * distance).clamp(0, 1)


def _distract(draw: _Draw, center: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The cover (N, H, W) of a soft ellipse or patch beside the center (N, 2)."""
    # Off in both directions, going round at the picture's edges.
    middle = (center + draw(2, 0.3, 0.7)) % 1
    right = x - middle[:, 0, None, None]  # (N, 1, W)
    down = y - middle[:, 1, None, None]  # (N, H, 1)
    angle = draw.number(0, math.pi)
    cos, sin = angle.cos(), angle.sin()
    long = draw.number(0.12, 0.3)
    short = long * draw.number(0.25, 0.6)
    u = cos / long * right + sin / long * down  # (N, H, W)
    w = cos / short * down - sin / short * right  # (N, H, W)
    ellipse = torch.hypot(u, w)
    patch = torch.maximum(u.abs(), w.abs())
    radius = torch.where(draw.number() < 0.6, ellipse, patch)
    soft = draw.number(0.01, 0.04)
    return torch.sigmoid((1 - radius) * short / soft)


def _render(n: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (N, 3, H, W), labels (N,) and the shapes' cover (N, H, W)."""
    draw = _Draw(n, seed)
    # Coordinates run from 0 to 1 over the picture.
    x = ((torch.arange(size) + 0.5) / size).reshape(1, 1, -1)  # (1, 1, W)
    y = x.transpose(1, 2)  # (1, H, 1)
    labels = (draw(1) * len(CLASSES)).long().flatten()  # (N,)
    angle, area, spot = draw(1, 0, 2 * math.pi), draw(1, 0.09, 0.43), draw(2)
    center = torch.empty(n, 2)
    cover = torch.empty(n, size, size)
    for label, form in enumerate(_FORMS.values()):
        own = labels == label
        center[own], cover[own] = _draw_form(
            form, angle[own], area[own], spot[own], x, y
        )

    images, ground = _paint(draw, x, y)
    count = 1 + (draw.number() * 3).floor()
    for i in range(3):
        opaque = _distract(draw, center, x, y) * (i < count)
        texture, _ = _paint(draw, x, y, ground)
        images = images.lerp(texture, opaque[:, None])
    texture, _ = _paint(draw, x, y, ground)
    images = images.lerp(texture, cover[:, None])
    grain = draw(size * size, -0.03, 0.03).reshape(-1, 1, size, size)  # (N, 1, H, W)
    return (images + grain).clamp(0, 1), labels, cover


def _check_pictures(n: int, size: int) -> None:
    """At least one picture, large enough for its shape."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}: ask for a picture or more.")
    if size < 64:
        raise ValueError(
            f"size must be at least 64 pixels, got {size}: draw larger pictures."
        )


def shape_pictures(n: int, size: int = 128, seed: int = 0) -> ShapePictures:
    """
    Draw pictures which show one textured shape each.

    The shape lies anywhere, turned by any angle, entirely inside the picture;
    its bounding box takes about 8% to 45% of the picture. Around and behind it
    lie one to three soft-edged ellipses or patches of no class. Colors and
    textures are drawn without regard to the class: only the form tells it.

    Args:
        n (int): How many pictures, at least 1.
        size (int, optional): Height and width in pixels, at least 64.
            Default: ``128``
        seed (int, optional): Another seed gives other pictures, the same seed
            the same ones: picture ``i`` depends on ``seed``, ``i`` and
            ``size`` only. PyTorch's own random state is neither read nor
            changed.
            Default: ``0``

    Returns:
        ShapePictures: ``images`` (N, 3, size, size) in [0, 1], ``labels`` (N,),
            indices into ``CLASSES``, and ``boxes`` (N, 4), the x0, y0, x1, y1 of
            the drawn shapes in pixels, x1 and y1 exclusive.

    Raises:
        ValueError: For ``n`` below 1 or ``size`` below 64.

    Examples::

        >>> from captum_cams.examples import CLASSES, shape_pictures
        >>> images, labels, boxes = shape_pictures(2)
        >>> images.shape, labels.shape, boxes.shape
        (torch.Size([2, 3, 128, 128]), torch.Size([2]), torch.Size([2, 4]))
        >>> [CLASSES[label] for label in labels]
        ['star', 'crescent']
    """
    _check_pictures(n, size)
    images, labels, cover = _render(n, size, seed)
    drawn = cover > 0
    ends = []
    for line in (drawn.any(1), drawn.any(2)):  # (N, W), then (N, H)
        first = line.int().argmax(1)  # (N,)
        last = size - line.flip(1).int().argmax(1)  # (N,)
        ends.append((first, last))
    (x0, x1), (y0, y1) = ends
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()  # (N, 4)
    return ShapePictures(images, labels, boxes)


def shape_masks(n: int, size: int = 128, seed: int = 0) -> Tensor:
    """
    Tell where the shapes of :func:`shape_pictures` lie, pixel by pixel.

    Args:
        n (int): As there.
        size (int, optional): As there.
            Default: ``128``
        seed (int, optional): As there.
            Default: ``0``

    Returns:
        Tensor: (N, size, size), bool: True where at least half of a pixel is
            the shape's.

    Raises:
        ValueError: For ``n`` below 1 or ``size`` below 64.

    Examples::

        >>> from captum_cams.examples import shape_masks
        >>> shape_masks(2).shape
        torch.Size([2, 128, 128])
    """
    _check_pictures(n, size)
    return _render(n, size, seed)[2] >= 0.5
