"""The table of decompositions, by domain and operator, filled when the rule modules are imported."""

from collections.abc import Callable, Sequence

import onnx_ir

from ..quantized import MICROSOFT as MICROSOFT
from .site import DecompositionSite

Outputs = Sequence[onnx_ir.Value | None]
Rule = Callable[[DecompositionSite], Outputs]

RULES: dict[tuple[str, str], Rule] = {}


def decomposition(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Registers a rule: given a DecompositionSite, the values that stand for the node's outputs; None is one that can't
    be had. A rule raises NotDecomposed for a node that it leaves as it is.
    """

    def register(rule: Rule) -> Rule:
        for op_type in op_types:
            if (domain, op_type) in RULES:
                raise ValueError(f"a decomposition of {domain}::{op_type} exists already")
            RULES[domain, op_type] = rule
        return rule

    return register
