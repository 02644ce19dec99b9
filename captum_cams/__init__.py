"""Class activation maps for Captum, with the metrics of their papers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Everything else is imported when it is asked for: PyTorch takes seconds, which the
# command `captum-cams --version` need not wait for.
_MODULES = (
    "attr",
    "augmentation",
    "baselines",
    "evaluation",
    "examples",
    "metrics",
    "path",
    "reshape",
    "targets",
    "visualization",
)

if TYPE_CHECKING:
    from captum_cams import attr as attr
    from captum_cams import augmentation as augmentation
    from captum_cams import baselines as baselines
    from captum_cams import evaluation as evaluation
    from captum_cams import examples as examples
    from captum_cams import metrics as metrics
    from captum_cams import path as path
    from captum_cams import reshape as reshape
    from captum_cams import targets as targets
    from captum_cams import visualization as visualization
    from captum_cams.attr import *  # noqa: F403

    __all__ = []
    __all__ += attr.__all__
    __all__ += ["metrics"]
else:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name == "__all__" or not name.startswith("_"):
            attr = import_module(f"{__name__}.attr")
            if name == "__all__":
                return [*attr.__all__, "metrics"]
            if name in attr.__all__:
                return getattr(attr, name)
        if name in globals():  # a module that attr has imported
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*__getattr__("__all__"), *_MODULES, "__version__"})
