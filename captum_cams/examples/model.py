"""The small network of the examples and its weights."""

from pathlib import Path

import torch
from torch import Tensor, nn

from captum_cams.examples.shapes import CLASSES

_WEIGHTS = Path(__file__).with_name("shapes_net.pt")


def _block(*channels: int) -> nn.Sequential:
    """Convolutions through these channel counts, then a pooling by two."""
    block = nn.Sequential()
    for i in range(1, len(channels)):
        conv = nn.Conv2d(channels[i - 1], channels[i], 3, padding=1, bias=False)
        block.add_module(f"conv{i}", conv)
        block.add_module(f"norm{i}", nn.BatchNorm2d(channels[i]))
        block.add_module(f"relu{i}", nn.ReLU())
    block.add_module("pool", nn.MaxPool2d(2))
    return block


class ShapesNet(nn.Module):
    """
    A small classifier of the pictures which :func:`shape_pictures` draws.

    Five blocks of convolutions, ``block1`` to ``block5``, each of which ends
    in a max-pooling called ``pool``, then the mean over the positions and one
    linear layer. A picture of 128 by 128 pixels leaves ``block4`` as 8 by 8
    and ``block5`` as 4 by 4 positions. Any size from 64 pixels runs; the
    weights which come with the package were made on 64 to 160 pixels, and on
    larger pictures they are often wrong.

    Examples::

        >>> import torch
        >>> from captum_cams.examples import ShapesNet
        >>> net = ShapesNet().eval()
        >>> net(torch.rand(2, 3, 128, 128)).shape
        torch.Size([2, 8])
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = _block(3, 16)
        self.block2 = _block(16, 24)
        self.block3 = _block(24, 32, 32)
        self.block4 = _block(32, 48, 48)
        self.block5 = _block(48, 64)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, len(CLASSES))
        self.softmax = nn.Softmax(dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """
        Score the classes, before the softmax.

        Args:
            images (Tensor): Pictures (N, 3, H, W) in [0, 1]; H and W are at
                least 64 pixels.

        Returns:
            Tensor: Logits (N, 8), in the order of ``CLASSES``.
        """
        x = self.block1(images)  # (N, 16, H/2, W/2)
        x = self.block2(x)  # (N, 24, H/4, W/4)
        x = self.block3(x)  # (N, 32, H/8, W/8)
        x = self.block4(x)  # (N, 48, H/16, W/16)
        x = self.block5(x)  # (N, 64, H/32, W/32)
        x = self.flatten(self.mean(x))  # (N, 64)
        logits: Tensor = self.linear(x)  # (N, 8)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """
        Give the classes their probabilities.

        Args:
            images (Tensor): Pictures (N, 3, H, W) in [0, 1]; H and W are at
                least 64 pixels.

        Returns:
            Tensor: Probabilities (N, 8), in the order of ``CLASSES``.
        """
        probabilities: Tensor = self.softmax(self.logits(images))  # (N, 8)
        return probabilities


def shapes_model(pretrained: bool = True) -> ShapesNet:
    """
    Build the examples' network, ready to use.

    Args:
        pretrained (bool, optional): Load the weights which come with the
            package, rather than leave the random ones.
            Default: ``True``

    Returns:
        ShapesNet: The network, in evaluation mode, in float32.

    Examples::

        >>> from captum_cams.examples import CLASSES, shape_pictures, shapes_model
        >>> pictures = shape_pictures(4)
        >>> probabilities = shapes_model()(pictures.images)
        >>> probabilities.shape
        torch.Size([4, 8])
        >>> bool((probabilities.argmax(1) == pictures.labels).all())
        True
    """
    net = ShapesNet()
    if pretrained:
        # The file holds float16; loading copies into the float32 parameters.
        net.load_state_dict(torch.load(_WEIGHTS, weights_only=True))
    return net.eval()
