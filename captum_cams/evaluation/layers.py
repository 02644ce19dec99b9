"""Which layer of a network is explained, and what makes feature maps of its output."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module

from captum_cams.evaluation.errors import UserError, brief_error, closest_names
from captum_cams.evaluation.networks import Network, failure, transform_name
from captum_cams.evaluation.outputs import are_shares, describe_output
from captum_cams.layer_eval import warn_of_axes
from captum_cams.reshape import Transform, fits, fitting, sized

_STEM = 1 / 4  # of the uses of layers that have parameters and give several positions
_POOLINGS = (torch.nn.MaxPool2d, torch.nn.AvgPool2d)
_ADAPTIVE_POOLINGS = (torch.nn.AdaptiveMaxPool2d, torch.nn.AdaptiveAvgPool2d)
_RESHAPE = "a --reshape that makes feature maps (N, K, h, w) of its output"
_REMEDY = f"; name a layer with --layer (of evaluate: --layers), and give {_RESHAPE}"


class LayerInfo(NamedTuple):
    """A layer whose output can be feature maps, and what is known of it."""

    name: str
    module: Module
    shape: tuple[int, ...]  # of the feature maps, (K, h, w)
    classes: int
    """The number of the network's outputs."""
    transform: Transform | None = None
    """What makes feature maps of what the layer gives."""


def find_layers(
    network: Network,
    images: Tensor,
    names: Sequence[str] | None = None,
    reshape: Transform | None = None,
) -> list[LayerInfo]:
    """
    The layers of these names, or the one that suits best, by one pass of one picture.

    Without names it is the last layer whose output, as it is or by a transform of
    :mod:`captum_cams.reshape`, can be feature maps of the picture, and through whose
    positions the scores depend on the picture. Behind it come pooled features, class
    scores at each position, or tokens of which the class token alone is read. That is
    the end of the last convolutional block as papers take it: ``layer4`` of ResNet, and
    of VGG the last pooling (``features.30`` of VGG-16), as in the experiments of
    RSI-Grad-CAM; those of Group-CAM and TorchRay take the ReLU in front of it.

    Args:
        network (Network): Where to look.
        images (Tensor): A picture, (1, 3, H, W), for its size and device. The
            network is run on noise instead, so that all pictures give one choice.
        names (sequence of str, optional): Dotted names. Default: None
        reshape (Callable, optional): Makes feature maps of what the layers give.
            Default: None, where it is needed the transform of
            :mod:`captum_cams.reshape` that fits

    Raises:
        UserError: If there is no such layer, its output is not spatial, or none but the
            network's first layers suit.
    """
    layers = dict(network.model.named_modules(remove_duplicate=False))
    for name in names or ():
        if name not in layers:
            raise UserError(
                f"{network.name} has no layer {name!r}; {closest_names(name, layers)}"
            )
    survey = _run_on_noise(network, images)
    if not names:
        return [_last_layer(survey, reshape)]
    calls = {call.layer: call for call in survey.calls}  # of several the last
    return [
        _named_layer(survey, name, layers[name], calls.get(layers[name]), reshape)
        for name in names
    ]


class _Call(NamedTuple):
    """One use of a layer."""

    name: str
    layer: Module
    given: Any
    """What the layer gave."""
    output: Tensor | None
    """The tensor in that, where there is exactly one."""
    version: int
    """The tensor's version at that time: later layers may write to it."""

    @property
    def value(self) -> Any:
        """What a transform gets."""
        return self.given if self.output is None else self.output.detach()


class _Survey(NamedTuple):
    """What a network does with one picture."""

    network: str
    calls: list[_Call]
    """In the order in which they end."""
    size: torch.Size  # (1, 3, H, W)
    scores: Tensor
    """The class scores, or logarithms of probabilities, (1, classes)."""


