"""How nodes are said in older operator sets: what is an input now and was an attribute, axes that count from the end,
operators that weren't there. Where there is no way, the node stays as it is, for `schemas.fault` to name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import onnx_ir
from onnx_ir.convenience import replace_nodes_and_values
from onnx_ir.tape import Tape

from ..dimensions import constant
from ..errors import UnsupportedOp
from ..layers import integer, real
from ..model.descriptions import inherit
from ..model.names import Names

NEGATIVE_AXES_SINCE = 11


@dataclass(frozen=True)
class Rewording:
    """One node on its way to the operator set `opset`, in a model whose names are `names`."""

    node: onnx_ir.Node
    opset: int
    names: Names

    def attribute(self, name: str, number: int, scalar: bool = False) -> bool:
        """Makes an attribute of the constant input `number`, if it is one; True if nothing is left there."""
        inputs = self.node.inputs
        if len(inputs) <= number or inputs[number] is None:
            return True
        array = constant(inputs[number])
        if array is None:
            return False
        self.node.replace_input_with(number, None)
        plain = array.reshape(-1).tolist()
        kind = onnx_ir.AttrFloat32 if array.dtype.kind == "f" else onnx_ir.AttrInt64
        many = onnx_ir.AttrInt64s
        self.node.attributes[name] = kind(name, plain[0]) if scalar else many(name, plain)
        return True

    def trim(self) -> None:
        """Takes away the inputs at the end that are none."""
        count = len(self.node.inputs)
        while count and self.node.inputs[count - 1] is None:
            count -= 1
        self.node.resize_inputs(count)

    def replace(self, tape: Tape, y: onnx_ir.Value) -> list[onnx_ir.Node]:
        """Puts the nodes of `tape`, of which the last gives `y`, in the place of the node; all give its type."""
        old, graph = self.node.outputs[0], self.node.graph
        assert isinstance(graph, onnx_ir.Graph)
        y.type, y.shape = old.type, old.shape
        inherit(y, old)
        inherit(tape.nodes[0], self.node)
        for value in tape.initializers:
            value.name = self.names.values.fresh(f"{old.name}.{value.name}")
            graph.register_initializer(value)
        for number, node in enumerate(tape.nodes):
            last = number == len(tape.nodes) - 1
            node.name = self.node.name if last else self.names.nodes.fresh(f"{self.node.name}.{node.op_type}")
            node.outputs[0].type = old.type
            node.outputs[0].name = self.names.values.fresh(f"{old.name}.{node.op_type}")
        replace_nodes_and_values(graph, self.node, [self.node], tape.nodes, [old], [y])
        return list(tape.nodes)


Rule = Callable[[Rewording], list[onnx_ir.Node]]
"""Changes the node in place, or replaces it and returns the new nodes. Raises UnsupportedOp where the node would mean
another thing; where it can't be said, `schemas.fault` finds that."""


def reworded(work: Rewording) -> list[onnx_ir.Node]:
    """The node, changed or replaced, as far as there is an older way to say it."""
    before, rule = RULES.get(work.node.op_type, (0, _as_it_is))
    made = (rule(work) if work.opset < before else []) or [work.node]
    if work.opset < NEGATIVE_AXES_SINCE:
        for node in made:
            _count_from_the_start(node)
    return made


def _as_it_is(work: Rewording) -> list[onnx_ir.Node]:
    return []


def _axes(work: Rewording) -> list[onnx_ir.Node]:
    """Reductions, Squeeze and Unsqueeze; without axes, noop_with_empty_axes changes what a reduction does."""
    axes = _given(work.node, 1)
    if axes is not None and axes.size:
        work.attribute("axes", 1)
        work.node.attributes.pop("noop_with_empty_axes", None)
    elif axes is not None and integer(work.node, "noop_with_empty_axes", 0) == 0:
        work.node.replace_input_with(1, None)
    work.trim()
    return []


def _split(work: Rewording) -> list[onnx_ir.Node]:
    """num_outputs is of opset 18, sizes as an input of opset 13. Before 18 parts without sizes are equal."""
    node, x = work.node, work.node.inputs[0]
    count = node.attributes.pop("num_outputs", None)
    if count is not None:
        axis = integer(node, "axis", 0)
        size = None if x is None or x.shape is None else x.shape[axis]
        if not isinstance(size, int) or size % len(node.outputs):
            node.attributes["num_outputs"] = count
    if work.opset < 13:
        work.attribute("split", 1)
        work.trim()
    return []


