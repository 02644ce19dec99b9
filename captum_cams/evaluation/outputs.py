"""What a network gives, and what that means."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_cams.evaluation.errors import MisreadError


def softmax(scores: Tensor) -> Tensor:
    """Probabilities of class scores, (N, classes)."""
    return scores.softmax(1)


def unchanged(scores: Tensor) -> Tensor:
    """What the model gives."""
    return scores


# For what is to be explained and what the model gives: what makes the explained outputs
# of the model's, and what makes the measured ones. Other pairs do not fit.
OUTPUTS: dict[tuple[str, str], tuple[Callable[[Tensor], Tensor], ...]] = {
    ("probabilities", "scores"): (softmax, softmax),
    ("probabilities", "shares"): (unchanged, unchanged),
    ("sigmoid", "scores"): (torch.sigmoid, torch.sigmoid),
    ("sigmoid", "sigmoid"): (unchanged, unchanged),
    ("logits", "scores"): (unchanged, softmax),
    # The module that turned them into probabilities is taken out of the model.
    ("logits", "shares"): (unchanged, softmax),
    ("logits", "sigmoid"): (unchanged, torch.sigmoid),
    ("model", "scores"): (unchanged, unchanged),
    ("model", "shares"): (unchanged, unchanged),
    ("model", "sigmoid"): (unchanged, unchanged),
}
MISFITS = {
    ("probabilities", "sigmoid"): "--explain probabilities needs class scores, or "
    "probabilities that add up to 1, but {}'s outputs lie in [0, 1] without adding up "
    "to 1, as those of a sigmoid; choose --explain sigmoid or --explain model, which "
    "take them as they are",
    ("sigmoid", "shares"): "--explain sigmoid needs scores of classes that do not "
    "exclude each other, but {}'s outputs are probabilities that add up to 1; choose "
    "--explain probabilities or --explain model, which take them as they are",
}
NO_LOGITS = (
    "--explain logits needs class scores, but {}'s outputs are probabilities already, "
    "and it has no module {} at its end that can be taken out; choose --explain {}, or "
    "give the model without its last step"
)
ENDS: dict[str, tuple[type[Module], Callable[[Tensor], Tensor]]] = {
    "shares": (torch.nn.Softmax, softmax),
    "sigmoid": (torch.nn.Sigmoid, torch.sigmoid),
}


_ROUNDED = 1e-2
"""How far from 1 probabilities may add up to that were computed in half precision:
bfloat16, the coarser kind, keeps 8 bits, and exp, sum and quotient each round."""
_EXACT = 1e-5  # the same in single precision


def are_shares(outputs: Tensor) -> bool:
    """Whether rows of outputs, (N, classes), are probabilities that add up to 1."""
    values = outputs.detach().float()
    tolerance = torch.where(_are_rounded(values), _ROUNDED, _EXACT)  # (N,)
    return bool(((values >= 0).all(1) & (_off_1(values) <= tolerance)).all())


def agree(outputs: Tensor, wanted: Tensor) -> bool:
    """Whether outputs, (N, classes), are equal but for the precision of `wanted`."""
    values, wanted = outputs.float(), wanted.float()
    relative = _ROUNDED if _are_rounded(wanted).all() else _EXACT
    return torch.allclose(values, wanted, relative, equal_nan=True)


def _are_rounded(values: Tensor) -> Tensor:
    """Which rows hold only what half precision can, as if computed in it, (N,)."""
    kinds = (torch.half, torch.bfloat16)
    return torch.stack([(values == values.to(k).float()).all(1) for k in kinds]).any(0)


def _off_1(values: Tensor) -> Tensor:
    """How far from 1 each row adds up to, (N,)."""
    return (values.sum(1) - 1).abs()


def check_given(name: str, outputs: Tensor, given: str) -> None:
    """
    Whether a model still gives what it gave for noise, NaN and infinity aside.

    Args:
        name (str): Of the model, for the message.
        outputs (Tensor): For some pictures, (N, classes).
        given (str): ``shares`` or ``sigmoid``.

    Raises:
        MisreadError: With the first row that is something else.
    """
    values = outputs.detach().float()
    if given == "shares":
        fits = (values >= 0).all(1) & (_off_1(values) <= _ROUNDED)
        before = "are probabilities that add up to 1"
    else:
        fits = ((values >= 0) & (values <= 1)).all(1)
        before = "lie in [0, 1], as those of a sigmoid"
    others = values[~fits & values.isfinite().all(1)]  # (n, classes)
    if len(others):
        low, high, total = others[0].amin(), others[0].amax(), others[0].sum()
        raise MisreadError(
            f"{name}'s outputs for noise {before}, but for a picture they lie in "
            f"[{low:.4g}, {high:.4g}] and add up to {total:.4g}; choose --explain "
            "model, which takes them as they are, or give the model without its last "
            "step"
        )


def what_is_given(outputs: Sequence[Tensor]) -> str:
    """What a model gives, by its outputs at several inputs, (1, classes) each."""
    finite = [rows for rows in outputs if rows.isfinite().all()]
    inside = all(((rows >= 0) & (rows <= 1)).all() for rows in finite)
    # Weights of 0 give scores of 0 alone, and no sigmoid does.
    if not inside or not any(rows.any() for rows in finite):
        return "scores"
    many = finite[0].shape[1] > 1
    return "shares" if many and all(map(are_shares, finite)) else "sigmoid"


def class_scores(outputs: Any) -> Tensor | None:
    """
    The tensor that must be the class scores.

    It is the output itself; its part named logits or out; or of a tuple without such
    names the only tensor with two axes.
    """
    if isinstance(outputs, Tensor):
        return outputs
    fields = _fields(outputs)
    for name in ("logits", "out"):
        scores = fields.get(name, getattr(outputs, name, None))
        if isinstance(scores, Tensor):
            return scores
    rows: list[Tensor] = [part for part in fields.values() if _is_row(part)]
    return rows[0] if isinstance(outputs, (tuple, list)) and len(rows) == 1 else None


def _is_row(part: object) -> bool:
    return isinstance(part, Tensor) and part.is_floating_point() and part.dim() == 2


def _fields(outputs: Any) -> dict[str, Any]:
    """The parts of an output by their names, or by their numbers in a tuple."""
    if isinstance(outputs, Mapping):
        return {str(name): part for name, part in outputs.items()}
    if isinstance(outputs, (tuple, list)):
        names = getattr(outputs, "_fields", range(len(outputs)))
        return dict(zip(map(str, names), outputs, strict=True))
    return dict(getattr(outputs, "__dict__", {}))  # a dataclass or the like


def describe_output(outputs: Any) -> str:
    """The shape of a tensor, or the parts of anything else with theirs."""
    if isinstance(outputs, Tensor):
        return str(tuple(outputs.shape))
    parts = [
        f"{name} {tuple(part.shape)}"
        if isinstance(part, Tensor)
        else f"{name} ({type(part).__name__})"
        for name, part in _fields(outputs).items()
    ]
    return type(outputs).__name__ + (f" with {', '.join(parts)}" if parts else "")
