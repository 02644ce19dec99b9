"""The methods by name, and what each class declares about itself."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from captum.attr import Attribution, LayerAttribution, LayerGradCam

Axiom = Literal[
    "dummy",
    "symmetry",
    "linearity",
    "implementation_invariance",
    "input_invariance",
    "channel_scaling",
    "channel_mixing",
]
A = TypeVar("A", bound=type[Attribution])


@dataclass(frozen=True)
class Method:
    """
    A method of :data:`METHODS`. Only the class must be given.

    Classes that derive from Captum's `LayerAttribution` are built from a model and a
    layer, the others from a model alone.

    Args:
        attribution (type): The class, one of Captum's `Attribution`.
        defaults (dict): Keyword arguments of `attribute` that make the paper's map
            where the defaults of `attribute` do not. Default: none
        colors (dict): Arguments of `attribute` that want a ``"black"`` or a
            ``"white"`` picture as the model takes it. Default: none
        log (bool): Whether the paper explains a score S with probability exp S: of a
            model that gives probabilities, their logarithm. Default: False
        several_layers (bool): Whether the class takes a list of layers, which then
            share their passes. Default: False
        seeded (Callable, optional): Gives, for a seed, the arguments of `attribute`
            that make its random numbers. Default: None, as it draws none
        limited_by_channels (str, optional): An argument of `attribute` that is at most
            the number of the layer's channels. Default: None
        libraries (dict): For each module that the method imports beyond the package's
            own dependencies what pip installs for it. Default: none
        input_sized (bool): Whether the maps of a layer have the input's size instead
            of the layer's. Default: False
        gradients (bool): Whether the layer's gradients are needed. Default: True
        small (dict): Arguments of `attribute` that keep the method quick, and let it
            take pictures of a few pixels, in tests. Default: none
        axioms (set of str): What holds of its maps, and is tested: ``dummy``, a channel
            that the output does not depend on gets nothing; ``symmetry``, channels
            that are alike to the output and in value get the same; ``linearity``, of
            maps that are not rectified, in the output; ``implementation_invariance``,
            maps do not depend on how the output is computed from the layer;
            ``input_invariance``, nor on a shift of the input and the baseline that the
            model undoes; ``channel_scaling``, nor on the scale of each channel;
            ``channel_mixing``, nor on how an orthogonal matrix mixes the channels.
            Default: none
        homogeneity (int, optional): The degree d where c times the output gives c^d
            times the map. Default: None, there is none
    """

    attribution: type[Attribution]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    colors: Mapping[str, str] = field(default_factory=dict)
    log: bool = False
    several_layers: bool = False
    seeded: Callable[[int], Mapping[str, Any]] | None = None
    limited_by_channels: str | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    input_sized: bool = False
    gradients: bool = True
    small: Mapping[str, Any] = field(default_factory=dict)
    axioms: frozenset[Axiom] | set[Axiom] = frozenset()
    homogeneity: int | None = None

    def __post_init__(self) -> None:
        kind: object = self.attribution
        if not isinstance(kind, type) or not issubclass(kind, Attribution):
            raise TypeError(
                f"attribution must be a class of captum.attr.Attribution, got {kind!r}"
            )

    @property
    def has_layer(self) -> bool:
        """Whether it looks at a layer."""
        return issubclass(self.attribution, LayerAttribution)


METHODS: dict[str, Method] = {}
"""The methods that commands, evaluation and tests know."""


def register(name: str, **declaration: Any) -> Callable[[A], A]:
    """
    Decorates a class of attributions, which then is one of :data:`METHODS`.

    Args:
        name (str): What commands call it, such as ``rsi-grad-cam``. A name that is
            taken belongs to the new class from then on.
        **declaration: All of :class:`Method` but the class.

    Returns:
        *Callable*, which returns the class as it is.

    Raises:
        ValueError, TypeError: If the name or the declaration does not fit.

    Examples::

        >>> from captum_cams.attr.gradient_cams import GradientCamAttribution
        >>> @register("absolute-grad-cam", several_layers=True, homogeneity=1)
        ... class LayerAbsoluteGradCam(GradientCamAttribution):
        ...     def weights(self, activations, gradients):
        ...         return gradients.abs().mean((2, 3), keepdim=True)
        >>> METHODS["absolute-grad-cam"].has_layer
        True
        >>> del METHODS["absolute-grad-cam"]
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(
            "name must be of lower-case letters and digits, joined by hyphens, such as "
            f"'my-cam', got {name!r}"
        )

    def add(kind: A) -> A:
        METHODS[name] = Method(kind, **declaration)
        return kind

    return add


# Captum's own, with the final ReLU of its paper.
register(
    "grad-cam",
    defaults={"relu_attributions": True},
    axioms={
        "dummy",
        "symmetry",
        "linearity",
        "implementation_invariance",
        "input_invariance",
        "channel_scaling",
        "channel_mixing",
    },
    homogeneity=1,
)(LayerGradCam)
