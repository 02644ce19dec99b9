"""Layers along paths: at equal steps, or where a tolerance asks for points."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from captum_cams.layer_eval import LayerEvaluation, LayerEvaluator
from captum_cams.path import Path
from captum_cams.refine import EstimateInterval, refine


class PathSum(Protocol):
    """What is summed up over the points of a path, in ascending order."""

    def add(self, alpha: float, point: LayerEvaluation) -> None:
        """The next point, evaluated for all examples of the sum."""


S = TypeVar("S", bound=PathSum)


@dataclass(frozen=True)
class LayerPath:
    """
    Layers along the paths from baselines to inputs.

    Args:
        evaluator (LayerEvaluator): The layers.
        path (Callable): As in :mod:`captum_cams.path`.
        inputs (tuple of Tensor): The N ends.
        baselines (tuple of Tensor): The N starts.
        batch_size (int): Points that go through the network together.
        show_progress (bool): Whether a bar counts the points.
    """

    evaluator: LayerEvaluator
    path: Path
    inputs: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...]
    batch_size: int
    show_progress: bool = False

    def __call__(self, alphas: Tensor, examples: Tensor) -> LayerEvaluation:
        """The layers at the points alpha, (B,), of the examples' paths, (B,)."""
        points = tuple(
            self.path(
                _gather_examples(end, examples),
                _gather_examples(start, examples),
                alphas.to(end),
            )
            for end, start in zip(self.inputs, self.baselines, strict=True)
        )
        return self.evaluator(points, examples)

    def equal_steps(
        self, alphas: Sequence[float], new_sum: Callable[[], S]
    ) -> Iterator[tuple[list[int], Sequence[float], S]]:
        """
        Sums over the same points of all paths, a few examples at a time.

        Yields the examples, the points' alphas and the sum.

        Points are evaluated once each, as many together as the batch allows. Only one
        batch is held, so that memory grows neither with the number of points nor with
        the number of examples.
        """
        num_examples = len(self.inputs[0])
        together = _examples_together(num_examples, len(alphas), self.batch_size)
        with tqdm(
            total=num_examples * len(alphas),
            disable=not self.show_progress,
            unit="point",
        ) as bar:
            for examples in torch.split(torch.arange(num_examples), together):
                total, n = new_sum(), len(examples)
                steps = max(1, self.batch_size // n)
                for start in range(0, len(alphas), steps):
                    here = alphas[start : start + steps]
                    # (p * n,), the rows of a point together
                    alpha_of_row = torch.tensor(here, dtype=torch.float64)
                    evaluation = self(
                        alpha_of_row.repeat_interleave(n), examples.repeat(len(here))
                    )
                    for i, alpha in enumerate(here):
                        # The path's first point, and the last of a batch, outlive
                        # their batch: copies let go of it.
                        kept = start + i == 0 or i == len(here) - 1
                        rows = slice(i * n, (i + 1) * n)
                        total.add(alpha, evaluation.rows(rows, copy=kept))
                        bar.update(n)
                    del evaluation
                yield examples.tolist(), alphas, total

    def refined(
        self,
        estimate: EstimateInterval,
        tolerance: float,
        n_steps: int,
        new_sum: Callable[[], S],
    ) -> Iterator[tuple[list[int], Sequence[float], S]]:
        """
        Sums over the points that a tolerance asks for, an example at a time.

        Yields as :meth:`equal_steps` does, in the order in which paths are finished.
        The points of those under way, as many as fill a batch, are held.
        """

        def evaluate(alphas: Tensor, examples: Tensor) -> list[LayerEvaluation]:
            evaluation = self(alphas, examples)
            # A point of one example must not keep those of others alive.
            several = bool((examples != examples[0]).any())
            return [
                evaluation.rows(slice(i, i + 1), copy=several)
                for i in range(len(examples))
            ]

        # No shorter than what the inputs' dtype can tell apart.
        shortest = max(2**-20, *(torch.finfo(end.dtype).eps for end in self.inputs))
        for refined in refine(
            evaluate,
            estimate,
            len(self.inputs[0]),
            tolerance=tolerance,
            n_steps=n_steps,
            batch_size=self.batch_size,
            shortest=shortest,
            show_progress=self.show_progress,
        ):
            total, alphas = new_sum(), refined.alphas
            for alpha in alphas:
                total.add(alpha, refined.points.pop(alpha))
            yield [refined.example], alphas, total
            del total  # not to be held while the next path is evaluated


def _gather_examples(tensor: Tensor, examples: Tensor) -> Tensor:
    """The rows of some examples; those of one alone take no memory."""
    first = int(examples[0])
    if (examples == first).all():
        return tensor[first].expand(len(examples), *tensor.shape[1:])
    return tensor[examples]


def _examples_together(num_examples: int, points: int, batch_size: int) -> int:
    """The number of examples whose paths take the fewest batches together."""

    def batches(together: int) -> int:
        return -(-num_examples // together) * -(-points // (batch_size // together))

    return min(range(1, min(num_examples, batch_size) + 1), key=batches)
