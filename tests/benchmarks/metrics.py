"""
What insertion and deletion cost beside the forward passes they need.

8 pictures, 1% steps: 2 * 101 * 8 forward passes, against the same number of bare
no_grad forwards in the batch size that is fastest here. Rounds alternate in one
process; the median ratio should be 1.10 at most.
"""

from functools import partial

import torch
from torchvision.models import mobilenet_v2

from captum_cams.metrics import deletion_auc, insertion_auc
from tests.benchmarks.measure import fastest, interleaved

PICTURES, STEPS, ROUNDS = 8, 100, 5


def run(rounds=ROUNDS, n_steps=STEPS):
    torch.manual_seed(0)
    model = mobilenet_v2().eval()
    inputs = torch.rand(PICTURES, 3, 224, 224)
    maps = torch.rand(PICTURES, 1, 7, 7)
    forwards = 2 * PICTURES * (n_steps + 1)

    @torch.no_grad()
    def bare(batch, forwards=forwards):
        pictures = inputs.repeat(-(-batch // PICTURES), 1, 1, 1)[:batch]
        for start in range(0, forwards, batch):
            model(pictures[: min(batch, forwards - start)])

    def metrics():
        insertion_auc(model, inputs, maps, target=0, n_steps=n_steps)
        deletion_auc(model, inputs, maps, target=0, n_steps=n_steps)

    best = fastest({b: partial(bare, b, 32) for b in (1, 2, 4, 8, 16, 32)}, 3)
    trials = {"bare forwards": partial(bare, best), "metrics": metrics}
    ratios, seconds = interleaved(trials, rounds)
    return [
        {
            "what": "insertion and deletion",
            "forwards": forwards,
            "batch of the bare ones": best,
            "their seconds": seconds,
            "time": ratios["metrics"],
        }
    ]
