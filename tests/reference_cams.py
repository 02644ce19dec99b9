"""
The other papers' formulas as literal, slow loops. Imports nothing of the package.

As in `reference`, every function explains one example; `features` maps an input
(1, *shape) to feature maps (1, K, h, w), `head` maps these to the target output.
"""

import itertools
import math

import torch

from tests.reference import _activations_and_gradient, upsample


def _places(spatial):
    return itertools.product(*map(range, spatial))


def _quotient(numerator, denominator):
    return 0.0 if denominator == 0 else numerator / denominator


def _sum_of_maps(weights, A):
    """ReLU of sum_k w_k A^k, with a weight for each channel."""
    cam = torch.zeros(A.shape[1:], dtype=A.dtype)
    for k in range(len(A)):
        for place in _places(A.shape[1:]):
            cam[place] += weights[k] * A[(k, *place)]
    return cam.clamp(min=0)


def positive_grad_cam(features, head, x):
    """RSI-Grad-CAM eq. 2."""
    A, g, _ = _activations_and_gradient(features, head, x)
    Z = math.prod(A.shape[1:])
    weights = [
        sum(max(float(g[(k, *p)]), 0) for p in _places(A.shape[1:])) / Z
        for k in range(len(A))
    ]
    return _sum_of_maps(weights, A)


def grad_cam_plus_plus(features, head, x):
    """Closed form of alpha with the exponential assumption, exp(S) left out."""
    A, g, _ = _activations_and_gradient(features, head, x)
    weights = []
    for k in range(len(A)):
        activation = sum(float(A[(k, *p)]) for p in _places(A.shape[1:]))
        weight = 0.0
        for place in _places(A.shape[1:]):
            slope = float(g[(k, *place)])
            alpha = _quotient(slope**2, 2 * slope**2 + activation * slope**3)
            weight += alpha * max(slope, 0)
        weights.append(weight)
    return _sum_of_maps(weights, A)


def smooth_grad_cam_plus_plus(features, head, x, noises):
    """Smooth Grad-CAM++: Grad-CAM++ of mean powers of gradients at noisy inputs."""
    A = features(x.unsqueeze(0)).detach()[0]
    D = [torch.zeros_like(A) for _ in range(3)]
    for noise in noises:
        noisy = features((x + noise).unsqueeze(0)).detach().requires_grad_()
        (g,) = torch.autograd.grad(head(noisy), noisy)
        for power in range(3):
            for unit in itertools.product(*map(range, A.shape)):
                D[power][unit] += g[0][unit] ** (power + 1) / len(noises)
    weights = []
    for k in range(len(A)):
        weight = 0.0
        for place in _places(A.shape[1:]):
            first, second, third = (d[(k, *place)] for d in D)
            alpha = _quotient(second, 2 * second + A[k].sum() * third)
            weight += alpha * max(first, 0)
        weights.append(weight)
    return _sum_of_maps(weights, A)


def x_grad_cam(features, head, x):
    A, g, _ = _activations_and_gradient(features, head, x)
    weights = []
    for k in range(len(A)):
        activation = sum(float(A[(k, *p)]) for p in _places(A.shape[1:]))
        weight = 0.0
        for place in _places(A.shape[1:]):
            share = _quotient(float(A[(k, *place)]), activation)
            weight += share * float(g[(k, *place)])
        weights.append(weight)
    return _sum_of_maps(weights, A)


def layer_cam(features, head, x, positive=True):
    """With positive=False this is HiResCAM."""
    A, g, _ = _activations_and_gradient(features, head, x)
    cam = torch.zeros(A.shape[1:], dtype=A.dtype)
    for place in _places(A.shape[1:]):
        for k in range(len(A)):
            slope = float(g[(k, *place)])
            cam[place] += (max(slope, 0) if positive else slope) * A[(k, *place)]
    return cam.clamp(min=0)


def hi_res_cam(features, head, x):
    return layer_cam(features, head, x, positive=False)


def _first_component(channels):
    """V_1 of channels (K, h, w), from the powers of their products with each other."""
    K = len(channels)
    products = torch.zeros(K, K, dtype=channels.dtype)
    for k, other in itertools.product(range(K), repeat=2):
        for place in _places(channels.shape[1:]):
            products[k, other] += channels[(k, *place)] * channels[(other, *place)]
    for _ in range(60):  # the power 2^60, in which the largest one alone is left
        products = products @ products
        products = products / products.norm()
    first = max(products, key=lambda row: float(row.norm()))
    first = first / first.norm()
    return -first if first.sum() < 0 else first


def eigen_cam(features, head, x):
    A = features(x.unsqueeze(0)).detach()[0]
    return _sum_of_maps(_first_component(A), A)


