"""All imports of Captum's private names: a release that moves them breaks this file."""

from collections.abc import Callable
from typing import Any, TypeVar

from captum._utils.common import _run_forward as run_forward
from captum._utils.typing import BaselineType, TargetType
from captum.log import log_usage as _log_usage

_F = TypeVar("_F", bound=Callable[..., Any])


def log_usage(*, part_of_slo: bool = False) -> Callable[[_F], _F]:
    """Captum's decorator; `NoiseTunnel` needs the `__wrapped__` that it leaves."""
    decorate: Callable[[_F], _F] = _log_usage(part_of_slo=part_of_slo)
    return decorate


__all__ = [
    "BaselineType",
    "TargetType",
    "log_usage",
    "run_forward",
]
