"""Files of weights: what is in them, and how it becomes a model's."""

import argparse
import importlib
import itertools
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.parameter import is_lazy

from captum_cams.evaluation.errors import UserError, brief_error

StateDict = Mapping[str, Tensor]

USUAL_KEYS = (
    "state_dict", "model", "model_state_dict", "model_state", "net", "network",
    "weights", "params", "model_ema", "ema",
)  # fmt: skip
"""Where checkpoints keep their state dict: of several that fit the first is taken."""

_SAVE = "torch.save(model.state_dict(), FILE)"
_HEAD = 4096  # bytes that tell what a file is
_FOREIGN = {
    b"version https://git-lfs": "is a pointer of Git LFS; `git lfs pull` brings the "
    "file itself",
    b"<!doctype html": "is a web page, as of a download that failed",
    b"<html": "is a web page, as of a download that failed",
    b"\x93numpy": "is an array of NumPy",
    b"\x89hdf": "is an HDF5 file, as Keras writes",
}
"""What other files begin with, in lower case, and what they are."""
_WRAPPERS = ("module", "_orig_mod")  # of DataParallel and the like, and torch.compile


def read_state_dicts(path: str) -> dict[str, StateDict]:
    """
    The state dicts in a file, by the keys under which it holds them.

    The key of a file that is a state dict itself is ``""``. Files are those of
    `torch.save`, of which nothing but tensors and plain values is unpickled, and of
    safetensors.

    Raises:
        UserError: If there is none.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {error.strerror}") from error
    if foreign := _foreign(path, head):
        raise UserError(
            f"weights {path} must be a file of {_SAVE} or of safetensors, but it "
            f"{foreign}"
        )
    content = _safetensors(path) if _is_safetensors(path, head) else _unpickled(path)
    if _is_state_dict(content):
        return {"": content}
    parts = content if isinstance(content, Mapping) else {}
    found = {str(key): part for key, part in parts.items() if _is_state_dict(part)}
    if not found:
        came = type(content).__name__
        if parts:
            keys = ", ".join(map(str, list(parts)[:4]))
            came = f"a {came} of {keys}{', ...' if len(parts) > 4 else ''}"
        raise UserError(
            f"weights {path} must hold a state dict, alone or under a key such as "
            f"state_dict, got {came}; write one with {_SAVE}"
        )
    return found


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) for key in content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def _foreign(path: str, head: bytes) -> str | None:
    """What a file is that holds no weights, where its content tells."""
    if not head:
        return "is empty"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, kind in _FOREIGN.items():
        if start.startswith(beginning):
            return kind
    if head.startswith(b"PK"):
        return _foreign_archive(path)
    # The first field of ONNX is a version, the next one names the writer.
    if Path(path).suffix == ".onnx" or re.match(rb"(?s)\x08.\x12.(pytorch|onnx)", head):
        return "is a model of ONNX, whose layers are not those of a torch.nn.Module"
    text = head.decode("utf-8", "ignore")
    if len(text.encode()) > len(head) - 4 and re.fullmatch(
        r"[^\x00-\x08\x0e-\x1f]+", text
    ):
        return "is a text file"
    return None


def _foreign_archive(path: str) -> str | None:
    """As `_foreign`, of zip archives, which files of `torch.save` are, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).name for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return "is cut short or broken; copy or download it again"
    if "constants.pkl" in names:
        return (
            "is a TorchScript model, whose layers cannot be hooked; give the state "
            "dict of the module that it was made of"
        )
    if any(name.endswith(".npy") for name in names):
        return "is a .npz archive of NumPy"
    return None if "data.pkl" in names else "is a zip archive of other files"


def _is_safetensors(path: str, head: bytes) -> bool:
    """It begins with the length of a header in JSON."""
    length = int.from_bytes(head[:8], "little")
    begins = head[8:9] == b"{" and length < Path(path).stat().st_size
    return begins or Path(path).suffix == ".safetensors"


def _safetensors(path: str) -> Any:
    try:
        return importlib.import_module("safetensors.torch").load_file(path)
    except ImportError as error:
        raise UserError(
            f"weights {path} need safetensors; pip install 'captum-cams[safetensors]' "
            "brings it"
        ) from error
    except Exception as error:  # of a library of its own
        raise UserError(
            f"cannot read weights {path}: cut short, or no file of safetensors "
            f"({brief_error(error)})"
        ) from error


def _unpickled(path: str) -> Any:
    try:
        # Training scripts keep their options in it, which are plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises all kinds
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"weights {path} must hold tensors and plain values, got a pickled "
                f"{found[1]}, which could run code when it is read; where you trust "
                f"the file, load it and write the weights alone with {_SAVE}"
            ) from error
        raise UserError(
            f"cannot read weights {path}: not a state dict saved by torch.save, or cut "
            "short"
        ) from error


class _Fit(NamedTuple):
    """A state dict under a model's own names, and what it differs in."""

    key: str
    prefix: str
    """What was taken away from its names."""
    state: StateDict
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    """Names of tensors that the model has in another shape."""


