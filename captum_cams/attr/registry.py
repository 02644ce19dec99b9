"""The methods by name, and what each class declares about itself."""

import inspect
import re
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from captum.attr import (
    Attribution,
    GuidedBackprop,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
)
from torch.nn import Module, ReLU

from captum_cams._validation import check_callable, check_count, check_flags

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
    r"""
    A method of :data:`METHODS`. Only the class must be given.

    Classes that derive from Captum's `LayerAttribution` are built from a model and a
    layer, the others from a model alone.

    Args:
        attribution (type): The class, one of Captum's `Attribution`.
        defaults (dict): Keyword arguments of `attribute` that make the paper's map
            where the defaults of `attribute` do not. Default: none
        colors (dict): Arguments of `attribute` that want a ``"black"`` or a
            ``"white"`` picture as the model takes it. Default: none
        explains_log (bool): Whether the paper explains a score S with probability
            exp S: of a model that gives probabilities, their logarithm. Default: False
        several_layers (bool): Whether the class takes a list of layers, which then
            share their passes. Default: False
        seed_arguments (Callable, optional): Gives, for a seed, the arguments of
            `attribute` that make its random numbers. Default: None, where it draws
            none, or draws them from torch's common generator, which the evaluation
            seeds
        limited_by_channels (str, optional): An argument of `attribute` that is at most
            the number of the layer's channels. Default: None
        optional_dependencies (dict): For each module that the method imports beyond
            the package's own dependencies what pip installs for it. Default: none
        input_sized (bool): Whether the maps of a layer have the input's size instead
            of the layer's. Default: False
        sum_channels (bool): Whether `attribute` gives a value for each channel of the
            input, (N, C, \*spatial), as Captum's own methods of whole models do: the
            map is the sum of their magnitudes. Default: False
        needs_module (type, optional): A class of modules whose gradients the method
            changes, so that a model without any is refused. Default: None
        gradients (bool): Whether the layer's gradients are needed. Default: True
        test_arguments (dict): Arguments of `attribute` that keep the method quick, and
            let it take pictures of a few pixels, in tests. Default: none
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
    explains_log: bool = False
    several_layers: bool = False
    seed_arguments: Callable[[int], Mapping[str, Any]] | None = None
    limited_by_channels: str | None = None
    optional_dependencies: Mapping[str, str] = field(default_factory=dict)
    input_sized: bool = False
    sum_channels: bool = False
    needs_module: type[Module] | None = None
    gradients: bool = True
    test_arguments: Mapping[str, Any] = field(default_factory=dict)
    axioms: frozenset[Axiom] | set[Axiom] = frozenset()
    homogeneity: int | None = None

    def __post_init__(self) -> None:
        _check_class(self.attribution)
        check_flags(
            explains_log=self.explains_log,
            several_layers=self.several_layers,
            input_sized=self.input_sized,
            sum_channels=self.sum_channels,
            gradients=self.gradients,
        )
        kind = self.needs_module
        if kind is not None and not (
            isinstance(kind, type) and issubclass(kind, Module)
        ):
            raise TypeError(
                "needs_module must be a class of torch.nn.Module, or None, got "
                f"{kind!r}"
            )
        check_callable("seed_arguments", self.seed_arguments, optional=True)
        if self.homogeneity is not None:
            check_count("homogeneity", self.homogeneity, least=0)
        for argument in (*self.defaults, *self.colors, *self.test_arguments):
            if not self.takes(argument):
                raise ValueError(
                    f"{self.attribution.__name__}.attribute must take what is declared "
                    f"of it, got {argument!r}, which is none of its arguments"
                )
        limited = self.limited_by_channels
        default = getattr(self.arguments.get(limited or ""), "default", None)
        if limited is not None and not isinstance(default, int):
            raise ValueError(
                "limited_by_channels must be an argument whose default is an integer, "
                f"got {limited!r}"
            )
        _check_words("colors", self.colors.values(), ("black", "white"))
        _check_words("axioms", self.axioms, get_args(Axiom))

    @property
    def has_layer(self) -> bool:
        """Whether it looks at a layer."""
        return issubclass(self.attribution, LayerAttribution)

    @property
    def arguments(self) -> Mapping[str, inspect.Parameter]:
        """The arguments of `attribute`."""
        return inspect.signature(self.attribution.attribute).parameters

    def maps(self, attributions: Any) -> Any:
        r"""Maps (N, 1, \*spatial), or lists of them, of what `attribute` gives."""
        if not self.sum_channels:
            return attributions
        return attributions.abs().sum(1, keepdim=True)  # (N, 1, *spatial)

    def takes(self, argument: str) -> bool:
        """Whether `attribute` has an argument of this name."""
        parameters = self.arguments.values()
        return any(p.name == argument or p.kind is p.VAR_KEYWORD for p in parameters)


def _check_class(attribution: object) -> None:
    """A class that is built and asked for maps as Captum's are."""
    if not isinstance(attribution, type) or not issubclass(attribution, Attribution):
        raise TypeError(
            "attribution must be a class of captum.attr.Attribution, got "
            f"{attribution!r}"
        )
    if inspect.isabstract(attribution):
        raise TypeError(
            "attribution must be a class that can be built, got the abstract "
            f"{attribution.__name__}"
        )
    has_layer = issubclass(attribution, LayerAttribution)
    try:
        inspect.signature(attribution).bind(*[None] * (1 + has_layer))
        inspect.signature(attribution.attribute).bind(None, None, target=None)
    except (AttributeError, TypeError) as error:
        made = "a model and a layer" if has_layer else "a model"
        raise TypeError(
            f"attribution must be a class that is built from {made} and has a method "
            f"attribute(inputs, target), got {attribution.__name__}: {error}"
        ) from None