def _softmax(work: Rewording) -> list[onnx_ir.Node]:
    """Before opset 13 it is one over all axes from `axis` on: the same for the last axis alone."""
    node, rank = work.node, _rank(work.node.inputs[0])
    if rank is None or integer(node, "axis", -1) % rank != rank - 1:
        raise UnsupportedOp(f"{node.op_type} before opset 13 is one over all axes behind its own as well")
    node.attributes["axis"] = onnx_ir.AttrInt64("axis", rank - 1)
    return []


def _reshape(work: Rewording) -> list[onnx_ir.Node]:
    """Zeros could stand for nothing but the size that is there: the same where there is none."""
    shape = _given(work.node, 1)
    if shape is not None and shape.all():
        work.node.attributes.pop("allowzero", None)
    return []


def _clip(work: Rewording) -> list[onnx_ir.Node]:
    work.attribute("min", 1, scalar=True)
    work.attribute("max", 2, scalar=True)
    work.trim()
    return []


def _pad(work: Rewording) -> list[onnx_ir.Node]:
    """Axes are of opset 18; pads and the value are inputs since opset 11."""
    node = work.node
    rank, axes, pads = _rank(node.inputs[0]), _given(node, 3), _given(node, 1)
    if axes is not None and rank is not None and pads is not None:
        whole = np.zeros((2, rank), np.int64)
        whole[:, axes % rank] = pads.reshape(2, -1)
        value = onnx_ir.val(work.names.values.fresh(f"{node.name}.pads"), onnx_ir.DataType.INT64, [2 * rank])
        value.const_value = onnx_ir.tensor(whole.reshape(-1), name=value.name)
        assert isinstance(node.graph, onnx_ir.Graph)
        node.graph.register_initializer(value)
        node.replace_input_with(1, value)
        node.replace_input_with(3, None)
    if work.opset < 11:
        work.attribute("pads", 1)
        work.attribute("value", 2, scalar=True)
    work.trim()
    return []


def _slice(work: Rewording) -> list[onnx_ir.Node]:
    """Before opset 10 bounds are attributes, and each step is one."""
    steps = _given(work.node, 4)
    if len(work.node.inputs) > 4 and work.node.inputs[4] is not None:
        if steps is None or (steps != 1).any():
            return []
        work.node.replace_input_with(4, None)
    for name, number in (("starts", 1), ("ends", 2), ("axes", 3)):
        work.attribute(name, number)
    work.trim()
    return []


def _top_k(work: Rewording) -> list[onnx_ir.Node]:
    work.attribute("k", 1, scalar=True)
    work.trim()
    return []


def _dropout(work: Rewording) -> list[onnx_ir.Node]:
    """One that isn't training, and whose mask nobody reads."""
    training = _given(work.node, 2)
    fixed = len(work.node.inputs) < 3 or work.node.inputs[2] is None or (training is not None and not training.any())
    if not fixed:
        return []
    work.attribute("ratio", 1, scalar=True)
    work.node.resize_inputs(1)
    work.node.attributes.pop("seed", None)
    return []


def _gemm(work: Rewording) -> list[onnx_ir.Node]:
    """The summand may be missing since opset 11."""
    node, x = work.node, work.node.inputs[0]
    if (len(node.inputs) > 2 and node.inputs[2] is not None) or x is None or x.dtype is None:
        return []
    assert isinstance(node.graph, onnx_ir.Graph)
    name = work.names.values.fresh(f"{node.name}.zero")
    tensor = onnx_ir.tensor(np.zeros(1, x.dtype.numpy()), name=name)
    node.graph.register_initializer(onnx_ir.val(name, x.dtype, [1], const_value=tensor))
    node.resize_inputs(3)
    node.replace_input_with(2, node.graph.initializers[name])
    return []


def _resize(work: Rewording) -> list[onnx_ir.Node]:
    """Before opset 11 it has scales alone, and rounds down where it enlarges, else up; before 10 it is Upsample."""
    node, scales = work.node, _given(work.node, 2)
    mode, nearest = node.attributes.get_string("mode", "nearest"), node.attributes.get_string("nearest_mode", "")
    asymmetric = node.attributes.get_string("coordinate_transformation_mode", "") == "asymmetric"
    if scales is None or not scales.size or not asymmetric or mode not in ("nearest", "linear"):
        return []
    larger, smaller = bool((scales >= 1).all()), bool((scales <= 1).all())
    rounded = mode == "linear" or (nearest == "floor" and larger) or (nearest == "ceil" and smaller)
    if not rounded or (work.opset < 10 and not larger):
        return []
    tape = Tape()
    op_type = "Resize" if work.opset >= 10 else "Upsample"
    return work.replace(tape, tape.op(op_type, [node.inputs[0], node.inputs[2]], {"mode": mode}))


