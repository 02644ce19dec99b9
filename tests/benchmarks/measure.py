"""Times as ratios from one process, and peak memory of fresh ones."""

import statistics
import subprocess
import sys
import time

import torch


def interleaved(trials, rounds, device="cpu"):
    """
    Median ratio of each trial's time to the first one's, and the first one's seconds.

    Rounds alternate between the trials, so that what else the machine does hits all,
    and each begins with another trial, so that none always follows the same one.
    """
    seconds = {name: [] for name in trials}
    names = list(trials)
    for round_ in range(rounds + 1):  # the first one warms up
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            synchronise(device)
            start = time.perf_counter()
            trials[name]()
            synchronise(device)
            if round_:
                seconds[name].append(time.perf_counter() - start)
    floor = seconds[names[0]]
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, floor, strict=True))
        for name, values in seconds.items()
    }
    return ratios, statistics.median(floor)


def synchronise(device):
    if device == "cuda":
        torch.cuda.synchronize()


def fastest(trials, rounds=5, device="cpu"):
    """The name of the trial that takes least, by the median of its ratios."""
    ratios, _ = interleaved(trials, rounds, device)
    return min(ratios, key=ratios.get)


def added_memory(function):
    """MiB that this process takes at most above what it has now (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again at the present size
    before = peak()
    function()
    return peak() - before


def peak():
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def in_fresh_process(module, *arguments):
    """What `python -m module *arguments` prints, as a number."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(out.stdout.split()[-1])
