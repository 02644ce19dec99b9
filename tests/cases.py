"""One table of all attribution classes, with arguments that make them quick."""

from captum.attr import LayerAttribution

from captum_cams.attr.registry import METHODS

QUICK = {
    "smooth-grad-cam-plus-plus": {"nt_samples": 2},
    "rsi-grad-cam": {"n_steps": 3},
    "integrated-grad-cam": {"n_steps": 3},
    "group-cam": {"groups": 2, "baselines": 0},
    "rise": {"n_masks": 6, "grid_size": 2},
    "xrai": {"n_steps": 3, "mode": "fast", "scales": (50.0,)},
}
ALL = [name for name in METHODS if name != "grad-cam"]  # that one is Captum's own
LAYER = [
    name for name in ALL if issubclass(METHODS[name].attribution, LayerAttribution)
]
# Methods whose maps are of the layer's size, and those that need gradients.
OF_LAYER = [name for name in LAYER if name not in ("group-cam", "score-cam")]
BY_GRADIENT = [name for name in OF_LAYER if name != "ablation-cam"]
LISTS = [name for name in OF_LAYER if name != "ablation-cam"]


def build(name, forward_func, layer, **options):
    kind = METHODS[name].attribution
    return kind(forward_func, *[layer] * (name in LAYER), **options)


def explain(name, forward_func, layer, x, reshape_transform=None, **options):
    made = {"reshape_transform": reshape_transform} if reshape_transform else {}
    cam = build(name, forward_func, layer, **made)
    return cam.attribute(x, **{"target": 0, **QUICK.get(name, {}), **options})
