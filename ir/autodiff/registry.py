"""The table of VJP rules, one a standard operator, filled when the rule modules are imported."""

from collections.abc import Callable, Sequence

import onnx_ir

from .blocked import Blocked
from .context import NodeGradients

Grads = Sequence["onnx_ir.Value | Blocked | None"]
Rule = Callable[[NodeGradients], Grads]

VJPS: dict[str, Rule] = {}

# Piecewise constant in their floating inputs, or reading only their shapes: no gradient flows through them.
ZERO_GRADIENT = frozenset(
    {
        "ArgMax", "ArgMin", "Bernoulli", "Ceil", "Constant", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater",
        "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual", "Multinomial", "NonMaxSuppression",
        "NonZero", "Not", "RandomNormalLike", "RandomUniformLike", "Round", "Shape", "Sign", "Size", "StringNormalizer",
    }
)  # fmt: skip

# ONNX Runtime's own forms of standard operators, of the same inputs and results.
TWINS = frozenset({("com.microsoft", "QuantizeLinear"), ("com.microsoft", "DequantizeLinear")})

# Their first output, an integer, stands for a real number: a gradient flows through it.
GIVES_CODES = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"})


def is_standard(node: onnx_ir.Node) -> bool:
    """Whether the rules, which are by the names of operators, are those of the node."""
    return node.domain == "" or (node.domain, node.op_type) in TWINS


def vjp(*op_types: str) -> Callable[[Rule], Rule]:
    """Registers a rule: given a NodeGradients, gradients in the order of the node's inputs. None is a zero gradient, a
    list that is shorter than the inputs leaves the rest zero, Blocked is a gradient that can't be had.
    """

    def register(rule: Rule) -> Rule:
        for op_type in op_types:
            if op_type in VJPS:
                raise ValueError(f"a VJP rule for {op_type} exists already: {VJPS[op_type].__name__}")
            VJPS[op_type] = rule
        return rule

    return register
