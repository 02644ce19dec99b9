"""
What the methods cost beside the passes through the network that they need.

The floor of a path method is the same number of points: forward passes up to the layer
without a graph, in the fastest batch size, and forward and backward through the rest.
That of Group-CAM is one such pass and G + 1 forwards. Times are ratios to the floor,
medians of rounds that alternate in one process; memory is the peak that a fresh process
adds while it explains, as a ratio to what the floor adds. Then the time of a row of
forwards by batch sizes, as a ratio to the quickest, beside the default's.
"""

import sys
import warnings
from functools import partial

import torch
from captum.attr import LayerConductance, LayerGradCam, LayerIntegratedGradients
from torch import nn
from torchvision import models

from captum_cams import GroupCam, LayerIntegratedGradCam, LayerRSIGradCam
from captum_cams.examples import shapes_model
from captum_cams.layer_eval import rows_per_batch
from tests.benchmarks.measure import (
    added_memory,
    fastest,
    in_fresh_process,
    interleaved,
)

STEPS, GROUPS, BATCHES = 20, 32, (1, 2, 4, 8, 16, 32, 64)


def resnet50():
    net = models.resnet50()
    parts = list(net.children())
    return (
        net,
        net.layer4,
        nn.Sequential(*parts[:-2]),
        nn.Sequential(parts[-2], nn.Flatten(), parts[-1]),
    )


def vgg16():
    net = models.vgg16()
    return (
        net,
        net.features[30],
        net.features,
        nn.Sequential(net.avgpool, nn.Flatten(), net.classifier),
    )


def mobilenet_v2():
    net = models.mobilenet_v2()
    return (
        net,
        net.features[18],
        net.features,
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier),
    )


SIZES = [
    ("shapes_model", 128),
    ("resnet18", 32),
    ("resnet18", 64),
    ("resnet18", 224),
    ("mobilenet_v2", 32),
    ("mobilenet_v2", 64),
    ("mobilenet_v2", 224),
    ("mobilenet_v2", 448),
    ("squeezenet1_1", 224),
    ("resnet50", 224),
    ("vgg16", 224),
]
NETWORKS = {"resnet50": resnet50, "vgg16": vgg16, "mobilenet_v2": mobilenet_v2}


