"""Composite operators as standard ones that reverse mode and the search for layers see into."""

from . import attention, branches, embedding, functions, fused, norms, quantized, recurrent  # noqa: F401  (each fills the table of rules)
from .driver import decompose
from .registry import RULES

__all__ = ["RULES", "decompose"]
