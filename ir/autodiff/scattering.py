"""Gradients of operators that copy elements: every element of g is added at the place in x that it was read from."""

import onnx_ir

from .context import NodeGradients


def scattered(c: NodeGradients, places: onnx_ir.Value, g: onnx_ir.Value) -> onnx_ir.Value:
    """A gradient in the shape of the node's first input; `places` counts through that input's flattened elements."""
    zeros = c.op("Expand", 0.0, c.op("Unsqueeze", c.op("Size", c.x), [0]))
    flat = [c.op("Reshape", v, [-1]) for v in (places, g)]
    return c.reshaped(c.op("ScatterElements", zeros, *flat, axis=0, reduction="add"), c.x)


def places(c: NodeGradients) -> onnx_ir.Value:
    """The place of every element of the first input within its flattened elements, in its shape."""
    first, step = c.emitter.int64(0), c.emitter.int64(1)
    return c.reshaped(c.op("Range", first, c.op("Size", c.x), step), c.x)


def copied(c: NodeGradients, *parameters: onnx_ir.Value | None, **attributes) -> onnx_ir.Value:
    """The gradient of an operator that copies elements of its first input: run on places, it tells their origin."""
    return scattered(c, c.op(c.node.op_type, places(c), *parameters, **attributes), c.g)
