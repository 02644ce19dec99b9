"""
The papers' formulas as literal, slow loops in float64. Imports nothing of the package.

Every function explains one example. `features` maps an input (1, *shape) to feature
maps (1, K, h, w); `head` maps these to the target output, a scalar.
"""

import itertools
import math

import torch


def _activations_and_gradient(features, head, point):
    A = features(point.unsqueeze(0)).detach().requires_grad_()
    y = head(A)
    (gradient,) = torch.autograd.grad(y, A)
    return A.detach()[0], gradient[0], y.detach()


def _gamma(x, baseline, alpha):
    return baseline + alpha * (x - baseline)


def _units(maps):
    return itertools.product(*map(range, maps.shape))


def unit_integrals(features, head, x, baseline, m, method, positive_gradients=False):
    """RSI-Grad-CAM eq. 18 (right), its twin (left) and the mean of both."""
    A, g = [], []
    for step in range(m + 1):
        a, gradient, _ = _activations_and_gradient(
            features, head, _gamma(x, baseline, step / m)
        )
        A.append(a)
        g.append(gradient)
    integrals = torch.zeros_like(A[0])
    for unit in _units(integrals):
        integral = 0.0
        for step in range(1, m + 1):
            before, after = g[step - 1][unit], g[step][unit]
            if positive_gradients:
                before, after = max(before, 0), max(after, 0)
            slope = {
                "riemann_right": after,
                "riemann_left": before,
                "riemann_trapezoid": (before + after) / 2,
            }[method]
            integral += slope * (A[step][unit] - A[step - 1][unit])
        integrals[unit] = integral
    return integrals, A[0], A[-1]


def rsi_grad_cam(features, head, x, baseline, m, method, weighting="signed"):
    """RSI-Grad-CAM eq. 19, 20, section 4.1 and eq. 24."""
    integrals, start, end = unit_integrals(
        features, head, x, baseline, m, method, weighting == "positive_gradients"
    )
    K, *spatial = end.shape
    cam = torch.zeros(spatial, dtype=end.dtype)
    for k in range(K):
        total = 0.0
        for place in itertools.product(*map(range, spatial)):
            unit = (k, *place)
            integral = integrals[unit]
            if weighting == "positive":
                integral = max(integral, 0)
            if weighting == "selected":
                active = end[unit] > 0 and end[unit] - start[unit] > 0
                integral = integral if active and integral > 0 else 0
            total += integral
        weight = total / math.prod(spatial)
        for place in itertools.product(*map(range, spatial)):
            cam[place] += weight * end[(k, *place)]
    return cam.clamp(min=0)


def integrated_grad_cam(features, head, x, baseline, nodes, weights):
    """Integrated Grad-CAM eq. 4-5 by any quadrature rule; eq. 6 at t/m, weights 1/m."""
    start, _, _ = _activations_and_gradient(features, head, baseline)
    K, *spatial = start.shape
    cam = torch.zeros(spatial, dtype=start.dtype)
    for alpha, weight in zip(nodes, weights, strict=True):
        A, g, _ = _activations_and_gradient(features, head, _gamma(x, baseline, alpha))
        for place in itertools.product(*map(range, spatial)):
            value = 0.0
            for k in range(K):
                value += float(g[k].sum()) * (A[(k, *place)] - start[(k, *place)])
            cam[place] += weight * max(value, 0)
    return cam


def gaussian_blur(x, kernel_size, sigma):
    """Blur of (C, H, W) over both spatial axes with reflected borders."""
    reach = kernel_size // 2
    taps = [math.exp(-0.5 * (d / sigma) ** 2) for d in range(-reach, reach + 1)]
    taps = [tap / sum(taps) for tap in taps]
    _, H, W = x.shape

    def reflect(i, side):
        i = abs(i)
        return i if i < side else 2 * (side - 1) - i

    rows = torch.zeros_like(x)
    for i in range(H):
        for d, tap in zip(range(-reach, reach + 1), taps, strict=True):
            rows[:, i] += tap * x[:, reflect(i + d, H)]
    blurred = torch.zeros_like(x)
    for j in range(W):
        for d, tap in zip(range(-reach, reach + 1), taps, strict=True):
            blurred[:, :, j] += tap * rows[:, :, reflect(j + d, W)]
    return blurred


def percentile(values, q):
    """Linear interpolation between the closest ranks."""
    values = sorted(values)
    rank = q / 100 * (len(values) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(values) - 1)
    return values[low] + (rank - low) * (values[high] - values[low])


def upsample(mask, size):
    """Bilinear, pixel centers at halves, edges repeated (align_corners=False)."""
    result = torch.zeros(size, dtype=mask.dtype)

    def sources(i, small, large):
        position = max((i + 0.5) * small / large - 0.5, 0)
        low = min(math.floor(position), small - 1)
        return low, min(low + 1, small - 1), position - low

    for i, j in itertools.product(*map(range, size)):
        top, bottom, v = sources(i, mask.shape[0], size[0])
        left, right, u = sources(j, mask.shape[1], size[1])
        upper = (1 - u) * mask[top, left] + u * mask[top, right]
        lower = (1 - u) * mask[bottom, left] + u * mask[bottom, right]
        result[i, j] = (1 - v) * upper + v * lower
    return result


def group_cam(
    features,
    head,
    x,
    baseline,
    groups,
    theta,
    use_gradients=True,
    confidence=None,
):
    """Group-CAM Algorithm 1, eq. 1-7; groups are lists of channels."""
    confidence = confidence or head
    A, g, _ = _activations_and_gradient(features, head, x)

    def score(picture):
        return confidence(features(picture.unsqueeze(0))).item()

    cam = torch.zeros(x.shape[1:], dtype=x.dtype)
    for channels in groups:
        mask = torch.zeros_like(A[0])
        for k in channels:
            weight = g[k].sum() / g[k].numel() if use_gradients else 1.0
            mask += weight * A[k]
        mask = mask.clamp(min=0)
        if use_gradients and theta is not None:
            threshold = percentile(mask.flatten().tolist(), theta)
            for place in _units(mask):
                if not mask[place] > threshold:
                    mask[place] = 0
        low, high = mask.min(), mask.max()
        if low == high:
            continue
        mask = upsample((mask - low) / (high - low), tuple(x.shape[1:]))
        blend = x * mask + baseline * (1 - mask)
        cam += (score(blend) - score(baseline)) * mask
    return cam.clamp(min=0)
