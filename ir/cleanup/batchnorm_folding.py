"""BatchNormalization, and other scales and shifts behind a layer, taken up by its weight and bias: a model in, the same
model with fewer BatchNormalization, Mul, Add, Sub and Div out. Keras writes BatchNormalization at inference, and the
biases of its MultiHeadAttention, as such scales and shifts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir
from onnx_ir.convenience import replace_nodes_and_values
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

from ..layers import integer, is_constant, real
from ..model.hiding import hidden
from ..model.names import Names
from ..model.shape_inference import infer_shapes
from ..model.weights import nodes
from .axis_layout import Writer
from .channel_affine import Affine, array_of
from .channel_spread import Spread
from .einsum import FLOATS, OPSET

LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose")

NORM_RULES = (
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.fuse_batchnorm_into_gemm_rule,
)


def fold_batchnorms(model: onnx_ir.Model) -> onnx_ir.Model:
    """Folds BatchNormalization into the Conv, ConvTranspose or Gemm before it, by onnxscript's rules; one that trains
    uses the statistics of its input and stays."""
    training = [
        node
        for node in nodes(model)
        if node.op_type == "BatchNormalization" and node.attributes.get_int("training_mode", 0)
    ]
    with hidden(model, training):
        return RewritePass(NORM_RULES)(model).model


def absorb(model: onnx_ir.Model) -> onnx_ir.Model:
    """Folds what multiplies or shifts the output channels of a layer of the main graph by constants into the layer's
    weight and bias; works in place. A MatMul, which has no bias, gets one Add of a vector behind it.

    Between the layer and the arithmetic there may be layout operators, which then come last. Only where each value on
    the way has one reader and is no output, and where all nodes that read the weight are layers with the same behind
    them. Computed in float64; a layer is left as it is if its new weight or bias would overflow, or lose precision to
    the smallest numbers of its type.
    """
    if model.opset_imports.get("", 0) < OPSET:
        return model
    infer_shapes(model)
    names = Names(model)
    for weight in list(model.graph.initializers.values()):
        _fold(weight, model.graph, names)
    return model


@dataclass(frozen=True)
class Plan:
    """What becomes of one node: its new weight (None: as it is) and bias [channels] (None: there is none)."""

    node: onnx_ir.Node
    affine: Affine
    weight: np.ndarray | None
    bias: np.ndarray | None

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do: only the Add of a vector that a MatMul has for a bias."""
        nodes = self.affine.nodes
        if not nodes or self.node.op_type != "MatMul" or len(nodes) > 1:
            return not nodes
        shapes = [tuple(value.shape or ()) for value in nodes[0].inputs if value is not None and is_constant(value)]
        behind = self.node.outputs[0] in nodes[0].inputs
        return nodes[0].op_type == "Add" and behind and shapes == [(self.affine.spread.count,)]

    def equals(self, other: "Plan") -> bool:
        return _equal(self.weight, other.weight) and _equal(self.bias, other.bias)


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))


def _fold(weight: onnx_ir.Value, graph: onnx_ir.Graph, names: Names) -> None:
    """Folds what is behind all the nodes that read `weight`, or nothing."""
    uses = weight.uses()
    fits = all(use.idx == 1 and _is_layer(use.node, weight, graph) for use in uses)
    if not uses or not fits or not is_constant(weight) or weight.is_graph_output():
        return
    plans = list(_plans([use.node for use in uses], weight))
    if len(plans) < len(uses) or all(p.is_idle for p in plans) or not all(p.equals(plans[0]) for p in plans):
        return
    if plans[0].weight is not None:
        weight.const_value = onnx_ir.tensor(plans[0].weight, name=weight.name)
    bias = None
    if plans[0].bias is not None:
        bias = _initializer(plans[0].bias, names.values.fresh(f"{plans[0].node.name}.bias"), graph)
    for plan in plans:
        _apply(plan, bias, graph, names)


def _is_layer(node: onnx_ir.Node, weight: onnx_ir.Value, graph: onnx_ir.Graph) -> bool:
    matrix = node.op_type not in ("MatMul", "Gemm") or (weight.shape is not None and len(weight.shape) == 2)
    plain = node.op_type != "Gemm" or real(node, "beta", 1.0) == 1.0
    known = node.graph is graph and node.domain in ("", "ai.onnx") and node.op_type in LAYERS
    return known and matrix and plain and weight.dtype in FLOATS and node.outputs[0].shape is not None


def _plans(nodes: list[onnx_ir.Node], weight: onnx_ir.Value) -> Iterator[Plan]:
    for node in nodes:
        plan = _plan(node, weight)
        if plan is None:
            return
        yield plan


