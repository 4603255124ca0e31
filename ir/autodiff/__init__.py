"""Reverse-mode differentiation of a graph into the same graph, in standard operators."""

from . import (  # noqa: F401  (each fills the table of rules)
    activation,
    contraction,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    norms,
    pooling,
    quantization,
    reduction,
    resampling,
    shaping,
    unary,
    updates,
)
from .blocked import Blocked
from .registry import VJPS
from .reverse import Gradients, gradients

__all__ = ["VJPS", "Blocked", "Gradients", "gradients"]