def load_weights(
    model: Module, states: Mapping[str, StateDict], path: str, name: str
) -> None:
    """
    Loads the state dict that fits a model.

    Names may differ by a prefix that all of them have, such as ``model.``, and by the
    ``module.`` and ``_orig_mod.`` that wrappers add anywhere. Of several state dicts
    that fit the first of :data:`USUAL_KEYS` is taken.

    Args:
        model (Module): Whose weights become those of the file.
        states (Mapping): As of :func:`read_state_dicts`.
        path (str): Of the file, for messages.
        name (str): Of the model, for messages.

    Raises:
        UserError: If none fits, or several do and none of them has a usual key.
    """
    usual = [key for key in USUAL_KEYS if key in states]
    fitting, misfits = [], []
    for key in [*usual, *(key for key in states if key not in usual)]:
        fit = _fit(model, key, states[key])
        try:
            model.load_state_dict(fit.state)  # casts to the model's dtype
        except Exception as error:  # a module's own code for its older versions
            misfits.append((fit, error))
            continue
        if key in USUAL_KEYS or len(states) == 1:
            return
        fitting.append(fit)
    if len(fitting) > 1:
        keys = " and ".join(repr(fit.key) for fit in fitting)
        raise UserError(
            f"weights {path} hold several state dicts that fit {name}, under {keys}; "
            f"write the one that you mean with {_SAVE}"
        )
    if not fitting:
        closest, reason = min(misfits, key=lambda pair: _differences(pair[0]))
        raise UserError(
            f"weights {path} do not fit {name}: "
            f"{_misfit(model, closest) or brief_error(reason)}"
        ) from reason
    model.load_state_dict(fitting[0].state)  # others were tried after it


def _fit(model: Module, key: str, found: StateDict) -> _Fit:
    own = model.state_dict()
    names = {_unwrapped(name): name for name in own}
    files = {_unwrapped(name): name for name in found}
    files.pop("n_averaged", None)  # beside the weights of torch's AveragedModel
    prefix = _prefix(files, names)
    state: OrderedDict[str, Tensor] = OrderedDict()
    taken = ""
    for unwrapped, name in files.items():
        bare = unwrapped.removeprefix(prefix)
        if not unwrapped.startswith(prefix):
            bare = f"{name} (without the prefix)" if name in names else name
        elif name.endswith(bare):
            taken = name.removesuffix(bare)
        state[names.get(bare, bare)] = found[name]
    _keep_versions(model, state, found, prefix)
    return _Fit(
        key,
        taken,
        state,
        missing=[name for name in own if name not in state],
        unexpected=[name for name in state if name not in own],
        reshaped=[n for n in own if n in state and own[n].shape != state[n].shape],
    )


def _unwrapped(name: str) -> str:
    """A name without those of wrappers, and as torchvision's DenseNet has it today."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return re.sub(
        r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\b", r"\1\2", ".".join(parts)
    )


def _prefix(names: Iterable[str], own: Mapping[str, str]) -> str:
    """What most often stands before a name of the model's own, up to a dot."""
    counts: Counter[str] = Counter()
    for name in names:
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        counts.update(name[:start] for start in starts if name[start:] in own)
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")


def _keep_versions(model: Module, state: Any, found: StateDict, prefix: str) -> None:
    """Hands on the versions of modules, by which these read older files."""
    paths = {_unwrapped(path): path for path, _ in model.named_modules()}
    versions = {}
    for path, of in (getattr(found, "_metadata", None) or {}).items():
        bare = f"{_unwrapped(path)}.".removeprefix(prefix).removesuffix(".")
        versions[paths.get(bare, bare)] = of
    # MNASNet refuses what has no version.
    versions.setdefault("", {"version": model._version})
    state._metadata = versions


def _differences(fit: _Fit) -> int:
    return len(fit.missing) + len(fit.unexpected) + len(fit.reshaped)


def _misfit(model: Module, fit: _Fit) -> str:
    """What of a state dict does not fit; empty if its names and shapes do."""
    if not _differences(fit):
        return ""
    parts = []
    for verb, names in (("lacks", fit.missing), ("adds", fit.unexpected)):
        if names:
            parts.append(f"{verb} {names[0]}{_more(names)}")
    remedy = ""
    if fit.reshaped:
        name = fit.reshaped[0]
        there, here = fit.state[name].shape, model.state_dict()[name].shape
        shapes = f"{tuple(there)} for {tuple(here)}"
        parts.append(f"has {name} of shape {shapes}{_more(fit.reshaped)}")
        remedy = (
            "; for another number of classes, as fine-tuning brings, give it as "
            "--num-classes, or a function that builds the model, --model "
            "module:callable"
        )
    under = f" under {fit.key!r}" if fit.key else ""
    taken = f", its prefix {fit.prefix!r} taken away," if fit.prefix else ""
    return f"the state dict{under}{taken} {', '.join(parts)}{remedy}"


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def check_finite(model: Module, source: str) -> None:
    """
    Whether weights are numbers.

    Args:
        model (Module): All of whose parameters and buffers are looked at; a buffer may
            hold -infinity, as masks of attention do.
        source (str): What they are of, for the message.

    Raises:
        UserError: If some are NaN or infinite.
    """
    broken = []
    for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(value) or not value.is_floating_point():
            continue
        known = value if isinstance(value, Parameter) else value.clamp(min=0)
        if not known.isfinite().all():
            broken.append(name)
    if broken:
        raise UserError(
            f"{source} must be finite, got NaN or infinity in {broken[0]}"
            f"{_more(broken)}; give others, such as those of an earlier epoch"
        )
