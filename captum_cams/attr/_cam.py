"""The base of the class activation maps: a model, a layer, and the form of results."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from reprlib import Repr
from typing import Any, TypeAlias, TypeVar

import torch
from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor
from torch.jit import ScriptModule
from torch.nn import Module

from captum_cams._validation import check_callable, check_finite, check_flags, kind_of
from captum_cams.layer_eval import LayerEvaluator, split_by_layer
from captum_cams.module_search import find_modules
from captum_cams.reshape import Transform, check_one_tensor
from captum_cams.target_output import TargetOutput

T = TypeVar("T")
TensorOrTuple = TypeVar("TensorOrTuple", Tensor, tuple[Tensor, ...])
"""The inputs, and maps of their form."""
LayerMaps: TypeAlias = Tensor | tuple[Tensor, ...]
"""Maps of one layer: a tuple where it gives several tensors."""
Maps: TypeAlias = LayerMaps | list[LayerMaps]
"""Maps of one layer, or a list of them where a list of layers was given."""


class ShownByName:
    """
    An attribution that shows its model, its layer's name in it, and its options.

    Examples::

        >>> from captum_cams import LayerRSIGradCam
        >>> from captum_cams.examples import shapes_model
        >>> model = shapes_model()
        >>> LayerRSIGradCam(model, model.block5)
        LayerRSIGradCam(ShapesNet, layer='block5')
    """

    def __repr__(self) -> str:
        try:
            forward_func = getattr(self, "forward_func", None)
            shown = [_name_of(forward_func)]
            if hasattr(self, "layer"):
                shown.append(f"layer={_layer_names(forward_func, self.layer)}")
            for name, option in inspect.signature(type(self)).parameters.items():
                value = getattr(self, name, option.default)
                own = name not in ("forward_func", "layer")
                if own and value is not option.default:
                    shown.append(f"{name}={_SHORT.repr(value)}")
        except Exception:  # a debugger shows what is broken, too
            return object.__repr__(self)
        return f"{type(self).__name__}({', '.join(shown)})"


class _Short(Repr):
    """Few and short parts; functions and objects by their names."""

    def repr_instance(self, x: Any, level: int) -> str:
        del level
        return _name_of(x)


_SHORT = _Short()
_SHORT.maxstring = 60  # of a layer's name


def _name_of(value: Any) -> str:
    """A function's name, and the class of anything else."""
    name = getattr(value, "__qualname__", type(value).__name__)
    return str(name).rpartition("<locals>.")[2]


class _Unquoted:
    """What stands for a layer that has no name in the model: its class."""

    def __init__(self, module: object) -> None:
        self.__qualname__ = type(module).__name__


def _layer_names(forward_func: Any, layer: Any) -> str:
    """The names of layers in the model that holds them, or else their classes."""
    layers = layer if isinstance(layer, list) else [layer]
    names: dict[Any, str] = {}
    for root in find_modules(forward_func):
        for name, module in root.named_modules():
            names.setdefault(module, name)
        if all(module in names for module in layers):
            break
    # The model itself has an empty name.
    found = [names.get(module) or _Unquoted(module) for module in layers]
    return _SHORT.repr(found if isinstance(layer, list) else found[0])


