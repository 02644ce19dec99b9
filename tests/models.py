"""Small networks in two parts, so that tests know the layer's features and the head."""

import torch
from torch import nn


class TwoPart(nn.Module):
    """Forward is head(layer(x)); `layer` gives the feature maps."""

    def __init__(self, layer: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x))


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def network(dims=2, channels=6, classes=3, softmax=True, gain=1.0, seed=0):
    """
    Signed feature maps (tanh), one dead channel, A(0) != 0, a nonlinear head.

    A large `gain` saturates the softmax.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        convolution = CONVOLUTIONS[dims](2, channels, 3, stride=2, padding=1)
        layer = nn.Sequential(convolution, nn.Tanh())
        head = nn.Sequential(
            CONVOLUTIONS[dims](channels, 4, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(2),
            nn.AdaptiveAvgPool1d(4),
            nn.Flatten(),
            nn.Linear(16, classes),
            Scale(gain),
            *([nn.Softmax(1)] if softmax else []),
        )
        with torch.no_grad():
            convolution.weight[1] = 0
            convolution.bias[1] = 0
        return TwoPart(layer, head).double().eval()


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


class Function(nn.Module):
    """A module of a plain function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def saturating() -> TwoPart:
    """The RSI-Grad-CAM paper's f(x) = 1 - ReLU(1 - x), on one channel of one unit."""
    return TwoPart(
        nn.Identity(), Function(lambda x: 1 - torch.relu(1 - x).flatten(1).sum(1))
    )


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