def _plan(node: onnx_ir.Node, weight: onnx_ir.Value) -> Plan | None:
    """None if the result isn't sure to be finite and precise."""
    spread = _spread(node, weight)
    affine = Affine(spread, np.ones(spread.count), np.zeros(spread.count)).follow(node.outputs[0])
    bias = _bias(node, spread.count)
    assert weight.dtype is not None
    dtype, scaled = weight.dtype.numpy(), None
    if bias is None:
        return None
    if not (affine.scale == 1).all():
        scaled = _scaled(array_of(weight), _factors(node, weight, affine.scale), dtype)
        if scaled is None:
            return None
    added = (bias * affine.scale + affine.shift).astype(dtype)
    needed = len(node.inputs) > 2 or any(step.op_type in ("Add", "Sub") for step in affine.nodes)
    return Plan(node, affine, scaled, added if needed else None) if np.isfinite(added).all() else None


def _spread(node: onnx_ir.Node, weight: onnx_ir.Value) -> Spread:
    shape, y = weight.shape, node.outputs[0].shape
    assert shape is not None
    assert y is not None
    sizes = shape.numpy()
    if node.op_type in ("Conv", "ConvTranspose"):
        count = sizes[0] if node.op_type == "Conv" else sizes[1] * integer(node, "group", 1)
        return Spread(count, len(y), (1,), (count,))
    count = sizes[0] if integer(node, "transB", 0) else sizes[1]
    return Spread(count, len(y), (len(y) - 1,), (count,))


def _bias(node: onnx_ir.Node, count: int) -> np.ndarray | None:
    """The bias [channels] of the node itself, zeros where it has none; None if it is computed or no vector."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(count)
    return Spread(count, 2, (1,), (count,)).vector(array_of(value)) if is_constant(value) else None


def _factors(node: onnx_ir.Node, weight: onnx_ir.Value, scale: np.ndarray) -> np.ndarray:
    """`scale` in the layout of the weight, with axes of size 1 where it is the same."""
    assert weight.shape is not None
    ones = (1,) * (len(weight.shape) - 2)
    if node.op_type == "ConvTranspose":
        groups = integer(node, "group", 1)
        rows = np.repeat(scale.reshape(groups, -1), weight.shape.numpy()[0] // groups, axis=0)
        return rows.reshape(*rows.shape, *ones)
    first = node.op_type == "Conv" or integer(node, "transB", 0) == 1
    return scale.reshape(-1, 1, *ones) if first else scale[None]


def _scaled(weight: np.ndarray, factors: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """weight * factors in `dtype`; None if a channel would be rounded by more than its largest number is, or would be
    so large that sums can overflow."""
    exact, limits = weight * factors, ml_dtypes.finfo(dtype)
    stored = exact.astype(dtype)
    largest = np.abs(exact).max(initial=0)
    if not np.isfinite(stored).all() or largest > max(float(limits.max) ** 0.5, np.abs(weight).max(initial=0)):
        return None
    inside = tuple(axis for axis, size in enumerate(factors.shape) if size == 1)
    error = np.abs(stored.astype(np.float64) - exact).max(axis=inside, initial=0)
    precise = error <= float(limits.eps) * np.abs(exact).max(axis=inside, initial=0)
    return stored if precise.all() else None


def _initializer(array: np.ndarray, name: str, graph: onnx_ir.Graph) -> onnx_ir.Value:
    tensor = onnx_ir.tensor(array, name=name)
    graph.register_initializer(onnx_ir.val(name, tensor.dtype, array.shape, const_value=tensor))
    return graph.initializers[name]


def _apply(plan: Plan, bias: onnx_ir.Value | None, graph: onnx_ir.Graph, names: Names) -> None:
    if bias is not None and plan.node.op_type == "MatMul":
        _add_behind(plan, bias, graph, names)
    elif bias is not None:
        plan.node.resize_inputs(3)
        plan.node.replace_input_with(2, bias)
    for node in plan.affine.nodes:
        x = next(value for value in node.inputs if value is not None and not is_constant(value))
        replace_nodes_and_values(graph, node, [node], [], [node.outputs[0]], [x])


def _add_behind(plan: Plan, bias: onnx_ir.Value, graph: onnx_ir.Graph, names: Names) -> None:
    """The Add has the name of the first whose work it does."""
    product = plan.node.outputs[0]
    old = next(node for node in plan.affine.nodes if node.op_type in ("Add", "Sub"))
    [use] = product.uses()
    writer = Writer(str(plan.node.name), names)
    y = writer.op("Add", product, bias)
    y.shape, writer.nodes[0].name = product.shape, old.name
    graph.insert_after(plan.node, writer.nodes)
    use.node.replace_input_with(use.idx, y)
