"""What a graph says about an input that its declaration doesn't: the table it indexes, the size a weight demands."""

import onnx_ir

MOVES = ("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze")
CARRIERS = frozenset((*MOVES, "Cast", "Clip", "Pad", "ScatterND", "Slice", "Tile", "Where"))
KEEPS_CHANNELS = frozenset(("Cast", "Identity", "Sub", "Mul", "Add", "Div", "Relu", "Clip", "BatchNormalization"))


def index_range(value: onnx_ir.Value) -> int | None:
    """The number of entries of the smallest constant table that `value` indexes (Gather and its kin, or the depth of a
    OneHot), looked for through operators that move or copy integers without changing them; None if there is none.
    """
    sizes: list[int] = []
    seen: set[onnx_ir.Value] = set()
    todo = [value]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for node, place in current.uses():
            size = _entries(node, place)
            if size is not None:
                sizes.append(size)
            elif node.op_type in CARRIERS and _carries(node, place):
                todo.extend(node.outputs)
    return min(sizes, default=None)


def known_size(value: onnx_ir.Value, axis: int) -> int | None:
    """The size of a symbolic `axis` that a weight demands: a convolution's channels, a matrix product's rows."""
    while True:
        found = [size for node, place in value.uses() if (size := _demanded(node, place, axis, value)) is not None]
        if found:
            return found[0]
        carriers = [n for n, place in value.uses() if n.op_type in KEEPS_CHANNELS and place == 0]
        if len(carriers) != 1:
            return None
        value = carriers[0].outputs[0]


def _demanded(node: onnx_ir.Node, place: int, axis: int, value: onnx_ir.Value) -> int | None:
    if place != 0 or len(node.inputs) < 2:
        return None
    weight = _constant_shape(node.inputs[1])
    if weight is None:
        return None
    rank = 0 if value.shape is None else len(value.shape)
    if node.op_type == "Conv" and axis == 1:
        return weight[1] * node.attributes.get_int("group", 1)
    if node.op_type == "MatMul" and len(weight) == 2 and axis == rank - 1:
        return weight[0]
    if node.op_type == "Gemm" and axis == 1 and not node.attributes.get_int("transA", 0):
        return weight[node.attributes.get_int("transB", 0)]
    return None


def _entries(node: onnx_ir.Node, place: int) -> int | None:
    if node.op_type == "OneHot" and place == 0:
        depth = onnx_ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
        return None if depth is None else int(depth.numpy().reshape(-1)[0])
    if node.op_type == "EmbedLayerNormalization" and place < 2:
        return _first(_constant_shape(node.inputs[2 if place == 0 else 4]))
    if place != 1 or node.op_type not in ("Gather", "GatherElements", "GatherND"):
        return None
    shape = _constant_shape(node.inputs[0])
    return None if not shape else shape[node.attributes.get_int("axis", 0) if node.op_type != "GatherND" else 0]


def _carries(node: onnx_ir.Node, place: int) -> bool:
    """Whether the values at this place of the node go on to its outputs, rather than say how."""
    if node.op_type == "Concat":
        return True
    return place in {"Where": (1, 2), "ScatterND": (0, 2)}.get(node.op_type, (0,))


def _constant_shape(value: onnx_ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a weight: an initializer, a Constant, or one of them behind a cast or dequantization."""
    while value is not None:
        tensor = onnx_ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return tuple(tensor.shape.numpy())
        node = value.producer()
        if node is None or node.op_type not in ("Cast", "Identity", "DequantizeLinear"):
            return None
        value = node.inputs[0]
    return None


def _first(shape: tuple[int, ...] | None) -> int | None:
    return shape[0] if shape else None
