"""
Benchmarks: `python -m tests.benchmarks [NAME ...] [--json FILE]`.

Each prints a table; figures are ratios, since times mean little on a busy machine.
"""

import argparse
import importlib
import json
import platform
from pathlib import Path

import torch

NAMES = ["passes", "accuracy", "metrics", "score_cam"]
THREADS = 2


def cell(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(rows):
    """Rows of one kind in columns; another kind begins another table."""
    while rows:
        keys = list(rows[0])
        same = [row for row in rows if list(row) == keys]
        rows = [row for row in rows if list(row) != keys]
        cells = [keys, *([cell(row[key]) for key in keys] for row in same)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            print("  ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)))
        print()


def machine():
    processor = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor,
        "accelerator": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main():
    modules = {n: importlib.import_module(f"tests.benchmarks.{n}") for n in NAMES}
    subjects = {n: m.__doc__.strip().splitlines()[0] for n, m in modules.items()}
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Figures as ratios, which mean more than times on a busy machine.",
        epilog="\n".join(f"{n:10} {subject}" for n, subject in subjects.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all"
    )
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in modules]
    if unknown:
        parser.error(f"NAME must be of {', '.join(NAMES)}, got {', '.join(unknown)}")
    torch.set_num_threads(THREADS)
    results = {"machine": machine()}
    for name in options.names or NAMES:
        print(f"{name}: {subjects[name]}")
        results[name] = modules[name].run()
        table(results[name])
        if options.json:  # at once: what follows may fail
            options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
