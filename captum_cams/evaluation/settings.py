"""The settings of a run, and the arguments that they are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch.nn import Module

from captum_cams._validation import (
    check_choice,
    check_count,
    check_numbers,
    check_words,
    kind_of,
)
from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.papers import FINE_TUNING, PRESETS

TARGETS = ("label", "predicted")
"""The classes that pictures can be explained for."""


@dataclass(frozen=True)
class Settings:
    """What :func:`evaluate` was asked for, as ``run.json`` holds it, in its order."""

    preset: str | None
    dataset: str
    root: str | None
    split: str | None
    labels: str | None
    limit: int | None
    resize: str
    model: str | None
    """Its name; None is the network of the examples."""
    weights: str | None
    classes: str | None
    explain: str
    target: str
    protocol: str
    methods: Sequence[str] | None
    metrics: Sequence[str] | None
    batch_size: int
    sanity_pictures: int
    seed: int


def check_file(name: str, value: object) -> None:
    """The path of a file or a folder."""
    if not isinstance(value, (str, PathLike)):
        raise TypeError(f"{name} must be a path, got {kind_of(value)}")


def made_folder(out: str | Path) -> Path:
    """The folder of the results."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from error
    return folder


def resolved(name: str, path: str | Path | None) -> str | None:
    """An absolute path."""
    if path is None:
        return None
    check_file(name, path)
    return str(Path(path).resolve())


def optional_words(name: str, words: Sequence[str] | None) -> list[str] | None:
    """Words in a list, or None."""
    return None if words is None else check_words(name, words)


def optional_count(name: str, count: int | None) -> int | None:
    """An integer of at least 1, or None."""
    return None if count is None else check_count(name, count)


def check_model_or_name(model: object) -> None:
    """A module, or a word that leads to one."""
    if model is not None and not isinstance(model, (str, Module)):
        raise TypeError(
            "model must be a classifier of torchvision by its name, "
            f"'module:callable', or a torch.nn.Module, got {kind_of(model)}"
        )


def check_colors(name: str, values: object) -> None:
    """A number for each of three colors, or None; `std` above 0."""
    if values is None:
        return
    numbers = check_numbers(name, values)
    if numbers.shape != (3,):
        raise ValueError(
            f"{name} must hold a number for each of 3 colors, got {numbers.tolist()}"
        )
    if not numbers.isfinite().all():
        raise ValueError(f"{name} must be finite, got {numbers.tolist()}")
    if name == "std" and not (numbers > 0).all():
        raise ValueError(f"{name} must be above 0, got {numbers.tolist()}")


_DEFAULTS: dict[str, Any] = {
    "dataset": "shapes",
    "protocol": "all",
    "explain": "probabilities",
    "target": "label",
}
"""Of :func:`evaluate`, where neither an argument nor a preset says it."""


def with_preset(preset: str | None, given: Mapping[str, Any]) -> list[Any]:
    """
    Arguments in their order, those that are None as the preset or the default has them.

    What a preset has of its own network or data set does not go with another.
    """
    settings: dict[str, Any] = {}
    if preset == FINE_TUNING:
        raise UserError(
            f"preset {FINE_TUNING} trains a network and evaluates none; run "
            "`captum-cams fine-tune`, or call captum_cams.evaluation.fine_tune"
        )
    if preset is not None:
        check_choice("preset", preset, PRESETS)
        settings = dict(PRESETS[preset].settings)
    if given["model"] is not None:
        settings |= {"weights": None, "layers": None}
    if given["dataset"] not in (None, settings.get("dataset")):
        settings |= {"split": None, "limit": None}
    filled = _DEFAULTS | settings
    return [filled.get(key) if value is None else value for key, value in given.items()]