class CamAttribution(ShownByName, LayerAttribution, GradientAttribution):
    """Base of the class activation maps: a model, and a layer inside it."""

    forward_func: Callable[..., Any]
    layer: Any

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Module | list[Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Transform | None = None,
    ) -> None:
        r"""
        A model, and the layer to map.

        Args:
            forward_func (Callable): The forward function of the model or any
                modification of it.
            layer (torch.nn.Module or list of torch.nn.Module): The layer whose
                activations are mapped, or several. Of one that a pass uses more than
                once the last use counts, which brings a warning.
            device_ids (list of int, optional): Needed only where `forward_func` applies
                a `DataParallel` model without being one itself.
            reshape_transform (Callable, optional): Turns what the layer gives, a tensor
                or what holds some, into feature maps (N, K, \*spatial). Gradients come
                in the same form and go the same way, so it must select and rearrange
                alone. :mod:`captum_cams.reshape` holds some. Where it has a parameter
                `input_size`, it is given the input's spatial sides. What comes out is
                compared with the input: a warning tells where the shapes of the two do
                not fit. Default: None, as the layer gives them
        """
        check_callable("forward_func", forward_func)
        _check_layer(layer)
        _check_device_ids(device_ids)
        _check_transform(reshape_transform)
        module: Any = layer  # Captum's type variable knows no union
        LayerAttribution.__init__(self, forward_func, module, device_ids)
        GradientAttribution.__init__(self, forward_func)
        self.reshape_transform = reshape_transform

    def _evaluator(
        self,
        output: TargetOutput,
        attribute_to_layer_input: bool,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> LayerEvaluator:
        """The layer where `output` is asked for."""
        check_flags(attribute_to_layer_input=attribute_to_layer_input)
        _check_grad_kwargs(grad_kwargs)
        return LayerEvaluator(
            output,
            self.layer,
            self.device_ids,
            attribute_to_layer_input,
            grad_kwargs,
            self.reshape_transform,
        )

    def _format(self, values: Sequence[T]) -> T | list[T]:
        """One value a layer, in a list where a list of layers was given."""
        return list(values) if isinstance(self.layer, list) else values[0]

    def _format_maps(self, evaluator: LayerEvaluator, maps: Sequence[Tensor]) -> Maps:
        """As Captum: a tensor, or a tuple where the layer gives several."""
        layers = split_by_layer(
            [check_no_overflow(map_) for map_ in maps], evaluator.sizes
        )
        return self._format([maps if len(maps) > 1 else maps[0] for maps in layers])


class OneLayerCamAttribution(CamAttribution):
    """Base of the methods that take no list of layers."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Module,
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Transform | None = None,
    ) -> None:
        """
        As :meth:`CamAttribution.__init__`, but of a single layer.

        Args:
            forward_func (Callable): As there.
            layer (torch.nn.Module): As there.
            device_ids (list of int, optional): As there.
            reshape_transform (Callable, optional): As there.
        """
        _check_one_layer(layer)
        super().__init__(
            forward_func, layer, device_ids, reshape_transform=reshape_transform
        )


def concatenate(results: Iterable[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """The results of all batches, each tensor put together along the examples."""
    return tuple(map(torch.cat, zip(*results, strict=True)))


def single_tensor(tensors: tuple[Tensor, ...]) -> Tensor:
    """The one tensor of a layer that must not give several."""
    check_one_tensor(tensors)
    return tensors[0]


def _check_layer(layer: object) -> None:
    """A module, or a list of modules."""
    modules = layer if isinstance(layer, list) else [layer]
    if not modules or not all(isinstance(module, Module) for module in modules):
        given = (
            ", ".join(type(module).__name__ for module in modules) or "an empty list"
        )
        named = next((one for one in modules if isinstance(one, str)), None)
        remedy = "" if named is None else f"; pass model.get_submodule({named!r})"
        raise TypeError(
            "layer must be a torch.nn.Module of the model, or a list of them, got "
            f"{given}{remedy}"
        )
    for module in modules:
        if isinstance(module, ScriptModule):
            raise TypeError(
                "layer must be a module that runs in Python, got one that is traced "
                f"or scripted ({type(module).__name__}), which takes no hooks; explain "
                "the model that it was made from"
            )


def _check_one_layer(layer: object) -> None:
    """A single module."""
    if isinstance(layer, list):
        raise TypeError(
            f"layer must be one torch.nn.Module here, got a list of {len(layer)}; "
            "explain them one after the other"
        )
    _check_layer(layer)


def _check_device_ids(device_ids: object) -> None:
    """Numbers of devices, or None."""
    if device_ids is None:
        return
    if not isinstance(device_ids, (list, tuple)) or not all(
        isinstance(number, Integral) for number in device_ids
    ):
        raise TypeError(
            "device_ids must be a list of integers, the GPUs of a DataParallel model, "
            f"or None, got {kind_of(device_ids)}"
        )


def _check_grad_kwargs(grad_kwargs: object) -> None:
    """Keyword arguments of `torch.autograd.grad`, or None."""
    if grad_kwargs is not None and not isinstance(grad_kwargs, dict):
        raise TypeError(
            "grad_kwargs must be a dict of keyword arguments of torch.autograd.grad, "
            f"or None, got {kind_of(grad_kwargs)}"
        )
    for name in ("grad_outputs", "is_grads_batched"):
        if name in (grad_kwargs or {}):
            raise ValueError(
                "grad_kwargs must leave the output's gradient alone, which is 1 for "
                f"each example's target, got {name!r}"
            )


def _check_transform(transform: object) -> None:
    """A function of a tensor, or None."""
    if transform is not None and not callable(transform):
        raise TypeError(
            "reshape_transform must be a function of a tensor, or None, got "
            f"{kind_of(transform)}; captum_cams.reshape holds some"
        )


def check_no_overflow(maps: Tensor, examples: Tensor | None = None) -> Tensor:
    """Maps of finite numbers, where what they were made of was finite."""
    check_finite(
        "maps",
        maps,
        examples,
        f"numbers on the way overflow {maps.dtype}: scale the output or the features "
        "down, or compute in torch.float64",
    )
    return maps
