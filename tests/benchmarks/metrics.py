"""
What insertion and deletion cost beside the forward passes they need.

8 pictures, 1% steps: 2 * 101 * 8 forward passes, against the same number of bare
no_grad forwards in the batch size that is fastest here. Rounds alternate in one
process; the ratio of medians should be 1.10 at most.

    python -m tests.benchmarks.metrics
"""

import statistics
import time

import torch
from torchvision.models import mobilenet_v2

from captum_cams.metrics import deletion_auc, insertion_auc

PICTURES, STEPS, ROUNDS = 8, 100, 5


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def run(rounds=ROUNDS, n_steps=STEPS):
    torch.set_num_threads(2)
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

    trials = {batch: [] for batch in (1, 2, 4, 8, 16, 32)}
    for _ in range(3):
        for batch, times in trials.items():
            times.append(seconds(lambda batch=batch: bare(batch, 32)))
    best = min(trials, key=lambda batch: min(trials[batch]))

    times = [(seconds(lambda: bare(best)), seconds(metrics)) for _ in range(rounds)]
    alone, together = (statistics.median(side) for side in zip(*times, strict=True))
    return [
        {
            "what": "insertion and deletion",
            "forwards": forwards,
            "seconds": together,
            "bare_batch": best,
            "bare_seconds": alone,
            "ratio": together / alone,
            "ratios": [metrics / bare for bare, metrics in times],
        }
    ]


if __name__ == "__main__":
    for row in run():
        print(
            f"{row['what']}: {row['forwards']} forwards in {row['seconds']:.2f} s, "
            f"bare in {row['bare_seconds']:.2f} s (batches of {row['bare_batch']}), "
            f"ratio {row['ratio']:.3f}; rounds "
            + " ".join(f"{ratio:.3f}" for ratio in row["ratios"])
        )
