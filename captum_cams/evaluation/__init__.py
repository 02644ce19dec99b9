"""The papers' tables and figures over a data set."""

from captum_cams.evaluation.runner import evaluate

__all__ = ["evaluate"]
