"""Methods along a path that are asked for together, from the same points."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from captum_cams import (
    LayerIntegratedGradCam,
    LayerPathIntegrals,
    LayerRSIGradCam,
)
from captum_cams.attr.integrands import Integrand
from captum_cams.attr.integrated_grad_cam import IntegratedGradCamIntegrand
from captum_cams.attr.rsi_grad_cam import RSIGradCamIntegrand
from captum_cams.evaluation.layers import LayerInfo
from captum_cams.evaluation.methods import ExplainTask, MethodSpec, share_transform

_INTEGRANDS: Mapping[type, type[Integrand]] = {
    LayerRSIGradCam: RSIGradCamIntegrand,
    LayerIntegratedGradCam: IntegratedGradCamIntegrand,
}
# Their rules are not those of intervals, or their points are their own.
_ALONE = ("method", "tolerance", "return_alphas", "return_convergence_delta")


def shares_path(specs: Sequence[MethodSpec]) -> list[MethodSpec]:
    """Those of some methods that can share the points of one path, two at least."""
    groups: dict[str, list[MethodSpec]] = {}
    for spec in specs:
        if spec.method.attribution in _INTEGRANDS and not {*spec.arguments} & {*_ALONE}:
            path = {**_split(spec)[1], **spec.method.defaults, **spec.method.colors}
            groups.setdefault(repr(sorted(path.items())), []).append(spec)
    largest = max(groups.values(), key=len, default=[])
    return largest if len(largest) > 1 else []


def _split(spec: MethodSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the method's integrand, and those of its path."""
    kind = _INTEGRANDS[spec.method.attribution]
    own = inspect.signature(kind).parameters
    of_integrand = {key: of for key, of in spec.arguments.items() if key in own}
    of_path = {key: of for key, of in spec.arguments.items() if key not in own}
    return of_integrand, of_path


def explain_along_path(
    task: ExplainTask, specs: Sequence[MethodSpec], layers: Sequence[LayerInfo]
) -> list[list[Tensor]] | None:
    """
    For each method its maps, (N, 1, h, w) for each layer, from one path.

    None where the layers cannot be explained together.
    """
    if not share_transform(layers):
        return None
    first = specs[0]
    kinds = [_INTEGRANDS[spec.method.attribution] for spec in specs]
    integrals = LayerPathIntegrals(
        task.network.explained,
        [layer.module for layer in layers],
        integrands=[
            kind(**_split(spec)[0]) for kind, spec in zip(kinds, specs, strict=True)
        ],
        reshape_transform=layers[0].transform,
    )
    colors = first.method.colors.items()
    options: dict[str, Any] = {key: task.colors[color] for key, color in colors}
    options |= {**first.method.defaults, **_split(first)[1]}
    found: Any = integrals.attribute(task.inputs, target=task.targets, **options)
    return [list(maps) for maps in found]
