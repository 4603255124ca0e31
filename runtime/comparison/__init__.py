"""How far two models' outputs are apart: lists of outputs in, divergences, agreement and accuracies out."""

from .agreement import agreements, changed_share
from .divergence import Divergence, compare
from .divergences import FLOOR, kl_divergences, relative_error
from .outputs import Outputs, run_all
from .scores import (
    AccuracyChange,
    accuracy,
    accuracy_change,
    check_range,
    classes_of,
    has_one_answer,
    hits,
    paired_change,
)

__all__ = [
    "FLOOR",
    "AccuracyChange",
    "Divergence",
    "Outputs",
    "accuracy",
    "accuracy_change",
    "agreements",
    "changed_share",
    "check_range",
    "classes_of",
    "compare",
    "has_one_answer",
    "hits",
    "kl_divergences",
    "paired_change",
    "relative_error",
    "run_all",
]
