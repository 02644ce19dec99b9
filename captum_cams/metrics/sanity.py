"""Sanity: whether maps depend on the weights that the model has learned."""

import copy
import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_cams._validation import (
    check_callable,
    check_choice,
    check_inputs,
    check_model,
    check_seed,
    check_words,
    kind_of,
)
from captum_cams.masks import min_max
from captum_cams.metrics._metric import check_map, metric, nan_where_broken


@metric(higher_is_better=False)
def randomization_check(  # noqa: PLR0917
    explain: Callable[[Module, Any, Any], Tensor],
    model: Module,
    inputs: Tensor | tuple[Tensor, ...],
    target: Any = None,
    mode: str = "cascading",
    layers: Sequence[str] | None = None,
    similarity: Sequence[str] = ("spearman", "ssim"),
    *,
    seed: int = 0,
) -> dict[str, dict[str, Tensor]]:
    r"""
    Similarity of maps before and after layers are randomized; lower is better.

    Layers of a copy of the model are initialized anew by their ``reset_parameters``,
    and the copy is explained again (Group-CAM, section 4.5, after Adebayo et al.). A
    method whose maps stay similar does not show what the model has learned.

    `spearman` is the rank correlation in [-1, 1], equal pixels sharing their mean
    rank, by scipy; NaN if either map is zero or constant. `ssim` is the structural
    similarity in [-1, 1] of both maps scaled to [0, 1] (a zero or constant map becomes
    0), by scikit-image, with a uniform window of 7 pixels, or the largest odd side that
    fits; NaN where only one pixel does. Either is NaN if either map holds NaN or
    infinity. The extra ``captum-cams[sanity]`` brings scikit-image.

    The given model is never run or changed, and the state of the random generators of
    CPU and CUDA is as found afterwards.

    Sources: J. Adebayo et al., "Sanity Checks for Saliency Maps", 2018,
    https://arxiv.org/abs/1810.03292; Z. Wang et al., "Image Quality Assessment: From
    Error Visibility to Structural Similarity", 2004 (SSIM)

    Args:
        explain (Callable): Called as ``explain(model, inputs, target)`` with a copy of
            the model; gives maps (N, 1, \*any spatial) or (N, \*any spatial) with as
            many spatial axes as the input. Layers to be attributed must be looked up in
            the model it is given.
        model (torch.nn.Module): The model.
        inputs (Tensor or tuple of Tensor): Passed to `explain`; the first tensor,
            (N, C, \*spatial), tells the number of examples and spatial axes.
        target (Any, optional): Passed to `explain`. Default: None
        mode (str): ``"cascading"``: a layer is randomized together with all layers
            before it in `layers`; ``"independent"``: alone. Default: ``"cascading"``
        layers (sequence of str, optional): Names out of ``model.named_modules()``, from
            the output down. A name stands for its submodules too; these need
            ``reset_parameters`` where they have parameters of their own. Default: None,
            for all modules with parameters of their own, the last defined first
        similarity (sequence of str): ``"spearman"``, ``"ssim"`` or both. Default: both
        seed (int): For the new weights, and for what `explain` draws. Default: 0

    Returns:
        **dict** from a layer's name, in the order of the layers, to a dict from a
        similarity's name to its values, *Tensor* (N,).

    Raises:
        ValueError, TypeError: If an argument does not fit, or a module cannot be reset.
        ImportError: If scikit-image is missing, for `ssim`.

    Examples::

        >>> from captum.attr import LayerGradCam
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> def explain(model, inputs, target):
        ...     return LayerGradCam(model, model.block4).attribute(inputs, target)
        >>> images, labels, _ = shape_pictures(2)
        >>> similarities = randomization_check(
        ...     explain, shapes_model(), images, labels, layers=["linear", "block5"]
        ... )
        >>> list(similarities), similarities["block5"]["ssim"].shape
        (['linear', 'block5'], torch.Size([2]))
    """
    check_callable("explain", explain)
    check_model(model)
    check_choice("mode", mode, ("cascading", "independent"))
    seed = check_seed(seed)
    similarity = check_words("similarity", similarity)
    for name in similarity:
        check_choice("similarity", name, _SIMILARITIES)
    x = check_inputs(inputs)[0]
    names = _names_to_randomize(model, layers)

    def maps_of(model: Module) -> Tensor:
        return check_map(explain(model, inputs, target), x.shape[0], x.dim() - 2)

    similarities = {}
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        before = maps_of(copy.deepcopy(model))  # (N, 1, *spatial)
        randomized = copy.deepcopy(model)
        for name in names:
            if mode == "independent":
                randomized = copy.deepcopy(model)
            for module in _with_parameters(randomized.get_submodule(name)):
                reset: Any = module.reset_parameters
                reset()
            after = maps_of(randomized)  # (N, 1, *spatial)
            if after.shape != before.shape:
                raise ValueError(
                    "explain must give maps of one shape for every model, got "
                    f"{tuple(after.shape)} after {tuple(before.shape)}"
                )
            both = torch.cat([before, after], 1)  # (N, 2, *spatial)
            similarities[name] = {
                of: nan_where_broken(_SIMILARITIES[of](before, after), both)
                for of in similarity
            }
    return similarities


