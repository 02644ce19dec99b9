"""All attribution classes by their names in the registry, as small as tests want them."""

from captum.attr import LayerAttribution, LayerGradCam

from captum_cams.attr.registry import METHODS

# What keeps each method small, and lets it take the smallest pictures.
SMALL = {
    "smooth-grad-cam-plus-plus": {"nt_samples": 2},
    "rsi-grad-cam": {"n_steps": 3},
    "integrated-grad-cam": {"n_steps": 3},
    "group-cam": {"baselines": 0, "groups": 2},
    "rise": {"n_masks": 5, "grid_size": 2},
    "xrai": {"n_steps": 3, "scales": [50]},
}

OURS = [
    name for name, method in METHODS.items() if method.attribution is not LayerGradCam
]
WITH_LAYER = [
    name for name in OURS if issubclass(METHODS[name].attribution, LayerAttribution)
]
# Methods whose maps are of the layer's size, and those that need its gradients.
OF_LAYER = [name for name in WITH_LAYER if name not in ("group-cam", "score-cam")]
BY_GRADIENT = [name for name in OF_LAYER if name != "ablation-cam"]
WITH_BASELINES = [
    "rsi-grad-cam",
    "integrated-grad-cam",
    "group-cam",
    "score-cam",
    "rise",
]


def build(name, forward, layer, **options):
    """The method's attribution of a model; methods of whole models need no layer."""
    kind = METHODS[name].attribution
    return kind(forward, *[layer] * issubclass(kind, LayerAttribution), **options)


def explain(name, forward, layer, inputs, reshape_transform=None, **options):
    """The method's maps, detached as ours are."""
    made = {"reshape_transform": reshape_transform} if reshape_transform else {}
    options = {**METHODS[name].defaults, **SMALL.get(name, {}), **options}
    maps = build(name, forward, layer, **made).attribute(inputs, **options)
    return maps.detach() if name == "grad-cam" else maps
