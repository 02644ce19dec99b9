r"""
What is to be explained of a model that does not give one score for each class.

Each class here wraps a model, or any function of it, and stands in the place of
`forward_func`: of every attribution of this package and of Captum, and of the metrics.
Layers are those of the wrapped model.

What the score refers to, such as a region or a box, belongs to an example. It is thus
passed as the last of `additional_forward_args`, behind the model's own, and follows its
example wherever rows are repeated: a row for each of the N examples, or one row for
all of them, which only the methods of this package repeat. `target` selects the class
as ever, where a class says so.

A column of several regression outputs needs none of these classes: `target` selects it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F
from torchvision.ops import box_iou

from captum_cams._nested import describe
from captum_cams._validation import (
    check_callable,
    check_choice,
    check_number,
    check_real,
    kind_of,
    shape_of,
)

__all__ = [
    "ClassContrast",
    "DetectionScore",
    "EmbeddingSimilarity",
    "NegativeDistance",
    "SegmentationScore",
]


class _Score(Module):
    """A model, and what is made of its output and of the last forward arguments."""

    references: tuple[str, ...]
    """What the last of `additional_forward_args` are."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        super().__init__()
        check_callable("forward_func", forward_func)
        self.forward_func = forward_func

    def forward(self, *args: Any) -> Tensor:
        """The scores, from the model's arguments and the references behind them."""
        number = len(self.references)
        if len(args) <= number:
            raise TypeError(
                f"additional_forward_args must end in {' and '.join(self.references)} "
                f"of the examples, got {len(args) - 1} arguments behind the inputs"
            )
        return self._score(self._output(*args[:-number]), *args[-number:])

    def _output(self, *args: Any) -> Any:
        """What the model gives."""
        return self.forward_func(*args)

    def _score(self, output: Any, *references: Any) -> Tensor:
        """The scores, (B,) or (B, C)."""
        raise NotImplementedError


class SegmentationScore(_Score):
    r"""
    The score of each class in a region: of a model that classifies every pixel.

    The mean, or the sum, of a class's output over the region's pixels. `target` selects
    the class, and the regions are the last of `additional_forward_args`:

    - **regions** (Tensor): (N, \*spatial) or (1, \*spatial), of the output's spatial
      size, which must be scaled to it where that differs from the input's. True or 1
      inside; numbers between 0 and 1 weigh pixels, and the mean is a weighted one. Each
      region holds something.

    A map shows what speaks for the class there, inside the region or outside of it.

    Args:
        forward_func (Callable): The model or any function of it. It gives a tensor
            (N, C, \*spatial), or a dict that holds one as ``out``, as torchvision's
            networks for segmentation do.
        reduction (str): ``mean`` or ``sum`` over the region. Default: ``mean``
        output_func (Callable, optional): Applied to the output before it is reduced:
            ``lambda y: y.softmax(1)`` makes the confidences of logits that metrics
            such as :func:`average_drop` want. Default: None

    Raises:
        ValueError, TypeError: If an argument does not fit; in a pass, if the output or
            the regions do not.

    Examples::

        >>> from captum_cams import LayerRSIGradCam
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, padding=1),
        ...     torch.nn.ReLU(),
        ...     torch.nn.Conv2d(8, 5, 1),
        ... )
        >>> images, regions = torch.rand(2, 3, 16, 16), torch.zeros(2, 16, 16)
        >>> regions[:, 4:12, 4:12] = 1
        >>> score = SegmentationScore(model)
        >>> score(images, regions).shape
        torch.Size([2, 5])
        >>> rsi = LayerRSIGradCam(score, model[1])
        >>> maps = rsi.attribute(images, target=3, additional_forward_args=regions)
        >>> maps.shape
        torch.Size([2, 1, 16, 16])
    """

    references = ("regions",)

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        reduction: Literal["mean", "sum"] = "mean",
        output_func: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(forward_func)
        check_choice("reduction", reduction, ("mean", "sum"))
        check_callable("output_func", output_func, optional=True)
        self.reduction = reduction
        self.output_func = output_func

    def _score(self, output: Any, *references: Any) -> Tensor:
        if isinstance(output, Mapping) and "out" in output:
            output = output["out"]
        _check_tensor(output, r"(N, C, *spatial), or a dict with 'out'", 3)
        if self.output_func is not None:
            output = self.output_func(output)
        regions = _rows("regions", references[0], (len(output), *output.shape[2:]))
        weights = regions.to(output)  # (B or 1, *spatial)
        _check_weights(weights)
        weights = weights.unsqueeze(1)  # (B or 1, 1, *spatial)
        spatial = tuple(range(2, output.dim()))
        sums: Tensor = (output * weights).sum(spatial)  # (B, C)
        if self.reduction == "mean":
            sums = sums / weights.sum(spatial)
        return sums


