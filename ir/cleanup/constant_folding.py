"""Which nodes with constant inputs are computed ahead of time, so that results stay the same bit by bit."""

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript.optimizer._constant_folding import FOLDED_FROM_KEY, FoldConstantsPass

from ..dimensions import dims, static
from ..model.hiding import hidden
from ..model.weights import graphs, nodes
from ..result_size import result_size

LARGE = 1 << 24
SMALL = 8192
"""Elements: a constant up to SMALL is computed if the file doesn't grow by it; LARGE bounds the work."""

NODE_BYTES = 256  # about what a node and its names take

LAYOUT = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
MOVES = LAYOUT | {"Concat", "Slice", "Gather", "GatherElements", "Expand", "Tile", "ConstantOfShape", "Where"}
CASTS = frozenset({"Cast", "CastLike"})
ARITHMETIC = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sqrt", "Floor", "Ceil"),
        *("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not", "Xor"),
    }
)
INTEGER_ARITHMETIC = frozenset({"Range", "Min", "Max", "Mod", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"})
"""Operators that IEEE 754 or integers leave no freedom in: every runtime gives the same bits. But half-precision
arithmetic is left alone, for runtimes do a chain of it in single precision."""

ROUNDED = frozenset({"ReduceL2", "ReduceSumSquare", "ReduceMean", "Reciprocal", "Exp", "Log", "Pow", "Tanh", "Sigmoid"})
"""Operators whose last bit is the runtime's choice."""

WIDE = frozenset({onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE, onnx_ir.DataType.INT64})
HALVES = frozenset({onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16})
CASTABLE = frozenset(
    {
        *HALVES,
        *(onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE),
        *(onnx_ir.DataType.INT64, onnx_ir.DataType.INT32, onnx_ir.DataType.BOOL),
        *(onnx_ir.DataType.INT8, onnx_ir.DataType.UINT8, onnx_ir.DataType.INT16, onnx_ir.DataType.UINT16),
    }
)


def lift_constants(model: onnx_ir.Model) -> onnx_ir.Model:
    """Makes an initializer of every Constant node that is not itself an output; works in place."""
    return LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).model


def fold(model: onnx_ir.Model) -> onnx_ir.Model:
    """Computes shape arithmetic and the other nodes that `is_exact` names; works in place.

    No file grows by it: a weight is folded only if nothing else reads it and the result is not larger.
    """
    return _fold(model, is_exact, SMALL)


def fold_all(model: onnx_ir.Model) -> onnx_ir.Model:
    """As `fold`, but the single-precision arithmetic of `ROUNDED` too, and of weights up to `LARGE` elements."""
    return _fold(model, is_computable, LARGE)


def _fold(model: onnx_ir.Model, policy: Callable[[onnx_ir.Node], bool | None], limit: int) -> onnx_ir.Model:
    def bounded(node: onnx_ir.Node) -> bool | None:
        return False if result_size(node) > LARGE else policy(node)

    with hidden(model, [node for node in nodes(model) if _is_mishandled(node)]):
        FoldConstantsPass(shape_inference=False, input_size_limit=limit, output_size_limit=SMALL, should_fold=bounded)(
            model
        )
    _forget_origins(model)
    return model


def is_computable(node: onnx_ir.Node) -> bool | None:
    """As `is_exact`, and the operators of `ROUNDED` on single and double precision."""
    if node.op_type not in ROUNDED:
        return is_exact(node)
    tensors = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    return None if not node.domain and all(tensor.dtype in WIDE for tensor in tensors) else False


def _is_mishandled(node: onnx_ir.Node) -> bool:
    """onnxscript makes a Cast of a CastLike without its attributes, and fails on some SplitToSequence."""
    if node.domain:
        return False
    return node.op_type == "SplitToSequence" or (node.op_type == "CastLike" and len(node.attributes) > 0)


def is_exact(node: onnx_ir.Node) -> bool | None:
    """True: fold it. False: leave it. None: fold it if its inputs are small. All inputs are constants."""
    inputs = [value for value in node.inputs if value is not None]
    tensors = [value.const_value for value in inputs if value.const_value is not None]
    if node.domain or not all(tensor.dtype in CASTABLE for tensor in tensors):
        return False
    if _grows(node, inputs):
        return False
    if node.op_type in CASTS:
        return _casts_exactly(node, tensors)
    if node.op_type in MOVES:
        return True if node.op_type in LAYOUT or node.op_type == "ConstantOfShape" else None
    return _is_exact_arithmetic(node.op_type, tensors)


def _grows(node: onnx_ir.Node, inputs: list[onnx_ir.Value]) -> bool:
    """Whether the file would: the result is larger than the constants that nothing else reads, by more than a node
    takes. What is spread out, or read by others in another layout, is computed when the model is loaded."""
    made = _bytes_made(node, inputs)
    alone = {value for value in inputs if len(value.uses()) == 1 and not value.is_graph_output()}
    freed = sum(value.const_value.nbytes for value in alone if value.const_value is not None)
    return made is not None and made > freed + NODE_BYTES


def _bytes_made(node: onnx_ir.Node, inputs: list[onnx_ir.Value]) -> int | None:
    """Bytes of the result, None where its size isn't known."""
    sizes = static(dims(node.outputs[0]))
    dtype = node.outputs[0].dtype or (inputs[0].dtype if inputs else None)
    if node.op_type in LAYOUT and inputs[0].const_value is not None:
        return inputs[0].const_value.nbytes
    return None if sizes is None or dtype is None else prod(sizes) * dtype.bitwidth // 8


def _is_exact_arithmetic(op_type: str, tensors: list[onnx_ir.TensorProtocol]) -> bool | None:
    integers = all(tensor.dtype.is_integer() for tensor in tensors)
    if integers and op_type in ("Div", "Mod"):
        return _divides_exactly(tensors)
    if op_type in ARITHMETIC and not any(tensor.dtype in HALVES for tensor in tensors):
        return None
    return None if integers and op_type in INTEGER_ARITHMETIC else False


def _divides_exactly(tensors: list[onnx_ir.TensorProtocol]) -> bool | None:
    """Integers round towards zero in ONNX and down in Python: fold where these are the same."""
    if any(tensor.size > SMALL for tensor in tensors):
        return False
    a, b = (tensor.numpy() for tensor in tensors)
    return None if (a >= 0).all() and (b > 0).all() else False


def _casts_exactly(node: onnx_ir.Node, tensors: list[onnx_ir.TensorProtocol]) -> bool:
    """A cast that doesn't enlarge a weight, and whose every value exists in the new type's range."""
    x = tensors[0]
    to = tensors[1].dtype if node.op_type == "CastLike" else onnx_ir.DataType(node.attributes.get_int("to", 0))
    if to not in CASTABLE or (to.itemsize > x.dtype.itemsize and x.size > SMALL):
        return False
    if to.is_integer() and not x.dtype.is_integer() and x.dtype != onnx_ir.DataType.BOOL:
        return _fits(x.numpy(), to.numpy())
    return True


def _fits(x: np.ndarray, to: np.dtype) -> bool:
    limits, wide = np.iinfo(to), x.astype(np.float64)
    return bool(np.isfinite(wide).all() and (wide >= limits.min).all() and (wide < float(limits.max)).all())


def _forget_origins(model: onnx_ir.Model) -> None:
    """Removes what the folding writes beside each value: the names of all that went into it."""
    for graph in graphs(model):
        if isinstance(graph, onnx_ir.Graph):
            for value in graph.initializers.values():
                value.metadata_props.pop(FOLDED_FROM_KEY, None)
    for node in nodes(model):
        for value in node.outputs:
            value.metadata_props.pop(FOLDED_FROM_KEY, None)
