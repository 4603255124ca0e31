"""Operators that draw: a model in, its nodes whose values are another draw in each run out."""

import onnx_ir

from .model.weights import nodes

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def random_nodes(model: onnx_ir.Model) -> tuple[onnx_ir.Node, ...]:
    """The nodes of all graphs and functions that draw; a Dropout only where it is not known to be for inference."""
    return tuple(node for node in nodes(model) if node.domain == "" and (node.op_type in RANDOM or _drops(node)))


def _drops(node: onnx_ir.Node) -> bool:
    """Whether the third input of a Dropout, `training_mode`, is there and isn't known to be false."""
    if node.op_type != "Dropout" or len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    mode = onnx_ir.convenience.get_const_tensor(node.inputs[2])
    return mode is None or bool(mode.numpy().all())