class DetectionScore(_Score):
    r"""
    The score of the detection that matches a given box and class: of a detector.

    The boxes and classes to explain, such as the detector's own or annotated ones, are
    the last two of `additional_forward_args`; `target` is not given:

    - **boxes** (Tensor): (N, 4) or (1, 4), x0, y0, x1, y1 in pixels of the input;
    - **labels** (Tensor): (N,) or (1,), of integers.

    Among a picture's detections of the class the one with the largest intersection over
    union counts, if that is at least `min_iou`; its box may move as the input is masked
    or as a path goes on. Where none matches, the score is 0, and so are its gradients:
    the detector does not find the object. The score is differentiable as far as the
    detector is, which chooses its proposals and suppresses detections by steps; the
    matching is such a step, too. Detections below the detector's own threshold are not
    seen: lowering that one (torchvision's ``roi_heads.score_thresh``) makes the score
    less steep, which paths and masks profit from.

    Args:
        forward_func (Callable): The model or any function of it, in evaluation mode. It
            takes a list of N pictures and gives a list of N dicts with ``boxes``
            (n, 4), ``labels`` (n,) and ``scores`` (n,), as torchvision's detectors do.
            Pictures of a batch have one size. Of its layers, those that give one
            tensor can be mapped: a stage of the backbone, not all of a pyramid.
        min_iou (float): Least intersection over union of a match, in (0, 1].
            Default: 0.5

    Raises:
        ValueError, TypeError: If an argument does not fit; in a pass, if the output,
            the boxes or the labels do not.

    Examples::

        >>> from captum.attr import LayerGradCam
        >>> from torchvision.models import detection
        >>> model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        ...     weights=None, weights_backbone=None, num_classes=5, min_size=64
        ... ).eval()
        >>> images = torch.rand(1, 3, 64, 64)
        >>> found = model(list(images))[0]
        >>> boxes, labels = found["boxes"][:1].detach(), found["labels"][:1]
        >>> score = DetectionScore(model)
        >>> torch.equal(score(images, boxes, labels), found["scores"][:1])
        True
        >>> grad_cam = LayerGradCam(score, model.backbone.body["16"])
        >>> maps = grad_cam.attribute(
        ...     images, additional_forward_args=(boxes, labels)
        ... )
    """

    references = ("boxes", "labels")

    def __init__(
        self, forward_func: Callable[..., Any], *, min_iou: float = 0.5
    ) -> None:
        super().__init__(forward_func)
        self.min_iou = check_number("min_iou", min_iou, "(0, 1]")

    def _output(self, *args: Any) -> Any:
        images, *others = args
        return self.forward_func(list(images), *others)

    def _score(self, output: Any, *references: Any) -> Tensor:
        _check_detections(output)
        boxes = _rows("boxes", references[0], (len(output), 4))
        _check_areas(boxes)
        boxes = boxes.expand(len(output), -1)  # (B, 4)
        labels = _indices("labels", references[1], len(output))  # (B,)
        matches = map(self._match, output, boxes, labels)
        return torch.stack(list(matches))  # (B,)

    def _match(self, found: Mapping[str, Tensor], box: Tensor, label: Tensor) -> Tensor:
        """The score of the best match, ()."""
        scores = found["scores"]
        of_class = found["labels"] == label.to(found["labels"])  # (n,)
        ious = box_iou(found["boxes"].detach(), box.to(found["boxes"])[None])  # (n, 1)
        ious = torch.where(of_class, ious[:, 0], -1)  # (n,)
        if not (ious >= self.min_iou).any():
            return scores.sum() * 0  # autograd still knows where it comes from
        return scores[ious.argmax()]


