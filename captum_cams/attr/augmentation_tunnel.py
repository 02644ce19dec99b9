"""Means of maps over flipped and dimmed copies of the inputs."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from captum.attr import Attribution
from torch import Tensor

from captum_cams._captum import log_usage
from captum_cams._nested import find_tensors, map_tensors
from captum_cams._numerics import precise
from captum_cams._validation import (
    check_flags,
    check_inputs,
    check_numbers,
    kind_of,
    shape_of,
)

_FLIPPED = ("baselines", "feature_mask")  # what belongs to places of the inputs


class AugmentationTunnel(Attribution):
    r"""
    Test-time augmentation around any attribution, as Captum's NoiseTunnel is noise.

    The mean of the maps of each input in several intensities, as it is and flipped from
    left to right, where the map is flipped back:

    .. math::
        \mathrm{map} = \frac{1}{2 T} \sum_{t=1}^T \bigl(
            M(c_t x) + F M(c_t F x) \bigr)

    with the flip F along the last axis and the intensities c. Maps become smoother and
    go less by single units. What is flipped stays a picture of its kind where left and
    right do not matter: digits, letters and many signals are none. Intensities multiply
    the inputs as they are, so that after a mean/std normalization they change the
    contrast around the mean color.

    These are the six copies of pytorch-grad-cam's `aug_smooth`; it scales each map to
    [0, 1] before the mean, where maps keep their scale here.

    Args:
        attribution_method (Attribution): Any attribution of this package or of Captum
            whose maps have the spatial axes of the inputs, at any size.

    Examples::

        >>> from captum_cams import LayerCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> tunnel = AugmentationTunnel(LayerCam(model, model.block5))
        >>> tunnel.attribute(pictures.images, target=pictures.labels).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(self, attribution_method: Attribution) -> None:
        if not isinstance(attribution_method, Attribution):
            raise TypeError(
                "attribution_method must be an object of captum.attr.Attribution, such "
                f"as LayerCam(model, layer), got {kind_of(attribution_method)}"
            )
        self.attribution_method = attribution_method
        super().__init__(attribution_method.forward_func)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        *,
        flip: bool = True,
        intensities: Sequence[float] = (0.9, 1.0, 1.1),
        **kwargs: Any,
    ) -> Any:
        r"""
        The mean of what `attribution_method` gives for each of the copies.

        Args:
            inputs (Tensor or tuple of Tensor): Examples to explain,
                (N, C, \*spatial), of a floating dtype. Tensors of a tuple are flipped
                together.
            flip (bool): Whether flipped copies are explained, too. Default: True
            intensities (sequence of float): What the inputs are multiplied by.
                Default: ``(0.9, 1.0, 1.1)``
            **kwargs: Passed to `attribution_method.attribute`. Tensors of ``baselines``
                and ``feature_mask`` with spatial axes are flipped with the inputs, and
                keep their intensity. ``additional_forward_args`` stay as they are:
                where they hold places, such as regions or boxes, pass ``flip=False``.

        Returns:
            What `attribution_method.attribute` returns, detached: maps of any size, in
            tuples and lists as there.

        Raises:
            ValueError, TypeError: If an argument does not fit, or the maps have other
                axes than the inputs.
        """
        check_flags(flip=flip)
        factors = check_numbers("intensities", intensities).flatten().tolist()
        if not factors or not all(map(isfinite, factors)):
            raise ValueError(
                f"intensities must be finite numbers, at least one, got {factors}"
            )
        inputs_tuple = check_inputs(inputs)
        for x in inputs_tuple:
            if x.dim() < 3:
                raise ValueError(
                    "inputs must have spatial axes to be flipped, (N, C, *spatial), "
                    f"got shape {shape_of(x)}"
                )

        def explain(factor: float, flipped: bool) -> Any:
            copies = tuple((factor * x).requires_grad_() for x in inputs_tuple)
            options = dict(kwargs)
            if flipped:
                copies = tuple(_flipped(x).detach().requires_grad_() for x in copies)
                for name in {*_FLIPPED} & {*options}:
                    options[name] = map_tensors(_flipped, options[name])
            given = copies if isinstance(inputs, tuple) else copies[0]
            maps = self.attribution_method.attribute(given, **options)
            for _, tensor in find_tensors(maps):
                _check_axes(tensor, inputs_tuple)
            return map_tensors(_flipped, maps) if flipped else maps

        flips = [False, True] if flip else [False]
        all_maps = [explain(factor, side) for factor in factors for side in flips]
        parts = [
            [tensor.detach() for _, tensor in find_tensors(maps)] for maps in all_maps
        ]
        means = (_mean(tensors) for tensors in zip(*parts, strict=True))
        return map_tensors(lambda _: next(means), all_maps[0])


def _flipped(tensor: Tensor) -> Tensor:
    """From left to right, if there are spatial axes."""
    return tensor.flip(-1) if tensor.dim() > 2 else tensor


def _check_axes(maps: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Places along the last axis, as in the inputs, so that they can be flipped."""
    if maps.dim() > 2 and all(maps.dim() != x.dim() for x in inputs):
        raise ValueError(
            "attribution_method must give maps with the inputs' spatial axes to be "
            f"flipped back, got shape {shape_of(maps)} for inputs of shape "
            f"{', '.join(map(shape_of, inputs))}; give it a reshape_transform where "
            "the layer holds tokens"
        )


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Of tensors of one shape, in their dtype."""
    first = tensors[0]
    total = sum(tensor.to(precise(first)) / len(tensors) for tensor in tensors)
    return first if isinstance(total, int) else total.to(first.dtype)
