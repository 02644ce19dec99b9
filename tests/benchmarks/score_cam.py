"""
Score-CAM beside grad-cam's and torchcam's: time at an equal map, and peak memory.

Each of the two where it is installed (extra `bench`). All explain the same picture at
the same layer, each with its own default batch. Maps are equal up to how masks become
pictures (grad-cam upsamples with aligned corners, torchcam scales masks before it
upsamples them): the largest differences of maps scaled to [0, 1] are in the table. The
ratio to the faster of the two should be 0.8 at most; where the passes alone take longer, one forward a channel in the fastest batch, no way
of writing Score-CAM reaches that.

Memory is what a fresh process adds to its peak, for growing numbers of channels.
"""

import contextlib
import io
import os
import sys
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn
from torchvision.models import mobilenet_v2, squeezenet1_1

from captum_cams import ScoreCam
from captum_cams.examples import shape_pictures, shapes_model
from captum_cams.layer_eval import LayerEvaluator, TargetOutput
from captum_cams.masks import min_max, upsample
from tests.benchmarks.measure import fastest, in_fresh_process, interleaved, peak

ROUNDS = 5
CHANNELS = [64, 512, 2048]


def ours(model, layer, picture):
    return ScoreCam(model, layer).attribute(picture, target=0)


def grad_cam(model, layer, picture):
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with contextlib.redirect_stderr(io.StringIO()):  # its bars
        cam = ScoreCAM(model, [layer])(picture, [ClassifierOutputTarget(0)])
    return torch.from_numpy(cam).unsqueeze(0)


def torchcam(model, layer, picture):
    from torchcam.methods import ScoreCAM

    with ScoreCAM(model, layer) as cam, torch.no_grad():
        scores = model(picture)
        return cam(0, scores)[0].unsqueeze(0)


def passes(model, layer, picture, batch):
    """One forward for each channel of the layer, and nothing else."""
    pictures = picture.repeat(batch, 1, 1, 1)
    evaluator = LayerEvaluator(TargetOutput(model, (picture,), 0), layer)
    channels = evaluator.activations((picture,), torch.tensor([0]))[0].shape[1]
    with torch.no_grad():
        for start in range(0, channels, batch):
            model(pictures[: channels - start])


PACKAGES = {"ours": ours}
if find_spec("pytorch_grad_cam"):
    PACKAGES["grad-cam"] = grad_cam
if find_spec("torchcam"):
    PACKAGES["torchcam"] = torchcam


def cases():
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 224, 224)
    shapes, mobilenet = shapes_model(), mobilenet_v2().eval()
    squeezenet = squeezenet1_1().eval()
    return {
        "shapes_model.block5": (shapes, shapes.block5, shape_pictures(1).images),
        "mobilenet_v2.features.13": (mobilenet, mobilenet.features[13], picture),
        "squeezenet1_1.features.4": (squeezenet, squeezenet.features[4], picture),
    }


def time():
    for name, (model, layer, picture) in cases().items():
        trials = {
            package: partial(explain, model, layer, picture)
            for package, explain in PACKAGES.items()
        }
        alone = {b: partial(passes, model, layer, picture, b) for b in (2, 4, 8, 16)}
        batch = fastest(alone, 2)
        ratios, seconds = interleaved({**trials, "passes": alone[batch]}, ROUNDS)
        others = [package for package in PACKAGES if package != "ours"]
        cams = {
            package: min_max(upsample(trial(), picture.shape[2:]))
            for package, trial in trials.items()
        }
        row = {"what": name, "seconds": seconds, "passes to ours": ratios["passes"]}
        if others:
            row["ratio"] = 1 / min(ratios[package] for package in others)
        for package in others:
            row[f"to {package}"] = 1 / ratios[package]
            row[f"difference to {package}"] = float(
                (cams[package] - cams["ours"]).abs().max()
            )
        yield row


def wide(channels):
    """A network and its layer of that many channels, 7 x 7 of a picture's 224 x 224."""
    layer = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, channels, 1), nn.ReLU())
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(layer, *head).eval(), layer


def added_memory(package, channels):
    """MiB, in this process."""
    picture = torch.rand(1, 3, 224, 224)
    PACKAGES[package](*wide(4), picture)  # takes up what every use needs
    model, layer = wide(channels)
    before = peak()
    PACKAGES[package](model, layer, picture)
    return peak() - before


def memory():
    # glibc then gives every picture back at once: its heap's fragments do not count.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    for channels in CHANNELS:
        row = {"what": f"{channels} channels"}
        for package in PACKAGES:
            mib = in_fresh_process("tests.benchmarks.score_cam", package, channels)
            row[f"{package} MiB"] = mib
        yield row


def run():
    """One row a network for time, then one a number of channels for memory."""
    return [*time(), *memory()]


if __name__ == "__main__":  # a fresh process
    print(added_memory(sys.argv[1], int(sys.argv[2])))