class EmbeddingSimilarity(_Score):
    r"""
    The cosine similarity to a given embedding: of a model that gives embeddings.

    The embeddings to compare with, such as those of another picture or of a text, are
    the last of `additional_forward_args`; `target` is not given:

    - **embeddings** (Tensor): (N, D) or (1, D).

    Similarities lie in [-1, 1]; that to a vector of zeros is 0.

    Args:
        forward_func (Callable): The model or any function of it. It gives a tensor
            (N, D), or (N, D, 1, ...).

    Raises:
        ValueError, TypeError: If an argument does not fit; in a pass, if the output or
            the embeddings do not.

    Examples::

        >>> from captum.attr import LayerGradCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, images = shapes_model(), shape_pictures(4).images
        >>> embed = torch.nn.Sequential(*list(model.children())[:-2])
        >>> similarity = EmbeddingSimilarity(embed)
        >>> others = embed(images[2:]).detach()
        >>> similarity(images[:2], others).shape
        torch.Size([2])
        >>> grad_cam = LayerGradCam(similarity, model.block5)
        >>> maps = grad_cam.attribute(images[:2], additional_forward_args=others)
    """

    references = ("embeddings",)

    def _score(self, output: Any, *references: Any) -> Tensor:
        _check_tensor(output, "(N, D)", 2)
        output = output.flatten(1)  # (B, D)
        embeddings = _rows("embeddings", references[0], output.shape)
        return F.cosine_similarity(output, embeddings.to(output))  # (B,)


class ClassContrast(_Score):
    r"""
    A class against another one: its score less a share of the other's.

    .. math::
        y_c - \gamma \, y_d

    of every class c, of which `target` selects one. The other classes d, such as the
    one that comes second at the input, are the last of `additional_forward_args`:

    - **others** (Tensor): (N,) or (1,), of integers.

    A map of it leaves out what speaks for both, as far as :math:`\gamma` says. Outputs
    should be logits: probabilities of two classes hold each other's evidence already.

    Source: Z. Zhang et al., "Finer-CAM: Spotting the Difference Reveals Finer Details
    for Visual Explanation", CVPR 2025, https://arxiv.org/abs/2501.11309, for one class
    to compare with; the mean of several maps does for several.

    Args:
        forward_func (Callable): The model or any function of it. It gives a tensor
            (N, C).
        weight (float): :math:`\gamma`, at least 0. Default: 0.6

    Raises:
        ValueError, TypeError: If an argument does not fit; in a pass, if the output or
            the other classes do not.

    Examples::

        >>> from captum.attr import LayerGradCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, (images, labels, _) = shapes_model(), shape_pictures(2)
        >>> others = model(images).topk(2).indices[:, 1]
        >>> contrast = ClassContrast(model.logits)
        >>> grad_cam = LayerGradCam(contrast, model.block5)
        >>> grad_cam.attribute(images, labels, others).shape
        torch.Size([2, 1, 4, 4])
    """

    references = ("others",)

    def __init__(
        self, forward_func: Callable[..., Any], *, weight: float = 0.6
    ) -> None:
        super().__init__(forward_func)
        self.weight = check_number("weight", weight, "[0, inf)")

    def _score(self, output: Any, *references: Any) -> Tensor:
        _check_tensor(output, "(N, C)", 2)
        others = _indices("others", references[0], *output.shape[:2])  # (B,)
        rows = torch.arange(len(output), device=output.device)
        other = output[rows, others.to(output.device)].unsqueeze(1)  # (B, 1)
        scores: Tensor = output - self.weight * other
        return scores


