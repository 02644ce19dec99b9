"""
What can be integrated along a path from baselines to inputs.

The methods along a path are integrands; one of your own derives from
:class:`Integrand`, and :class:`captum_cams.LayerPathIntegrals` takes it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from captum_cams._numerics import precise, unsqueezed
from captum_cams.layer_eval import LayerEvaluation
from captum_cams.quadrature import IntervalRule, fitted_weights, interval_weights

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Values at the start and the end of an interval, for each tensor of the layer."""


@dataclass(frozen=True)
class PathInterval:
    """
    Two neighboring points of the paths of n examples.

    Args:
        rule (str): How the values at both ends are weighted.
        first (LayerEvaluation): The layer at the baselines, alpha = 0.
        start_alpha (float): Where the interval starts.
        start (LayerEvaluation): The layer there.
        end_alpha (float): Where it ends.
        end (LayerEvaluation): The layer there.
    """

    rule: IntervalRule
    first: LayerEvaluation
    start_alpha: float
    start: LayerEvaluation
    end_alpha: float
    end: LayerEvaluation

    @cached_property
    def contributions(self) -> Pairs:
        r"""
        The growth of A times dy/dA at the start, and at the end, (n, K, \*spatial).

        Weighted and summed, they are a summand of eq. 18 of RSI-Grad-CAM.
        """
        return [
            (g0 * growth, g1 * growth) for growth, g0, g1 in self.growth_and_gradients()
        ]

    def growth_and_gradients(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        r"""The growth of A and dy/dA at both ends, (n, K, \*spatial) each."""
        for a0, a1, g0, g1 in zip(
            self.start.activations,
            self.end.activations,
            self.start.gradients,
            self.end.gradients,
            strict=True,
        ):
            yield (a1 - a0).to(precise(a1)), g0, g1

    @cached_property
    def weights(self) -> Pairs:
        """The rule's weights of start and end, (n, 1, 1, ...)."""
        outputs = self.start.outputs, self.end.outputs
        starts, ends = zip(*self.contributions, strict=True)
        pairs = []
        for at_start, at_end in zip(
            self.end.by_layer(starts), self.end.by_layer(ends), strict=True
        ):
            if self.rule == "logistic_trapezoid":
                w0, w1 = fitted_weights(
                    *outputs, _size_and_sum(at_start), _size_and_sum(at_end)
                )
            else:
                w0, w1 = interval_weights(self.rule, *outputs)
            pairs += [(unsqueezed(w0, unit), unsqueezed(w1, unit)) for unit in at_start]
        return pairs

    def weighted(self, values: Pairs) -> Pairs:
        """Values at start and end, times the rule's weights."""
        return [
            (w0 * v0, w1 * v1)
            for (w0, w1), (v0, v1) in zip(self.weights, values, strict=True)
        ]


def _size_and_sum(units: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """L1 norm and sum over all units of a layer, (n,) each."""
    flat = [unit.flatten(1) for unit in units]  # (n, units)
    sizes = [unit.abs().sum(1) for unit in flat]
    sums = [unit.sum(1) for unit in flat]
    return reduce(torch.add, sizes), reduce(torch.add, sums)


class FinishedIntegral(NamedTuple):
    """An integral over the paths of n examples: a sum for each tensor of the layer."""

    sums: Sequence[Tensor]
    first: LayerEvaluation  # at alpha = 0
    last: LayerEvaluation  # at alpha = 1


class Integrand(ABC):
    r"""
    What a method integrates along a path, by equal and by refined steps alike.

    Every method gives a list with an entry for each tensor of the layer, A of shape
    (n, K, \*spatial) for n examples. Sums are best in single precision at least.

    Examples::

        >>> import torch
        >>> from captum_cams import LayerPathIntegrals
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> class TotalVariation(Integrand):
        ...     "How far each unit of the layer moves on its way."
        ...     def initial_sums(self, first):
        ...         return [torch.zeros_like(a) for a in first.activations]
        ...     def values_at_ends(self, interval):
        ...         moved = [g.abs() for g, _, _ in interval.growth_and_gradients()]
        ...         return [(growth, growth) for growth in moved]
        ...     def signed_maps(self, sums, last):
        ...         return [units.sum(1, keepdim=True) for units in sums]
        ...     def maps(self, integral):
        ...         return self.signed_maps(integral.sums, integral.last)
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> cam = LayerPathIntegrals(model, model.block5, integrands=[TotalVariation()])
        >>> (maps,) = cam.attribute(pictures.images, target=pictures.labels)
        >>> maps.shape
        torch.Size([2, 1, 4, 4])
    """

    noise_share: float = 0.0
    """Share of what an interval's ends disagree by that is noise: with a tolerance no
    shorter interval is taken to lessen it."""
    counts_completeness: bool = False
    """Whether, with a tolerance, what the unit integrals miss of the output's growth
    counts as an error of the map."""

    @abstractmethod
    def initial_sums(self, first: LayerEvaluation) -> list[Tensor]:
        """The integral over no interval, such as zeros of the sums' shape."""

    @abstractmethod
    def values_at_ends(self, interval: PathInterval) -> Pairs:
        """What an interval adds by the values at its start, and by those at its end."""

    @abstractmethod
    def maps(self, integral: FinishedIntegral) -> list[Tensor]:
        """The maps that are returned."""

    @abstractmethod
    def signed_maps(
        self, sums: Sequence[Tensor], last: LayerEvaluation
    ) -> list[Tensor]:
        r"""The maps whose error a tolerance bounds, (n, 1, \*spatial) each."""

    def add(self, sums: Sequence[Tensor], interval: PathInterval) -> None:
        """
        Add an interval to an integral, in place.

        With the values of RSI-Grad-CAM this is a summand of its eq. 18.
        """
        for integral, (w0, w1), (v0, v1) in zip(
            sums, interval.weights, self.values_at_ends(interval), strict=True
        ):
            integral += torch.addcmul(w0 * v0, w1, v1)

    def compared_values(self, interval: PathInterval, values: Pairs) -> Pairs:
        """Values at both ends whose disagreement tells how rough the path is there."""
        return values

    def delta(self, integral: FinishedIntegral) -> list[Tensor]:
        """By how much completeness is missed, (n,), for each layer, if it applies."""
        return []


def completeness_error(
    units: Sequence[Tensor], start: LayerEvaluation, end: LayerEvaluation
) -> list[Tensor]:
    """For each layer, what its unit integrals exceed the output's growth by, (n,)."""
    growth = end.outputs - start.outputs  # (n,)
    return [
        torch.stack([unit.flatten(1).sum(1) for unit in layer]).sum(0) - growth
        for layer in end.by_layer(units)
    ]