def has_own_parameters(module: Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def is_resettable(module: Module) -> bool:
    """Whether a module can initialize its own parameters anew."""
    return callable(getattr(module, "reset_parameters", None))


def _with_parameters(module: Module) -> list[Module]:
    return [part for part in module.modules() if has_own_parameters(part)]


def _names_to_randomize(model: Module, layers: object) -> list[str]:
    """Checked names of layers, or those of all modules with parameters of their own."""
    modules = dict(model.named_modules())
    names = (
        [name for name in reversed(modules) if has_own_parameters(modules[name])]
        if layers is None
        else _check_layer_names(layers, modules)
    )
    for name in names:
        for module in _with_parameters(modules[name]):
            if not is_resettable(module):
                raise ValueError(
                    "layers must be made of modules that can draw their parameters "
                    f"anew with reset_parameters(), got '{name}' "
                    f"({type(module).__name__}) without it; give its class that "
                    "method, or name other layers"
                )
    return names


def _check_layer_names(names: object, known: Collection[str]) -> list[str]:
    """Names out of ``model.named_modules()``."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise TypeError(
            "layers must be a list of names out of model.named_modules(), from the "
            f"output down, got {kind_of(names) if names else 'none'}"
        )
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise ValueError(
                "layers must be names out of model.named_modules(), got "
                f"{kind_of(name)}, which is not one of them"
            )
    return list(names)


def _spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation of each pair of maps, (N,)."""
    from scipy.stats import spearmanr  # here, as it takes a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about constant maps, whose value is NaN
        return _by_example(lambda x, y: spearmanr(x.ravel(), y.ravel())[0], a, b)


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of each pair of maps scaled to [0, 1], (N,)."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError(
            "ssim needs scikit-image; pip install 'captum-cams[sanity]' brings it"
        ) from error
    side = min(7, *a.shape[2:])
    side -= 1 - side % 2  # odd
    if side == 1:  # the covariance in a window of one pixel is not defined
        return torch.full_like(a.flatten(1)[:, 0], torch.nan)
    return _by_example(
        partial(structural_similarity, win_size=side, data_range=1.0),
        min_max(a),
        min_max(b),
    )


def _by_example(
    similarity: Callable[[Any, Any], float], a: Tensor, b: Tensor
) -> Tensor:
    """A similarity of single pairs of arrays for each example, (N,)."""
    pairs = zip(a.squeeze(1).cpu().double(), b.squeeze(1).cpu().double(), strict=True)
    return a.new_tensor([float(similarity(x.numpy(), y.numpy())) for x, y in pairs])


_SIMILARITIES = {"spearman": _spearman, "ssim": _ssim}
