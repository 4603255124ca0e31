"""How far two models' outputs are apart: lists of outputs in, divergences, agreement and accuracies out."""

from .agreement import agreements, changed_share
from .divergence import Divergence, compare, nats
from .divergences import FLOOR, kl_divergences, relative_error
from .outputs import Outputs, run_all
from .paired import AccuracyChange, loss_bound, paired_change, samples_for_fall, samples_for_loss
from .scores import (
    accuracy,
    accuracy_change,
    check_range,
    classes_of,
    has_one_answer,
    hits,
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
    "loss_bound",
    "nats",
    "paired_change",
    "relative_error",
    "run_all",
    "samples_for_fall",
    "samples_for_loss",
]
