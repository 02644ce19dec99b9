"""
The metrics' formulas as literal, slow loops in float64. Imports nothing of the package.

Every function sees one example: `score` maps an input (C, *spatial) to a number, `m` is
its map (*spatial), `inside` the set of the region's pixels as tuples of indices.
"""

import itertools
import math

import torch


def pixels(shape):
    """All pixels in the order in which they are read."""
    return list(itertools.product(*map(range, shape)))


def resize(m, size):
    """Linear interpolation, axis by axis, pixels being areas (align_corners=False)."""
    for axis, new in enumerate(size):
        old = m.shape[axis]
        parts = []
        for i in range(new):
            source = max(0.0, (i + 0.5) * old / new - 0.5)
            left = min(int(source), old - 1)
            right = min(left + 1, old - 1)
            share = source - left
            parts.append(
                (1 - share) * m.select(axis, left) + share * m.select(axis, right)
            )
        m = torch.stack(parts, axis)
    return m


def scaled(m):
    low, high = float(m.min()), float(m.max())
    if high == low:
        return torch.zeros_like(m)
    return (m - low) / (high - low)


def descending(m):
    """Pixels from the largest value on; sorted() keeps the order of equal ones."""
    return sorted(pixels(m.shape), key=lambda pixel: -float(m[pixel]))


def mixed(x, baseline, m):
    result = torch.empty_like(x)
    for channel in range(x.shape[0]):
        for p in pixels(m.shape):
            at = (channel, *p)
            result[at] = x[at] * m[p] + baseline[at] * (1 - m[p])
    return result


def explanation(x, baseline, m, top_fraction):
    m = resize(m, x.shape[1:])
    if top_fraction is None:
        return mixed(x, baseline, scaled(m))
    mask = torch.zeros_like(m)
    for p in descending(m)[: math.ceil(top_fraction * m.numel())]:
        mask[p] = 1
    return mixed(x, baseline, mask)


def average_drop(score, x, m, baseline, top_fraction=None):
    Y, O = score(x), score(explanation(x, baseline, m, top_fraction))  # noqa: E741
    return max(0.0, Y - O) / Y


def increase(score, x, m, baseline, top_fraction=None):
    return float(score(explanation(x, baseline, m, top_fraction)) > score(x))


def curve(score, x, m, baseline, n_steps, insertion):
    order = descending(m)
    values = []
    for t in range(n_steps + 1):
        picture = (baseline if insertion else x).clone()
        for p in order[: math.floor(t * len(order) / n_steps)]:
            for channel in range(x.shape[0]):
                picture[(channel, *p)] = (x if insertion else baseline)[(channel, *p)]
        values.append(score(picture))
    return values


def area(values):
    parts = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    return sum(parts) / len(parts)


def box_pixels(boxes, height, width):
    return {
        (row, column)
        for row, column in pixels((height, width))
        for x0, y0, x1, y1 in boxes
        if x0 <= column + 0.5 < x1 and y0 <= row + 0.5 < y1
    }


def _ratio(part, whole):
    return part / whole if whole else math.nan


def pixel_energy(m, inside):
    energy = {p: abs(float(m[p])) for p in pixels(m.shape)}
    return _ratio(sum(energy[p] for p in inside), sum(energy.values()))


def bbox_score(m, inside):
    return _ratio(len(inside & set(descending(m)[: len(inside)])), len(inside))


def box_overlap(m, inside, threshold):
    m = scaled(m)
    salient = {p for p in pixels(m.shape) if m[p] > threshold}
    both = len(inside & salient)
    return (
        _ratio(both, len(inside | salient)),
        _ratio(both, len(inside)),
        _ratio(both, len(salient)),
    )


def pointing_game(m, inside, tolerance):
    largest = descending(m)[0]
    return float(any(math.dist(largest, p) <= tolerance for p in inside))


def normalized(m, eps):
    low, high = float(m.min()), float(m.max())
    return (m - low) / (high - low + eps)


def imputed(x, removed, noise):
    """ROAD: each removed pixel the weighted mean of its neighbors, by dense algebra."""
    shape, order = x.shape[1:], sorted(removed)
    system = torch.zeros(len(order), len(order), dtype=torch.float64)
    known = torch.zeros(len(order), len(x), dtype=torch.float64)
    for row, p in enumerate(order):
        weights = {}
        for q in pixels(shape):
            steps = [abs(a - b) for a, b in zip(p, q, strict=True)]
            if q != p and max(steps) == 1:
                weights[q] = 1 / 6 if sum(steps) == 1 else 1 / 12
        system[row, row] = 1
        for q, weight in weights.items():
            share = weight / sum(weights.values())
            if q in removed:
                system[row, order.index(q)] = -share
            else:
                known[row] += share * x[(slice(None), *q)]
    result = x.clone()
    for p, values in zip(order, torch.linalg.solve(system, known), strict=True):
        result[(slice(None), *p)] = values + noise[(slice(None), *p)]
    return result


def road_curve(score, x, m, noise, n_steps, least_first):
    order = descending(-m if least_first else m)
    values = []
    for t in range(n_steps):
        removed = set(order[: math.floor(t * len(order) / n_steps)])
        values.append(score(imputed(x, removed, noise) if removed else x))
    return values


def shares(m):
    total = sum(abs(float(m[p])) for p in pixels(m.shape))
    return [abs(float(m[p])) / total for p in pixels(m.shape)]


def complexity(m):
    return -sum(share * math.log(share) for share in shares(m) if share)


def sparseness(m):
    """Chalasani et al.'s Gini index."""
    v, d = sorted(shares(m)), m.numel()
    return 1 - 2 * sum(v[k - 1] * (d - k + 0.5) / d for k in range(1, d + 1))