def _cast_like(work: Rewording) -> list[onnx_ir.Node]:
    x, like = work.node.inputs[:2]
    if like is None or like.dtype is None or work.node.attributes:
        return []
    tape = Tape()
    return work.replace(tape, tape.op("Cast", [x], {"to": like.dtype.value}))


def _scatter_elements(work: Rewording) -> list[onnx_ir.Node]:
    """Before opset 11 it is called Scatter."""
    if work.node.attributes.get_string("reduction", "none") != "none":
        return []
    tape = Tape()
    return work.replace(tape, tape.op("Scatter", work.node.inputs, {"axis": integer(work.node, "axis", 0)}))


def _layer_normalization(work: Rewording) -> list[onnx_ir.Node]:
    """The form that ONNX Runtime makes one operator of, in the type of x; its other outputs can't be had."""
    node, x = work.node, work.node.inputs[0]
    rank = _rank(x)
    stash = integer(node, "stash_type", 1)
    known = x is not None and x.dtype in (onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE)
    if x is None or x.dtype is None or not known or stash > x.dtype.value or rank is None or len(node.outputs) > 1:
        return []
    axes = list(range(integer(node, "axis", -1) % rank, rank))
    tape, real_type = Tape(), x.dtype.numpy()
    number = {name: tape.initializer(onnx_ir.tensor(np.array(v, real_type)), name) for name, v in _numbers(node)}
    centred = tape.op("Sub", [x, tape.op("ReduceMean", [x], {"axes": axes})])
    variance = tape.op("ReduceMean", [tape.op("Pow", [centred, number["two"]])], {"axes": axes})
    y = tape.op("Div", [centred, tape.op("Sqrt", [tape.op("Add", [variance, number["epsilon"]])])])
    y = tape.op("Mul", [y, node.inputs[1]])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        y = tape.op("Add", [y, node.inputs[2]])
    return work.replace(tape, y)


def _numbers(node: onnx_ir.Node) -> Sequence[tuple[str, float]]:
    return ("two", 2.0), ("epsilon", real(node, "epsilon", 1e-5))


def _gelu(work: Rewording) -> list[onnx_ir.Node]:
    """x (erf(x / sqrt 2) + 1) / 2, which ONNX Runtime makes one operator of."""
    node, x = work.node, work.node.inputs[0]
    if x is None or x.dtype is None or node.attributes.get_string("approximate", "none") != "none":
        return []
    tape = Tape()
    root, one, half = (
        tape.initializer(onnx_ir.tensor(np.array(value, x.dtype.numpy())), name)
        for name, value in (("root", sqrt(2)), ("one", 1.0), ("half", 0.5))
    )
    bend = tape.op("Erf", [tape.op("Div", [x, root])])
    return work.replace(tape, tape.op("Mul", [tape.op("Mul", [x, tape.op("Add", [bend, one])]), half]))


def _count_from_the_start(node: onnx_ir.Node) -> None:
    """Axes that count from the end, as their numbers from the start."""
    rank = _rank(node.inputs[0]) if node.inputs else None
    for name in ("axis", "axes"):
        attribute = node.attributes.get(name)
        if attribute is None or attribute.is_ref() or rank is None:
            continue
        if attribute.type == onnx_ir.AttributeType.INT:
            whole = rank + (node.op_type == "OneHot")
            node.attributes[name] = onnx_ir.AttrInt64(name, attribute.as_int() % whole)
        elif attribute.type == onnx_ir.AttributeType.INTS:
            axes = attribute.as_ints()
            whole = rank + (len(axes) if node.op_type == "Unsqueeze" else 0)
            node.attributes[name] = onnx_ir.AttrInt64s(name, [axis % whole for axis in axes])


def _given(node: onnx_ir.Node, number: int) -> np.ndarray | None:
    """The constant input `number`, None if there is none."""
    value = node.inputs[number] if len(node.inputs) > number else None
    return None if value is None else constant(value)


def _rank(value: onnx_ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


REDUCTIONS = ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")

RULES: Mapping[str, tuple[int, Rule]] = {
    **{f"Reduce{name}": (18, _axes) for name in REDUCTIONS},
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), (13, _axes)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), (13, _softmax)),
    "CastLike": (15, _cast_like),
    "Clip": (11, _clip),
    "Dropout": (12, _dropout),
    "Gelu": (20, _gelu),
    "Gemm": (11, _gemm),
    "LayerNormalization": (17, _layer_normalization),
    "Pad": (18, _pad),
    "Reshape": (14, _reshape),
    "Resize": (11, _resize),
    "ScatterElements": (11, _scatter_elements),
    "Slice": (10, _slice),
    "Split": (18, _split),
    "TopK": (10, _top_k),
}
"""Rules by operator, each with the opset before which it is needed."""
