"""
Error of maps against points used, on trained networks and real pictures.

The folder that the environment variable CAPTUM_CAMS_REAL names holds
squeezenet1_1_fp16.pt, mobilenet_v2_fp16.pt (state dicts in float16), labels.csv, whose
column `file` names pictures, and ILSVRC/Data/CLS-LOC/val with these. Without the
variable, the package's own network explains its own pictures. Softmax output of the top
class, black baseline; errors are relative L1 errors of the map against 128 steps of the
trapezoid rule, median and mean over the pictures. CAPTUM_CAMS_PICTURES sets their
number (12), and CAPTUM_CAMS_FIGURE names a PNG for the curves.
"""

import csv
import os
import statistics
import warnings
from functools import partial
from pathlib import Path

import torch
from captum.attr import LayerConductance
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms import functional as F

from captum_cams import LayerIntegratedGradCam, LayerRSIGradCam
from captum_cams.baselines import black
from captum_cams.examples import shape_pictures, shapes_model

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LAYERS = ["block5", "block4"]  # of the package's own network
SUBJECTS = {  # size and layers of torchvision's
    "squeezenet1_1": (227, ["features.12", "features.7"]),
    "mobilenet_v2": (225, ["features.18", "features.13"]),
}
STEPS = [8, 16, 32]
TOLERANCES = [0.1, 0.03, 0.02, 0.01]


def network(root, name):
    net = models.get_model(name).eval()
    net.load_state_dict(torch.load(root / f"{name}_fp16.pt", weights_only=True))
    return net


def pictures(root, number, size):
    with open(root / "labels.csv", newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    for name in names[:: max(1, len(names) // number)][:number]:
        path = root / "ILSVRC" / "Data" / "CLS-LOC" / "val" / name
        image = F.center_crop(F.resize(Image.open(path).convert("RGB"), size), size)
        yield F.normalize(F.to_tensor(image), MEAN, STD).unsqueeze(0)


def cases(number):
    """Of each network its name, itself with softmax, its layers, pictures and black."""
    if "CAPTUM_CAMS_REAL" not in os.environ:
        own = shape_pictures(number).images.split(1)
        yield "shapes_model", shapes_model(), LAYERS, own, torch.zeros_like
        return
    root = Path(os.environ["CAPTUM_CAMS_REAL"])
    for name, (size, layers) in SUBJECTS.items():
        net = nn.Sequential(network(root, name), nn.Softmax(1)).eval()
        layers = [f"0.{layer}" for layer in layers]
        normalized_black = partial(black, mean=MEAN, std=STD)
        yield name, net, layers, pictures(root, number, size), normalized_black


def conductance_cam(forward, layer, x, baseline, target, n_steps):
    """RSI-Grad-CAM's map from Captum's conductance."""
    units = LayerConductance(forward, layer).attribute(
        x, baseline, target, n_steps=n_steps, method="riemann_trapezoid",
        internal_batch_size=4,
    ).detach()  # fmt: skip
    activations = []
    handle = layer.register_forward_hook(lambda *args: activations.append(args[2]))
    with torch.no_grad():
        forward(x)
    handle.remove()
    return (units.mean((2, 3), keepdim=True) * activations[0]).sum(1, True).relu()


def errors(forward, layers, x, baseline, target):
    """(layer, method, rule, knob) -> (points, error) of one picture."""
    found = {}

    def note(key, map_, points):
        exact = exacts[key[0]]
        found[key] = (points, float((map_ - exact).abs().sum() / exact.abs().sum()))

    for name, method in (
        ("RSI-Grad-CAM", LayerRSIGradCam),
        ("Integrated Grad-CAM", LayerIntegratedGradCam),
    ):
        cam = method(forward, layers)  # several layers in one walk
        exacts = cam.attribute(x, baseline, target, n_steps=128)
        for rule in ("riemann_right", "riemann_trapezoid", "logistic_trapezoid"):
            for n in STEPS:
                maps = cam.attribute(x, baseline, target, n_steps=n, method=rule)
                for i, map_ in enumerate(maps):
                    note((i, name, rule, n), map_, n + 1)
        for i, layer in enumerate(layers):
            for tolerance in TOLERANCES:
                map_, alphas = method(forward, layer).attribute(
                    x, baseline, target, tolerance=tolerance, return_alphas=True
                )
                note((i, name, "tolerance", tolerance), map_, len(alphas[0]))
            if method is LayerRSIGradCam:
                for n in STEPS:
                    map_ = conductance_cam(forward, layer, x, baseline, target, n)
                    note((i, name, "LayerConductance", n), map_, n + 1)
    return found


def run():
    rows = []
    number = int(os.environ.get("CAPTUM_CAMS_PICTURES", "12"))
    for name, net, layers, images, dark in cases(number):
        modules, found = [net.get_submodule(layer) for layer in layers], []
        for x in images:
            with torch.no_grad():
                target = int(net(x).argmax(1))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tolerances not met: seen in errors
                found.append(errors(net, modules, x, dark(x), target))
        for key in sorted(found[0], key=lambda key: key[0]):
            points, error = zip(*(picture[key] for picture in found), strict=True)
            row = {
                "network": f"{name} {layers[key[0]].removeprefix('0.')}",
                "method": key[1],
                "rule": key[2],
                "steps or tolerance": key[3],
                "points": statistics.mean(points),
                "median error": statistics.median(error),
                "mean error": statistics.mean(error),
            }
            if key[2] == "tolerance":
                twice = [value <= 2 * key[3] for value in error]
                row["within twice the tolerance"] = statistics.mean(twice)
            rows.append(row)
    if "CAPTUM_CAMS_FIGURE" in os.environ:
        curves(rows).savefig(os.environ["CAPTUM_CAMS_FIGURE"], dpi=100)
    return rows


def curves(rows):
    """Median error against points: a panel for each method and network."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colors = {
        rule: f"C{i}"
        for i, rule in enumerate(dict.fromkeys(row["rule"] for row in rows))
    }
    figure = Figure(figsize=(4 * len(networks), 7), layout="constrained")
    panels = figure.subplots(len(methods), len(networks), sharex=True, sharey=True)
    for axes, method in zip(panels, methods, strict=True):
        for panel, network_ in zip(axes, networks, strict=True):
            here = [
                r for r in rows if r["network"] == network_ and r["method"] == method
            ]
            for rule in dict.fromkeys(row["rule"] for row in here):
                line = [row for row in here if row["rule"] == rule]
                panel.plot(
                    [row["points"] for row in line],
                    [100 * row["median error"] for row in line],
                    marker="o",
                    label=rule,
                    color=colors[rule],
                )
            panel.set(title=f"{method}\n{network_}", yscale="log", xscale="log")
            panel.set_xticks([8, 16, 32], ["8", "16", "32"])
            panel.set_xticks([], minor=True)
            panel.yaxis.set_major_formatter("{x:g}%")
            panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8)
    figure.supxlabel("points evaluated")
    figure.supylabel("median error of the map")
    return figure
