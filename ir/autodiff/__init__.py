"""Reverse-mode differentiation of a graph into the same graph, in standard operators."""

from . import (  # noqa: F401  (each fills the table of rules)
    activation,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    reduction,
    resampling,
    shaping,
    unary,
)
from .blocked import Blocked
from .registry import VJPS
from .reverse import Gradients, gradients

__all__ = ["VJPS", "Blocked", "Gradients", "gradients"]