def _run_on_noise(network: Network, images: Tensor) -> _Survey:
    """Runs the network once, on noise, and records what each layer gives."""
    calls: list[_Call] = []

    def record(name: str, layer: Module, _: Any, given: Any) -> None:
        parts = given if isinstance(given, (tuple, list)) else (given,)
        tensors = [
            part
            for part in parts
            if isinstance(part, Tensor) and part.is_floating_point()
        ]
        output = tensors[0] if len(tensors) == 1 else None
        version = 0 if output is None or output.is_inference() else output._version
        calls.append(_Call(name, layer, given, output, version))

    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=generator).to(images)
    # Weights that are 0, as many are before training, hide what depends on what.
    others = {
        name: 0.02 * torch.randn(value.shape, generator=generator).to(value)
        for name, value in network.model.named_parameters()
        if value.is_floating_point() and not value.any()
    }
    handles = [
        layer.register_forward_hook(partial(record, name))
        for name, layer in network.model.named_modules()
        if layer is not network.model
    ]
    try:
        with torch.enable_grad():
            # A copy, as models may write to their input.
            inputs = network.normalize(noise).requires_grad_().clone()
            run = partial(functional_call, network.model, others)
            outputs = run((inputs,)) if others else network.model(inputs)
            scores = network.scores(outputs)
            if are_shares(scores):
                scores = scores.clamp(min=1e-30).log()
    except UserError:
        raise
    except Exception as error:  # the model's own code
        raise failure(network, error) from error
    finally:
        for handle in handles:
            handle.remove()
    return _Survey(network.name, calls, images.shape, scores)


def _named_layer(
    survey: _Survey,
    name: str,
    layer: Module,
    call: _Call | None,
    reshape: Transform | None,
) -> LayerInfo:
    """A layer that the user chose: it is enough if its output is spatial."""
    came, by_reshape = "none", f"--reshape {transform_name(reshape)}"
    if call is not None:
        transform = reshape
        if reshape is None and call.output is not None:
            transform = _needed(survey, call.output)
        try:
            maps = _transformed(survey, call.value, transform)
        except Exception as error:  # the user's own transform
            raise UserError(
                f"{by_reshape} fails on what layer {name} gives, "
                f"{describe_output(call.given)}: {brief_error(error)}"
            ) from error
        if maps is not None and maps.dim() == 4 and maps.shape[2:].numel() > 1:
            if not fits(maps.shape, [survey.size]):
                warn_of_axes(f"layer {name}", maps.shape, [survey.size], _RESHAPE)
            shape = tuple(maps.shape[1:])
            return LayerInfo(name, layer, shape, survey.scores.shape[1], transform)
        came = describe_output(call.given)
        if reshape is not None:
            came = f"{describe_output(maps)} by {by_reshape} of {came}"
    try:
        last = f"the last that has is {_last_layer(survey, reshape).name}"
    except UserError:
        last = f"give {_RESHAPE}"
    raise UserError(
        f"layer {name} must have spatial output (N, K, h, w), got {came}; {last}"
    )


def _needed(survey: _Survey, output: Tensor) -> Transform | None:
    """The transform that makes fitting feature maps of a layer's output, if needed."""
    inputs = [survey.size]
    return None if fits(output.shape, inputs) else fitting(output.shape, inputs)


def _transformed(
    survey: _Survey, given: Any, transform: Transform | None
) -> Tensor | None:
    transform = sized(transform, [survey.size])
    maps: Any = given if transform is None else transform(given)
    return maps if isinstance(maps, Tensor) else None


def _last_layer(survey: _Survey, reshape: Transform | None) -> LayerInfo:
    """The last layer that suits."""
    candidates = []
    for number, call in _outputs(survey.calls):
        transform = reshape or _needed(survey, call.output)
        maps = _suiting_maps(survey, call, transform)
        if maps is not None:
            candidates.append((number, call, transform, maps.shape[1:]))
    gradients = _gradients(survey, [call.output for _, call, _, _ in candidates])
    chosen = None
    for candidate, gradient in reversed([*zip(candidates, gradients, strict=True)]):
        number, call, transform, shape = candidate
        if gradient is None or (chosen and chosen[-1][1:] != shape[1:]):
            continue
        moved = _transformed(survey, gradient, transform)
        if moved is None or not moved.any() or _are_scores(survey, moved):
            continue
        used = moved.flatten(2).any(2)  # (1, K)
        if chosen is None or used.all():
            chosen = candidate
        if used.all() or gradient.dim() != 3:
            break
    if chosen is None:
        by = f" by --reshape {transform_name(reshape)}" if reshape else ""
        raise UserError(
            f"{survey.network} has no layer with spatial output{by}, feature maps of "
            f"the picture on whose places its scores depend{_REMEDY}"
        )
    number, call, transform, shape = chosen
    if _share_before(survey.calls, number) < _STEM:
        raise UserError(
            f"{survey.network} gives feature maps of the picture in its first layers "
            f"alone, {call.name} being the last of them{_REMEDY}"
        )
    return LayerInfo(
        call.name, call.layer, tuple(shape), survey.scores.shape[1], transform
    )


