"""The papers' tables and figures over a data set."""

from captum_cams.evaluation.fine_tuning import fine_tune
from captum_cams.evaluation.runner import evaluate

__all__ = ["evaluate", "fine_tune"]
