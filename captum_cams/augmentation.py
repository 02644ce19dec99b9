"""Training pictures that show what the network itself looks at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_cams._numerics import difference
from captum_cams._validation import (
    check_callable,
    check_count,
    check_floating,
    check_model,
)
from captum_cams.attr.group_cam import GroupCam
from captum_cams.baselines import blurred
from captum_cams.blur import check_kernel
from captum_cams.masks import blend, spatial_axes


def _softmax(output: Tensor) -> Tensor:
    return output.softmax(1)


class GroupCamBlend(Module):
    r"""
    Blurs what Group-CAM holds for unimportant, as an augmentation (Group-CAM, sec. 5).

    For each input :math:`x`, with its blurred self :math:`\tilde x` and the Group-CAM
    map :math:`L` of its true class,

    .. math::
        x' = x \odot M + \tilde x \odot (1 - M), \qquad M = [\, L \ge \bar L \,]

    (eq. 5), :math:`\bar L` being the mean over the map's own pixels. The map is the
    variant without gradients: the masks are plain sums of feature maps (:math:`w_k = 1`
    in eq. 1-2), without de-noising, weighed by how much confidence in the true class
    each of them gains. A batch costs `groups` + 2 forward passes and no backward pass.
    A map that is 0 everywhere singles out nothing: such a picture stays as it is.

    It is called within the training loop as the batch transforms of
    ``torchvision.transforms.v2`` are, on inputs as they go into the model, before
    MixUp or CutMix. To blend some of the batches only, wrap it in v2's
    ``RandomApply``. Maps are those of the model in evaluation mode as it stands; its
    modes, gradients, buffers (BatchNorm's statistics) and hooks are left as found, and
    so are the random number generators. The model does not become a part of the
    transform: its parameters, ``state_dict`` and modes are not those of the model.

    The paper tells no more about the fine-tuning than this, so it is assumed here that
    confidence is the softmax of the model's output, as in the authors' code for the
    maps, and that masks are made anew for each batch.

    Source: Q. Zhang, L. Rao, Y. Yang, "Group-CAM: Group Score-Weighted Visual
    Explanations for Deep Convolutional Networks", 2021,
    https://arxiv.org/abs/2103.13859

    Args:
        model (torch.nn.Module): The model in training, which gives logits (N, C); the
            bare one, not its ``DistributedDataParallel``.
        layer (torch.nn.Module): Its layer that gives the masks, (N, K, \*spatial).
        groups (int): G, from 1 to the layer's number of channels. Default: 16
        confidence_func (Callable, optional): Makes confidences of the model's output.
            Default: softmax over the classes; None where the model gives confidences
        blur_kernel_size (int): Taps of the Gaussian blur, odd. Default: 51
        blur_sigma (float): Its standard deviation in pixels. Default: 50
        internal_batch_size (int, optional): Most inputs that go through the network
            together, at least 1. Default: None, chosen by device and input size

    Shape:
        - inputs: (N, C, \*spatial), of a floating dtype; labels: (N,), integers.
        - Output: a pair of the blended inputs, likewise, and the same labels.

    Raises:
        ValueError, TypeError: If an argument does not fit.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> blend = GroupCamBlend(model, model.block5, confidence_func=None)
        >>> images, labels = blend(pictures.images, pictures.labels)
        >>> images.shape, bool((labels == pictures.labels).all())
        (torch.Size([2, 3, 128, 128]), True)
    """

    def __init__(
        self,
        model: Module,
        layer: Module,
        groups: int = 16,
        *,
        confidence_func: Callable[[Tensor], Tensor] | None = _softmax,
        blur_kernel_size: int = 51,
        blur_sigma: float = 50.0,
        internal_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_model(model)
        # No module: the model in it does not become a submodule.
        self.group_cam = GroupCam(model, layer)
        self.groups = check_count("groups", groups)
        check_callable("confidence_func", confidence_func, optional=True)
        self.confidence_func = confidence_func
        kernel = check_kernel(blur_kernel_size, blur_sigma)
        self.blur_kernel_size, self.blur_sigma = kernel
        if internal_batch_size is not None:
            check_count("internal_batch_size", internal_batch_size)
        self.internal_batch_size = internal_batch_size

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Blended inputs, and the labels as they came."""
        check_floating("inputs", inputs)
        _check_labels(labels, inputs)
        blurry = blurred(inputs, self.blur_kernel_size, self.blur_sigma)
        with _as_found(self.group_cam.forward_func, inputs.device):
            maps = self.group_cam.attribute(
                inputs,
                blurry,
                labels,
                groups=self.groups,
                confidence_func=self.confidence_func,
                use_gradients=False,
                internal_batch_size=self.internal_batch_size,
            )  # (N, 1, *spatial)
        mean = maps.mean(spatial_axes(maps), keepdim=True)  # (N, 1, 1, ...)
        shown = difference(maps, mean) >= 0  # all of a constant map
        return blend(inputs, blurry, shown.to(inputs)), labels

    def extra_repr(self) -> str:
        """What the transform's representation shows."""
        return f"groups={self.groups}"


@contextmanager
def _as_found(model: Any, device: torch.device) -> Iterator[None]:
    """Sets a model to evaluation mode, and puts back what that changed."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for module in modes:
                module.training = False
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        # Or the step's own pass may use weights again that were cast without a graph.
        torch.clear_autocast_cache()


def _check_labels(labels: object, inputs: Tensor) -> None:
    """The class of each input, not yet mixed with others."""
    remedy = "; blend before transforms that mix classes, such as MixUp"
    if not isinstance(labels, Tensor) or _is_no_integer(labels.dtype):
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of integers, got {given}{remedy}")
    if labels.shape != inputs.shape[:1]:
        raise ValueError(
            f"labels must be one class for each of {len(inputs)} inputs, (N,), got "
            f"shape {tuple(labels.shape)}{remedy}"
        )


def _is_no_integer(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex or dtype == torch.bool