class Subject:
    """A network with random weights, its layer, the parts before and behind it."""

    def __init__(self, name, device="cpu", examples=1):
        torch.manual_seed(0)
        net, self.layer, self.head, self.tail = NETWORKS[name]()
        net.eval().to(device)
        self.net = net
        self.x = torch.rand(examples, 3, 224, 224, device=device)

    def forward(self, x):
        return self.net(x).softmax(1)

    def forwards(self, rows, batch):
        with torch.no_grad():
            for start in range(0, rows, batch):
                n = min(batch, rows - start)
                self.forward(self.x[:1].repeat(n, 1, 1, 1))

    def points(self, rows, batch):
        for start in range(0, rows, batch):
            n = min(batch, rows - start)
            with torch.no_grad():
                A = self.head(self.x[:1].repeat(n, 1, 1, 1))
            A.requires_grad_()
            torch.autograd.grad(self.tail(A).softmax(1)[:, 0].sum(), A)

    def path_floor(self, batch, steps=STEPS):
        self.points(steps + 1, batch)

    def group_floor(self, batch, groups=GROUPS):
        self.points(1, 1)
        self.forwards(groups + 1, batch)

    def rsi(self, **options):
        options = {"n_steps": STEPS, "target": 0, **options}
        LayerRSIGradCam(self.forward, self.layer).attribute(self.x, **options)

    def refined(self):
        """As many points, found one after the other: no map meets this tolerance."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.rsi(tolerance=1e-12)

    def igc(self, **options):
        options = {"n_steps": STEPS, "target": 0, **options}
        LayerIntegratedGradCam(self.forward, self.layer).attribute(self.x, **options)

    def group(self, groups=GROUPS):
        GroupCam(self.forward, self.layer).attribute(self.x, target=0, groups=groups)

    def conductance(self, **options):
        LayerConductance(self.forward, self.layer).attribute(
            self.x, target=0, n_steps=STEPS, method="riemann_trapezoid", **options
        )

    def integrated_gradients(self):
        LayerIntegratedGradients(self.forward, self.layer).attribute(
            self.x, target=0, n_steps=STEPS + 1, method="riemann_trapezoid"
        )

    def grad_cam(self):
        LayerGradCam(self.forward, self.layer).attribute(self.x, target=0)


def trials(subject, batch=4, group_batch=4):
    """Groups of trials by the name of their floor, which comes first in each."""
    path = {
        "floor": lambda: subject.path_floor(batch),
        "RSI-Grad-CAM": subject.rsi,
        "RSI-Grad-CAM, tolerance": subject.refined,
        "Integrated Grad-CAM": subject.igc,
        "LayerConductance": subject.conductance,
        "LayerConductance, batch 4": lambda: subject.conductance(internal_batch_size=4),
        "LayerIntegratedGradients": subject.integrated_gradients,
    }
    one = {"floor": lambda: subject.points(1, 1), "LayerGradCam": subject.grad_cam}
    group = {
        "floor": lambda: subject.group_floor(group_batch),
        "Group-CAM": subject.group,
    }
    return {"path": path, "one point": one, "group": group}


def devices():
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def times(networks, rounds):
    for name in networks:
        for device in devices():
            subject = Subject(name, device)
            batches = [
                fastest({b: partial(floor, b) for b in BATCHES}, 2, device)
                for floor in (subject.path_floor, subject.group_floor)
            ]
            for floor, group in trials(subject, *batches).items():
                ratios, seconds = interleaved(group, rounds, device)
                for trial, ratio in ratios.items():
                    yield {
                        "what": f"{name}, {device}: {trial}",
                        "floor": floor,
                        "seconds of the floor": seconds,
                        "time": ratio,
                    }


def memory(networks):
    for name in networks:
        floors = {}
        for floor, group in trials(Subject(name)).items():
            for trial in group if floor != "one point" else ():
                added = in_fresh_process(__name__, name, floor, trial)
                floors.setdefault(floor, added)
                yield {
                    "what": f"{name}, cpu: {trial}",
                    "floor": floor,
                    "MiB": added,
                    "memory": added / floors[floor],
                }


def batches(rounds):
    """What a row of a forward costs in batches, and whether the default is right."""
    for name, size in SIZES:
        torch.manual_seed(0)
        net = shapes_model() if name == "shapes_model" else models.get_model(name)
        net.eval()
        x = torch.rand(max(BATCHES), 3, size, size)

        def forward(batch, net=net, x=x):
            with torch.no_grad():
                net(x[:batch])

        default = rows_per_batch((x,), None)
        sizes = sorted({*BATCHES, default})
        ratios, _ = interleaved({b: partial(forward, b) for b in sizes}, rounds)
        rows = {b: ratio / b for b, ratio in ratios.items()}
        quickest = min(rows.values())
        yield {
            "what": f"{name}, {size} pixels",
            **{f"{b} rows": rows[b] / quickest for b in BATCHES},
            "default": default,
            "time of the default": rows[default] / quickest,
        }


def growth(rounds):
    """How cost grows, on MobileNet-V2 and over the blocks of VGG-16."""
    subject = Subject("mobilenet_v2")
    four = Subject("mobilenet_v2", examples=4)
    vgg = Subject("vgg16")
    blocks = [vgg.net.features[i] for i in (4, 9, 16, 23, 30)]

    def layers(layer):
        LayerRSIGradCam(vgg.forward, layer).attribute(vgg.x, target=0, n_steps=4)

    series = {
        "n_steps, to 10": {
            f"{n}": lambda n=n: subject.rsi(n_steps=n) for n in (10, 20, 40)
        },
        "examples, to 1": {"1": subject.rsi, "4": four.rsi},
        "groups, to 8": {f"{g}": lambda g=g: subject.group(g) for g in (8, 16, 32)},
        "blocks of VGG-16, to the earliest": {
            "earliest": lambda: layers(blocks[0]),
            "all five": lambda: layers(blocks),
        },
    }
    for name, group in series.items():
        ratios, _ = interleaved(group, rounds)
        for trial, ratio in ratios.items():
            yield {"what": f"{name}: {trial}", "time": ratio}


def run(networks=tuple(NETWORKS), rounds=6):
    return [
        *times(networks, rounds),
        *memory(networks),
        *growth(rounds),
        *batches(rounds),
    ]


if __name__ == "__main__":  # a fresh process
    network, floor, trial = sys.argv[1:]
    torch.set_num_threads(2)
    subject = Subject(network)
    print(added_memory(trials(subject)[floor][trial]))