def _check_words(name: str, words: Iterable[str], known: Sequence[str]) -> None:
    for word in words:
        if word not in known:
            raise ValueError(f"{name} must be of {', '.join(known)}, got {word!r}")


class _Methods(UserDict[str, Method]):
    """Methods by names that commands can spell."""

    def __setitem__(self, name: str, method: Method) -> None:
        pattern = r"(?!all$)[a-z0-9]+(-[a-z0-9]+)*"  # commands take all for every one
        if not isinstance(name, str) or not re.fullmatch(pattern, name):
            raise ValueError(
                "name must be of lower-case letters and digits, joined by hyphens, "
                f"such as 'my-cam', and not 'all', got {name!r}"
            )
        if not isinstance(method, Method):
            raise TypeError(f"{name} must be a Method(...), got {method!r}")
        super().__setitem__(name, method)


METHODS = _Methods()
"""The methods that commands, evaluation and tests know."""


def register(name: str, **declaration: Any) -> Callable[[A], A]:
    """
    Decorates a class of attributions, which then is one of :data:`METHODS`.

    Commands and :func:`captum_cams.evaluation.evaluate` take it by its name from then
    on. On the command line, where nothing imports the class before, it is named with
    its module: ``captum-cams evaluate --methods my_module:MyCam``.
    ``METHODS["my-cam"] = Method(MyCam)`` does the same for a class that is there.

    Args:
        name (str): What commands call it, such as ``rsi-grad-cam``. A name that is
            taken belongs to the new class from then on.
        **declaration: All of :class:`Method` but the class.

    Returns:
        *Callable*, which returns the class as it is.

    Raises:
        ValueError, TypeError: If the name or the declaration does not fit.

    Examples::

        >>> from tempfile import TemporaryDirectory
        >>> from captum_cams.attr.gradient_cams import GradientCamAttribution
        >>> from captum_cams.evaluation import evaluate
        >>> @register("absolute-grad-cam", several_layers=True, homogeneity=1)
        ... class LayerAbsoluteGradCam(GradientCamAttribution):
        ...     def weights(self, activations, gradients):
        ...         return gradients.abs().mean((2, 3), keepdim=True)
        >>> with TemporaryDirectory() as folder:
        ...     records = evaluate(
        ...         folder,
        ...         layers=["block4", "block5"],
        ...         methods=["absolute-grad-cam"],
        ...         metrics=["pixel_energy"],
        ...         protocol="igc",
        ...         limit=1,
        ...     )
        ...     [(record["method"], record["layer"]) for record in records]
        [('absolute-grad-cam', 'block4'), ('absolute-grad-cam', 'block5')]
        >>> del METHODS["absolute-grad-cam"]
    """

    def add(kind: A) -> A:
        METHODS[name] = Method(kind, **declaration)
        return kind

    return add


# Captum's own. Grad-CAM has the final ReLU of its paper.
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
# It changes the gradients of nn.ReLU, in place or used again as it may be. Those of a
# function such as F.relu, or of another module such as ReLU6, stay as they are.
register(
    "guided-backprop",
    sum_channels=True,
    needs_module=ReLU,
    axioms={"input_invariance"},
    homogeneity=1,
)(GuidedBackprop)
register(
    "integrated-gradients",
    # All steps of all examples would go through the model together.
    defaults={"internal_batch_size": 8},
    colors={"baselines": "black"},
    sum_channels=True,
    test_arguments={"n_steps": 3},
    axioms={"implementation_invariance", "input_invariance"},
    homogeneity=1,
)(IntegratedGradients)
