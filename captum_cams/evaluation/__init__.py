"""The papers' tables and figures over a data set."""

from typing import TYPE_CHECKING, Any

__all__ = ["evaluate", "fine_tune"]

if TYPE_CHECKING:
    from captum_cams.evaluation.fine_tuning import fine_tune as fine_tune
    from captum_cams.evaluation.runner import evaluate as evaluate
else:

    def __getattr__(name: str) -> Any:
        # When they are asked for: the command line needs only the errors at once.
        if name == "evaluate":
            from captum_cams.evaluation.runner import evaluate as found
        elif name == "fine_tune":
            from captum_cams.evaluation.fine_tuning import fine_tune as found
        elif name == "errors":
            from captum_cams.evaluation import errors as found
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return found

    def __dir__() -> list[str]:
        return __all__