def eigen_grad_cam(features, head, x):
    A, g, _ = _activations_and_gradient(features, head, x)
    return _sum_of_maps(_first_component(A * g), A * g)


def finer_cam(features, scores, x, target, gamma, n_references):
    """`scores` maps features to all classes' scores, (1, C)."""
    y = scores(features(x.unsqueeze(0)))[0].tolist()
    others = [c for c in range(len(y)) if c != target]
    others = sorted(others, key=lambda c: abs(y[c] - y[target]))[:n_references]

    def difference(A):
        y = scores(A)[0]
        total = sum(math.e ** y[d] for d in others)
        return y[target] - gamma * sum(math.e ** y[d] / total * y[d] for d in others)

    A, g, _ = _activations_and_gradient(features, difference, x)
    Z = math.prod(A.shape[1:])
    weights = [
        sum(float(g[(k, *p)]) for p in _places(A.shape[1:])) / Z for k in range(len(A))
    ]
    return _sum_of_maps(weights, A)


def ablation_cam(features, head, x):
    A = features(x.unsqueeze(0)).detach()
    y = head(A).item()
    weights = []
    for k in range(A.shape[1]):
        ablated = A.clone()
        ablated[0, k] = 0
        weights.append((y - head(ablated).item()) / y)
    return _sum_of_maps(weights, A[0])


def score_cam(features, head, x, baseline, channels=None):
    A = features(x.unsqueeze(0)).detach()[0]
    A = A if channels is None else A[channels]
    size = tuple(x.shape[1:])

    def score(picture):
        return head(features(picture.unsqueeze(0))).item()

    increases = []
    for k in range(len(A)):
        mask = upsample(A[k], size)
        low, high = mask.min(), mask.max()
        mask = torch.zeros_like(mask) if low == high else (mask - low) / (high - low)
        blend = x * mask + baseline * (1 - mask)
        increases.append(score(blend) - score(baseline))
    total = sum(math.exp(increase) for increase in increases)
    weights = [math.exp(increase) / total for increase in increases]
    return upsample(_sum_of_maps(weights, A), size)


def rise(score, x, baseline, grids, shifts, p):
    """Eq. 6; grids of 0 and 1, and where their enlargements are cut, in cells."""
    H, W = x.shape[1:]
    cam = torch.zeros(H, W, dtype=x.dtype)
    for grid, (down, right) in zip(grids, shifts, strict=True):
        h, w = grid.shape
        cell_h, cell_w = math.ceil(H / h), math.ceil(W / w)
        large = upsample(grid.to(x), ((h + 1) * cell_h, (w + 1) * cell_w))
        top, left = math.floor(down * (cell_h + 1)), math.floor(right * (cell_w + 1))
        mask = torch.zeros(H, W, dtype=x.dtype)
        for i, j in _places((H, W)):
            mask[i, j] = large[top + i, left + j]
        y = score(x * mask + baseline * (1 - mask))
        for place in _places((H, W)):
            cam[place] += y * mask[place]
    return cam / (p * len(grids))


def smooth_grad(score, x, noises, noise_level):
    """Magnitudes of the mean gradient, summed over the channels."""
    sigma = noise_level * (x.max() - x.min())
    mean = torch.zeros_like(x)
    for noise in noises:
        noisy = (x + sigma * noise).unsqueeze(0).requires_grad_()
        mean += torch.autograd.grad(score(noisy), noisy)[0][0] / len(noises)
    cam = torch.zeros(x.shape[1:], dtype=x.dtype)
    for place in _places(x.shape[1:]):
        cam[place] = sum(abs(float(mean[(c, *place)])) for c in range(len(x)))
    return cam


def rise_error(score, x, grids, shifts, p):
    """The standard error of the mean as a share of its range."""
    maps = [
        rise(score, x, torch.zeros_like(x), grids[i : i + 1], shifts[i : i + 1], p)
        for i in range(len(grids))
    ]
    variances = []
    for place in _places(x.shape[1:]):
        values = [float(cam[place]) for cam in maps]
        mean = sum(values) / len(values)
        spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        variances.append(spread / len(values))
    cam = sum(maps) / len(maps)
    error = math.sqrt(sum(variances) / len(variances))
    return error / float(cam.max() - cam.min())


def xrai(regions, a, full):
    """Algorithm 1, as the share of pixels not in M when each is added."""
    cam = torch.full_like(a, torch.nan)
    covered, left = set(), [set(region) for region in regions]

    def gain(region):
        new = region - covered if full else region
        return sum(float(a[p]) for p in new) / len(new) if new else -math.inf

    while len(covered) < a.numel():
        best = max(left, key=gain)
        for place in best - covered:
            cam[place] = 1 - len(covered) / a.numel()
        covered |= best
        left.remove(best)
    return cam
