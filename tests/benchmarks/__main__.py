"""
Benchmarks: `python -m tests.benchmarks [NAME ...] [--json FILE]`.

Each prints a table; figures are ratios, since times mean little on a busy machine.
"""

import argparse
import importlib
import json
import platform

import torch

NAMES = ["passes", "accuracy", "metrics", "score_cam"]


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


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=NAMES)
    parser.add_argument("--json", help="file for all figures")
    options = parser.parse_args()
    results = {
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
    }
    for name in options.names:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        print(f"{name}: {module.__doc__.strip().splitlines()[0]}")
        results[name] = module.run()
        table(results[name])
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
