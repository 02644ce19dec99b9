"""XRAI."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from captum.attr import Attribution
from torch import Tensor
from tqdm import tqdm

from captum_cams._captum import TargetType, log_usage
from captum_cams._validation import (
    check_baselines,
    check_callable,
    check_choice,
    check_count,
    check_flags,
    check_inputs,
    check_number,
    kind_of,
    list_of,
    shape_of,
)
from captum_cams.attr._cam import ShownByName, TensorOrTuple
from captum_cams.attr.registry import register
from captum_cams.path import straight_line
from captum_cams.quadrature import check_nodes, quadrature
from captum_cams.target_output import (
    TargetOutput,
    check_recording,
    output_and_gradient,
    rows_per_batch,
)

Mode = Literal["full", "fast"]
MODES = ("full", "fast")

SCALES = (50.0, 100.0, 150.0, 250.0, 500.0, 1200.0)
_SIGMA = 0.8  # of the blur before segmenting, in pixels
_SMALLEST = 150  # pixels of a segment
_DILATION = 5  # pixels, so that a segment holds its edges


@register(
    "xrai",
    colors={"black": "black", "white": "white"},
    optional_dependencies={"skimage": "captum-cams[xrai]"},
    test_arguments={"n_steps": 3, "scales": [50]},
    homogeneity=0,
)
class Xrai(ShownByName, Attribution):
    r"""
    XRAI: better attributions through regions.

    Cuts the picture into segments of several sizes, and ranks them by the Integrated
    Gradients in them, :math:`a`, the mean over a black and a white baseline. The map
    starts with no region; then always the one is added that gains most an added pixel,

    .. math::
        \mathrm{gain}(s) = \frac{1}{|s \setminus M|} \sum_{i \in s \setminus M} a_i,
        \qquad M \leftarrow M \cup \arg\max_s \mathrm{gain}(s)

    (Algorithm 1), until the picture is covered. A pixel of the map is the share of the
    picture that was not covered when its region came in: 1 in the first, near 0 in the
    last. The masks :math:`M` of the paper are then the level sets of the map, each of
    them a threshold on its area. ``mode="fast"`` ranks the segments once, by their
    mean over all of :math:`s`.

    Segments are those of Felzenszwalb's method at six scales, at least 150 pixels each
    and dilated by 5. They need scikit-image: ``pip install captum-cams[xrai]``.

    Where this class decides what the paper leaves open: :math:`a` is the sum over the
    channels, the least size is 150 pixels, and a segment is dilated by a square.

    Source: A. Kapishnikov, T. Bolukbasi, F. Viegas, M. Terry, "XRAI: Better
    Attributions Through Regions", ICCV 2019, https://arxiv.org/abs/1906.02825

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(1)
        >>> xrai = Xrai(model)
        >>> xrai.attribute(pictures.images, target=pictures.labels, n_steps=10).shape
        torch.Size([1, 1, 128, 128])
    """

    forward_func: Callable[..., Any]

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        check_callable("forward_func", forward_func)
        super().__init__(forward_func)

    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0913
        self,
        inputs: TensorOrTuple,
        black: Tensor | float = 0.0,
        white: Tensor | float = 1.0,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        *,
        mode: Mode = "full",
        scales: Sequence[float] = SCALES,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> TensorOrTuple:
        r"""
        Maps over the input that are constant on regions.

        Takes 2 `n_steps` forward and backward passes an example.

        Arguments that are not described here are those of :meth:`GroupCam.attribute`.

        Args:
            inputs (Tensor): Pictures to explain, (N, C, H, W), of a floating dtype.
                Memory grows with H W times the number of segments; pictures of more
                than some 300 pixels a side are better made smaller.
            black (Tensor or number): The black picture, the one baseline, of the
                inputs' shape, or with 1 in the first place, or a number. Default: 0,
                for pictures in [0, 1]. For inputs normalized as (picture - mean) / std
                it is ``captum_cams.baselines.black(inputs, mean, std)``.
            white (Tensor or number): The white picture, the other baseline. Default:
                1; for normalized inputs (1 - mean) / std, which is `black` + 1 / std.
                Black and white also tell the segmentation the picture's range.
            n_steps (int): Points of each Integrated Gradients. Default: 50
            mode (str): ``full`` or ``fast``, see above. Default: ``full``
            scales (sequence of float): Felzenszwalb's scales; larger ones give larger
                segments. Default: 50, 100, 150, 250, 500, 1200
            show_progress (bool): Whether a bar counts the pictures. Default: False

        Returns:
            *Tensor* of **maps** (N, 1, H, W) in (0, 1], detached; a tuple of it where
            the inputs are a tuple.

        Raises:
            ValueError, TypeError: If an argument does not fit.
            ImportError: If scikit-image is not installed.
        """
        check_recording()
        check_choice("mode", mode, MODES)
        n_steps = check_count("n_steps", n_steps)
        check_nodes(n_steps)  # the rule of Captum's IntegratedGradients
        _check_scales(scales)
        check_flags(show_progress=show_progress)
        felzenszwalb = _felzenszwalb()
        inputs_tuple = check_inputs(inputs)
        pictures = _check_pictures(inputs_tuple)
        colors = [
            check_baselines(color, inputs_tuple, name)[0]
            for name, color in (("black", black), ("white", white))
        ]
        _check_black_and_white(*colors)
        output = TargetOutput(
            self.forward_func, inputs_tuple, target, additional_forward_args
        )
        batch_size = rows_per_batch(inputs_tuple, internal_batch_size)

        maps = []
        for n in tqdm(range(len(pictures)), disable=not show_progress, unit="picture"):
            from_black, from_white = (
                _integrated_gradients(
                    output, pictures[n], color[n], n, n_steps, batch_size
                )
                for color in colors
            )  # (C, H, W)
            dark, light = (color[n] for color in colors)
            shown = (pictures[n] - dark) / (light - dark)  # (C, H, W) in [0, 1]
            regions = _regions(felzenszwalb, shown, scales)  # (S, H, W)
            maps.append(rank(regions, (from_black + from_white).sum(0) / 2, mode))
        cam = torch.stack(maps).unsqueeze(1).to(pictures)  # (N, 1, H, W)
        return (cam,) if isinstance(inputs, tuple) else cam


def _integrated_gradients(
    output: TargetOutput,
    picture: Tensor,
    baseline: Tensor,
    example: int,
    n_steps: int,
    batch_size: int,
) -> Tensor:
    """Integrated Gradients of one picture, by the rule of Gauss and Legendre."""
    nodes, weights = quadrature("gausslegendre", n_steps)
    total = torch.zeros_like(picture)  # (C, H, W)
    for alphas, here in zip(
        torch.split(picture.new_tensor(nodes), batch_size),
        torch.split(picture.new_tensor(weights), batch_size),
        strict=True,
    ):
        shape = (len(alphas), *picture.shape)
        points = straight_line(picture.expand(shape), baseline.expand(shape), alphas)
        examples = torch.full((len(alphas),), example)
        _, gradients = output_and_gradient(output, points, examples)  # (B, C, H, W)
        total += torch.tensordot(here, gradients, 1)  # (C, H, W)
    return total * (picture - baseline)


def rank(regions: Tensor, attributions: Tensor, mode: Mode = "full") -> Tensor:
    """
    The share of the picture that was not covered before each pixel was.

    Args:
        regions (Tensor): Boolean, (S, H, W), which together cover every pixel.
        attributions (Tensor): a, (H, W).
        mode (str): ``full`` or ``fast``.

    Returns:
        *Tensor* in double precision, on the CPU, (H, W).
    """
    # Pixels first: what a region adds is a few rows of this table.
    member = regions.flatten(1).T.contiguous().cpu()  # (pixels, S)
    a = attributions.flatten().double().cpu()  # (pixels,)
    left = member.sum(0)  # |s \ M|, (S,)
    sums = _sums(a, member)  # (S,)
    order = iter((sums / left).sort(descending=True, stable=True).indices.tolist())
    uncovered = torch.ones_like(a, dtype=torch.bool)
    cam = torch.zeros_like(a)
    while uncovered.any():
        if mode == "full":
            best = int(torch.where(left > 0, sums / left, -torch.inf).argmax())
        else:
            best = next(order)
        new = (member[:, best] & uncovered).nonzero().flatten()
        cam[new] = uncovered.double().mean()
        uncovered[new] = False
        if mode == "full":
            sums -= _sums(a[new], member[new])
            left -= member[new].sum(0)
    return cam.view_as(attributions)


def _sums(a: Tensor, member: Tensor) -> Tensor:
    """Sum of a over each region, some pixels at a time, (S,)."""
    parts = zip(torch.split(a, 4096), torch.split(member, 4096), strict=True)
    return torch.stack([part @ here.to(a) for part, here in parts]).sum(0)


def _regions(
    felzenszwalb: Callable[..., Any], picture: Tensor, scales: Sequence[float]
) -> Tensor:
    """The dilated segments of all scales, boolean, (S, H, W), which cover all."""
    channels_last = picture.movedim(0, -1).double().cpu().numpy()  # (H, W, C)
    regions = []
    for scale in scales:
        labels = torch.from_numpy(
            felzenszwalb(
                channels_last,
                scale=scale,
                sigma=_SIGMA,
                min_size=_SMALLEST,
                channel_axis=-1,
            )
        )  # (H, W)
        for some in torch.split(torch.unique(labels), 64):
            segments = (labels == some[:, None, None]).float()  # (s, H, W)
            reach = 2 * _DILATION + 1
            dilated = F.max_pool2d(segments, (1, reach), 1, (0, _DILATION))
            dilated = F.max_pool2d(dilated, (reach, 1), 1, (_DILATION, 0))
            regions.append(dilated > 0)
    return torch.cat(regions)


def _felzenszwalb() -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = importlib.import_module(
            "skimage.segmentation"
        ).felzenszwalb
    except ImportError as error:
        raise ImportError(
            "Xrai needs scikit-image for its segments: pip install captum-cams[xrai]"
        ) from error
    return found


def _check_pictures(inputs: Sequence[Tensor]) -> Tensor:
    """Pictures in one tensor."""
    if len(inputs) > 1 or inputs[0].dim() != 4:
        shapes = ", ".join(shape_of(tensor) for tensor in inputs)
        raise ValueError(
            "inputs must be pictures (N, C, H, W) in one tensor to be segmented, got "
            f"{shapes}; pass one picture (C, H, W) as inputs.unsqueeze(0), and "
            "everything else as additional_forward_args"
        )
    return inputs[0]


def _check_scales(scales: object) -> None:
    """Numbers above 0, at least one."""
    if not list_of(scales):
        raise TypeError(
            "scales must be a sequence of Felzenszwalb's scales, at least one, got "
            f"{kind_of(scales)}"
        )
    for scale in list_of(scales):
        check_number("scales", scale, "(0, inf)")


def _check_black_and_white(black: Tensor, white: Tensor) -> None:
    """Two colors, the second one lighter in every channel."""
    if not (white > black).all():
        raise ValueError(
            "white must be above black in every channel, got others; for inputs "
            "normalized as (picture - mean) / std they are (1 - mean) / std and "
            "-mean / std"
        )
