"""
Train the examples' network anew: ``python -m captum_cams.examples.train``.

Two free cores take less than ten minutes. A seed gives the same weights again
on the same machine with the same versions.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from captum_cams.examples.model import _WEIGHTS, ShapesNet
from captum_cams.examples.shapes import shape_pictures

_BATCH = 64


def train(steps: int, seed: int = 0) -> ShapesNet:
    """
    Train a network on pictures drawn for each step.

    Args:
        steps (int): Steps of 64 pictures, at least 1: the first half on small
            pictures, which cost little, then sizes from 64 to 160 pixels.
        seed (int, optional): Seed of the weights and of the pictures.
            Default: ``0``

    Returns:
        ShapesNet: The trained network, in evaluation mode.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}: take one or more.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ShapesNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=6e-3, total_steps=steps + 1
    )
    for step in range(steps):
        size = 80 if 2 * step < steps else (64, 128, 160)[step % 3]
        # Far from the small seeds with which pictures are drawn elsewhere.
        pictures = shape_pictures(_BATCH, size, seed=(seed + 1) * 10**6 + step)
        images = pictures.images.contiguous(memory_format=torch.channels_last)
        logits = net.logits(images)  # (N, 8)
        loss = F.cross_entropy(logits, pictures.labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        rates.step()
        if step % 50 == 0 or step == steps - 1:
            right = (logits.argmax(1) == pictures.labels).float().mean()
            print(f"step {step:4d}  loss {loss:.3f}  accuracy {right:.1%}", flush=True)
    # As sure of itself as a large network trained for long.
    with torch.no_grad():
        net.linear.weight.mul_(2)
        net.linear.bias.mul_(2)
    return net.eval()


@torch.no_grad()
def accuracy(net: ShapesNet, n: int = 512, seed: int = 1) -> float:
    """
    Measure the share of pictures which a network gets right.

    Args:
        net (ShapesNet): The network, in evaluation mode.
        n (int, optional): How many pictures of 128 by 128 pixels.
            Default: ``512``
        seed (int, optional): Seed of the pictures.
            Default: ``1``

    Returns:
        float: The share, 0 to 1.
    """
    pictures = shape_pictures(n, seed=seed)
    batches = torch.split(pictures.images, _BATCH)
    guesses = torch.cat([net(images).argmax(1) for images in batches])  # (N,)
    return (guesses == pictures.labels).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Train, write the weights in float16 and print the accuracy.

    Args:
        arguments (Sequence[str], optional): The command line's arguments.
            Default: those of the running program
    """
    parser = argparse.ArgumentParser(
        prog="python -m captum_cams.examples.train",
        description="Train the examples' network on pictures drawn for each step.",
    )
    parser.add_argument("--out", type=Path, default=_WEIGHTS, help="the weights' file")
    parser.add_argument("--steps", type=int, default=650, help="of 64 pictures each")
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures")
    options = parser.parse_args(arguments)
    net = train(options.steps, options.seed)
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }
    torch.save(state, options.out)
    net.load_state_dict(state)
    print(f"accuracy on fresh pictures {accuracy(net):.1%}")


if __name__ == "__main__":
    main()
