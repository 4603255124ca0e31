"""How far two models' outputs are apart: lists of outputs in, divergences, agreement and accuracies out."""

from .agreement import agreements
from .directions import cosine_distances, has_vectors
from .divergence import Divergence, compare, nats
from .divergences import FLOOR, kl_divergences, relative_error
from .estimates import CONFIDENCE, Estimate, Mean, Share
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
    "CONFIDENCE",
    "FLOOR",
    "AccuracyChange",
    "Divergence",
    "Estimate",
    "Mean",
    "Outputs",
    "Share",
    "accuracy",
    "accuracy_change",
    "agreements",
    "check_range",
    "classes_of",
    "compare",
    "cosine_distances",
    "has_one_answer",
    "has_vectors",
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