class NegativeDistance(_Score):
    r"""
    How near a regression comes to a given value: the distance to it, negative.

    .. math::
        -|y - v|

    A map of it shows what brings the prediction towards v, from whatever side. The
    values v are the last of `additional_forward_args`; `target` selects one of several
    outputs:

    - **values** (Tensor): (N,) or (1,), of the output's units.

    Where the prediction is v its gradient is 0, and the map with it: to explain why a
    prediction is as high as it is, explain the model itself.

    Args:
        forward_func (Callable): The model or any function of it. It gives a tensor
            (N,) or (N, C).

    Raises:
        ValueError, TypeError: If an argument does not fit; in a pass, if the output or
            the values do not.

    Examples::

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> inputs, values = torch.rand(3, 3, 2, 2), torch.tensor([0.5, 1.0, 1.5])
        >>> distance = NegativeDistance(model)
        >>> bool((distance(inputs, values) <= 0).all())
        True
    """

    references = ("values",)

    def _score(self, output: Any, *references: Any) -> Tensor:
        _check_tensor(output, "(N,) or (N, C)", 1)
        values = _rows("values", references[0], (len(output),)).to(output)
        values = values.reshape(-1, *[1] * (output.dim() - 1))  # (B or 1, 1, ...)
        distances: Tensor = (output - values).abs()  # the output's shape
        return -distances


def _check_tensor(output: object, shape: str, axes: int) -> None:
    """An output of so many axes at least."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"forward_func must return a tensor {shape}, got {describe(output)}; wrap "
            "the model in a function that returns its scores alone"
        )
    if output.dim() < axes:
        raise ValueError(
            f"forward_func must return a tensor {shape}, got shape {shape_of(output)}"
        )


def _rows(name: str, value: Any, shape: Sequence[int]) -> Tensor:
    """A reference: a row for each row of the batch, or one for all of them."""
    check_real(name, value)
    reference: Tensor = value
    one = (1, *shape[1:])
    if tuple(reference.shape) not in (tuple(shape), one):
        raise ValueError(
            f"{name} must have a row for each of the {shape[0]} rows of the batch, "
            f"{tuple(shape)}, or be {one} for all of them, got {kind_of(reference)}"
        )
    return reference


def _check_weights(regions: Tensor) -> None:
    """Weights of pixels, not all 0."""
    if not ((regions >= 0) & (regions <= 1)).all():
        raise ValueError(
            "regions must be True and False or numbers in [0, 1], got values from "
            f"{regions.min():.3g} to {regions.max():.3g}"
        )
    empty = ~(regions != 0).flatten(1).any(1)  # (B or 1,)
    if empty.any():
        raise ValueError(
            "regions must hold a pixel for every example, got none in row "
            f"{int(empty.nonzero()[0])}; leave that example out"
        )


def _check_detections(output: object) -> None:
    """A dict of detections for each picture."""
    found = output if isinstance(output, (list, tuple)) else [output]
    names = ("boxes", "labels", "scores")
    if not all(isinstance(f, Mapping) and all(n in f for n in names) for f in found):
        raise TypeError(
            "forward_func must return a list of dicts with 'boxes', 'labels' and "
            f"'scores', one for each picture, got {describe(output)}; call "
            "model.eval() where it is training mode that gives losses"
        )


def _check_areas(boxes: Tensor) -> None:
    """Corners in their order."""
    ordered = (boxes[:, :2] < boxes[:, 2:]).all(1)  # (B or 1,)
    if not ordered.all():
        raise ValueError(
            "boxes must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got "
            f"{boxes[~ordered][0].tolist()}"
        )


def _indices(name: str, value: Any, rows: int, classes: int | None = None) -> Tensor:
    """Classes of the rows, (rows,)."""
    if isinstance(value, Tensor) and (
        value.is_floating_point() or value.dtype == torch.bool
    ):
        raise TypeError(f"{name} must hold integers, got {value.dtype}")
    indices = _rows(name, value, (rows,))
    if classes is not None and not ((indices >= 0) & (indices < classes)).all():
        raise ValueError(
            f"{name} must lie in [0, {classes - 1}], got values from "
            f"{indices.min()} to {indices.max()}"
        )
    return indices.to(torch.int64).expand(rows)  # (rows,)