def _outputs(calls: Sequence[_Call]) -> list[tuple[int, Any]]:
    """
    Each tensor that a layer gives, with the number of the use that made it.

    The layer is the outermost that gives the tensor as it was made, and is used once:
    methods see a single use. Where a pooling made it, it is this pooling, as the end of
    VGG's last block is in papers, ``features.30``. A layer that passes on what it got,
    such as Dropout outside of training, made nothing, and an adaptive pooling belongs
    to the classifier behind it.
    """
    uses = Counter(call.layer for call in calls)
    made: dict[tuple[int, int], tuple[int, _Call]] = {}
    chosen: dict[tuple[int, int], tuple[int, _Call]] = {}
    for number, call in enumerate(calls):
        if call.output is None or call.given is not call.output:
            continue
        key = (id(call.output), call.version)
        start, first = made.setdefault(key, (number, call))
        if isinstance(first.layer, _ADAPTIVE_POOLINGS):
            continue
        within = first.name.startswith(f"{call.name}.")
        around = call is first or (within and not isinstance(first.layer, _POOLINGS))
        if around and uses[call.layer] == 1:
            chosen[key] = (start, call)
    return sorted(chosen.values(), key=lambda one: one[0])


def _suiting_maps(
    survey: _Survey, call: _Call, transform: Transform | None
) -> Tensor | None:
    """Several feature maps of several positions in the picture, which differ."""
    try:
        maps = _transformed(survey, call.value, transform)
    except Exception:  # the user's own transform, which is not made for this layer
        return None
    if maps is None or maps.dim() != 4 or not fits(maps.shape, [survey.size]):
        return None
    if maps.shape[0] != 1 or maps.shape[1] == 1 or maps.shape[2:].numel() == 1:
        return None
    if transform is None and set(maps.shape[2:]) <= _token_numbers(survey):
        return None  # attention of each token to each
    units = maps.detach().flatten(2)  # (1, K, h w)
    return maps if (units != units[:, :, :1]).any() else None


def _token_numbers(survey: _Survey) -> set[int]:
    """How many tokens the network's layers give that can be patches of the picture."""
    shapes = {call.output.shape for call in survey.calls if call.output is not None}
    inputs = [survey.size]
    return {s[1] for s in shapes if len(s) == 3 and s[0] == 1 and fitting(s, inputs)}


def _gradients(survey: _Survey, tensors: Sequence[Any]) -> list[Tensor | None]:
    """Gradients of the scores, weighted so that they do not cancel each other."""
    y = (survey.scores * _weights(survey.scores)).sum()
    able = [tensor for tensor in tensors if tensor.requires_grad]
    if not able or not y.requires_grad:
        return [None] * len(tensors)
    try:
        found = iter(torch.autograd.grad(y, able, allow_unused=True))
    except RuntimeError as error:  # the model's own code
        raise UserError(
            f"{survey.network} gives no gradients that tell which layer its scores "
            f"depend on, {brief_error(error)}{_REMEDY}"
        ) from error
    return [next(found) if tensor.requires_grad else None for tensor in tensors]


def _weights(scores: Tensor) -> Tensor:
    """Random weights of scores; of several they add up to 0, as softmax's gradient."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(scores.shape, generator=generator).to(scores)
    if weights.shape[1] > 1:
        weights = weights - weights.mean()
    return weights  # (1, classes)


def _are_scores(survey: _Survey, gradients: Tensor) -> bool:
    """
    Whether maps (1, K, h, w) are class scores, which are only pooled.

    Then each map changes the score of one class alone, all of them equally much per
    unit, but for units that a ReLU or a maximum stops.
    """
    weights = _weights(survey.scores)[:, :, None, None]  # (1, classes, 1, 1)
    if gradients.shape[1] != weights.shape[1]:
        return False
    moving = gradients != 0
    same = moving * weights  # the gradients but for one factor
    factor = (gradients * same).sum() / (same * same).sum()
    error = (gradients - factor * same).abs().max()
    return bool(error <= 1e-3 * factor * weights.abs().max())


def _share_before(calls: Sequence[_Call], number: int) -> float:
    """The share of layers with parameters and spatial output that run up to a use."""
    counted = [
        at
        for at, call in enumerate(calls)
        if any(True for _ in call.layer.parameters(recurse=False))
        and _is_spatial(call.given)
    ]
    return sum(at <= number for at in counted) / max(1, len(counted))


def _is_spatial(given: Any) -> bool:
    parts = given if isinstance(given, (tuple, list)) else (given,)
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return any(t.dim() > 2 and t.numel() > max(t.shape) for t in tensors)
