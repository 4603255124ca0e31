"""What the outputs of a model mean: how they are recognised, and what their distributions are computed from."""

from ..head_kinds import KINDS
from .finding import Distribution, distribution, find_heads
from .head import ASKED_FOR, Head, effective_decisions

__all__ = ["ASKED_FOR", "KINDS", "Distribution", "Head", "distribution", "effective_decisions", "find_heads"]
