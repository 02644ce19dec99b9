"""The registered methods, as small as tests want them."""

import warnings

from torch.nn import Module

from captum_cams.attr.registry import METHODS
from tests.models import Function

METHOD_NAMES = sorted(METHODS)
SMALL = {name: METHODS[name].test_arguments for name in METHOD_NAMES}
OURS = [
    name
    for name in METHOD_NAMES
    if not METHODS[name].attribution.__module__.startswith("captum.")
]
WITH_LAYER = [name for name in OURS if METHODS[name].has_layer]
# Methods whose maps are of the layer's size, and those that need its gradients.
OF_LAYER = [name for name in WITH_LAYER if not METHODS[name].input_sized]
BY_GRADIENT = [name for name in OF_LAYER if METHODS[name].gradients]
WITH_BASELINES = [
    name for name in METHOD_NAMES if "baselines" in METHODS[name].arguments
]


def with_axiom(axiom):
    """Names of the methods that declare it."""
    return [name for name in METHOD_NAMES if axiom in METHODS[name].axioms]


def build(name, forward, layer, **options):
    """The method's attribution of a model; methods of whole models need no layer."""
    method = METHODS[name]
    if name not in OURS and not isinstance(forward, Module):
        forward = Function(forward)  # some of Captum's take modules alone
    return method.attribution(forward, *[layer] * method.has_layer, **options)


def explain(name, forward, layer, inputs, reshape_transform=None, **options):
    """The method's maps, detached as ours are."""
    made = {"reshape_transform": reshape_transform} if reshape_transform else {}
    options = {**METHODS[name].defaults, **SMALL[name], **options}
    attribution = build(name, forward, layer, **made)
    if name in OURS:
        return METHODS[name].maps(attribution.attribute(inputs, **options))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")
        warnings.filterwarnings("ignore", "Input Tensor 0 did not already require")
        return METHODS[name].maps(attribution.attribute(inputs, **options)).detach()
