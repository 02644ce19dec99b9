"""Class activation maps for Captum, with the metrics of their papers."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from captum_cams import attr as attr
from captum_cams import metrics as metrics
from captum_cams.attr import *  # noqa: F403

__version__ = "0.1.0"

__all__ = []
__all__ += attr.__all__
__all__ += ["metrics"]

# Imported when they are asked for, as some of them take their time.
_MODULES = (
    "augmentation",
    "baselines",
    "evaluation",
    "examples",
    "path",
    "reshape",
    "targets",
    "visualization",
)

if TYPE_CHECKING:
    from captum_cams import augmentation as augmentation
    from captum_cams import baselines as baselines
    from captum_cams import evaluation as evaluation
    from captum_cams import examples as examples
    from captum_cams import path as path
    from captum_cams import reshape as reshape
    from captum_cams import targets as targets
    from captum_cams import visualization as visualization
else:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> ModuleType:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, "__version__", "attr"})
