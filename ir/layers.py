"""The linear maps of a graph, seen alike whatever their operator: a model in, its layers out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir

from .quantized import dequantizes_weights, is_quantized
from .remarks import MISSED, Remark

VIEWS = ("Transpose", "Cast", "Identity")
OPERATORS = ("MatMul", "Gemm", "Conv")
INTEGER_OPERATORS = ("MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv")
QUANTIZED, LEFT = "quantized", "quantized layers are left as they came"


@dataclass(frozen=True)
class Use:
    """One node that applies a layer: `output` = layer(`input`), without the bias when an Add of its own holds that."""

    node: onnx_ir.Node
    input: onnx_ir.Value
    output: onnx_ir.Value


@dataclass(frozen=True)
class Layer:
    """A linear map y = W a, W [groups, out, in], with every node that applies it.

    A convolution is the same map on patches: in = (channels / groups) * the kernel's size, channels outermost.
    `weight` is the constant that holds W, in the layout of the operator after the `views` (nodes such as Transpose
    and Cast). `bias` is the constant of length groups * out that the node itself or the one Add behind it adds.
    """

    name: str
    op: str
    uses: tuple[Use, ...]
    weight: onnx_ir.Value
    views: tuple[onnx_ir.Node, ...]
    bias: onnx_ir.Value | None
    groups: int
    out: int
    inputs: int
    kernel: tuple[int, ...] = ()

    @property
    def depthwise(self) -> bool:
        """Whether each group of a convolution reads one channel."""
        return self.groups > 1 and self.inputs == int(np.prod(self.kernel))

    @property
    def channels(self) -> int:
        """Input channels of one group: `inputs` without the taps of the kernel."""
        return self.inputs // int(np.prod(self.kernel))

    @property
    def absorbs(self) -> bool:
        """Whether a bias can take up the mean of a change: there is one, or the operator has a place for it."""
        return self.bias is not None or self.op in ("Gemm", "Conv")

    def bias_or_zero(self) -> np.ndarray:
        """The bias [groups, out] in float64, zero where there is none."""
        if self.bias is None or self.bias.const_value is None:
            return np.zeros((self.groups, self.out))
        return self.bias.const_value.numpy().astype(np.float64).reshape(self.groups, self.out)

    @property
    def parameters(self) -> int:
        """Elements of W, the bias not counted."""
        return self.groups * self.out * self.inputs

    @property
    def dtype(self) -> onnx_ir.DataType | None:
        """The type that the operator reads the weight in: that of the constant, or of the last Cast behind it."""
        casts = [view.attributes["to"].as_int() for view in self.views if view.op_type == "Cast"]
        return onnx_ir.DataType(casts[-1]) if casts else self.weight.dtype

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of the constant in the order in which the operator reads them, behind the views."""
        assert self.weight.const_value is not None
        return _order(self.views, len(self.weight.const_value.shape))

    @property
    def outputs_first(self) -> bool:
        """Whether the operator reads the outputs as the first axis of the weight, not as the second."""
        return self.op == "Conv" or (self.op == "Gemm" and integer(self.uses[0].node, "transB", 0) == 1)

    def stored(self) -> np.ndarray:
        """The weight in the layout that the operator reads: [k, n], or [n, k] (Gemm, transB), or [n, c, ...kernel]."""
        assert self.weight.const_value is not None
        return self.weight.const_value.numpy().transpose(self.order)

    def unread(self, stored: np.ndarray) -> np.ndarray:
        """The constant that the views turn into `stored`."""
        return stored.transpose(np.argsort(self.order))

    def laid_out(self, matrix: np.ndarray) -> np.ndarray:
        """A matrix [groups, out, in] in the layout that the operator reads; it may have fewer rows and columns than
        the layer's."""
        if self.op == "Conv":
            return matrix.reshape(matrix.shape[0] * matrix.shape[1], -1, *self.kernel)
        return matrix[0] if self.outputs_first else matrix[0].T

    def matrix(self) -> np.ndarray:
        """W [groups, out, in] in float64."""
        stored = self.stored().astype(np.float64)
        if self.op == "Conv":
            return stored.reshape(self.groups, self.out, self.inputs)
        return (stored if self.outputs_first else stored.T)[None]


@dataclass(frozen=True)
class Layers:
    """The layers that can be worked on, by name, and a remark for each linear node that can't."""

    found: dict[str, Layer]
    left: tuple[Remark, ...]


class Unfit(Exception):
    """Why a node is no layer; becomes a remark."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def find_layers(model: onnx_ir.Model) -> Layers:
    """The layers of `model`, in the order of their first node.

    Nodes that apply the same constant in the same way are one layer. A node is left out, with a remark, when its
    weight is computed, quantized, inside a subgraph, or also read by something that is not the same layer.
    """
    uses: dict[tuple, list[onnx_ir.Node]] = {}
    left: list[Remark] = []
    for node in linear_nodes(model):
        try:
            uses.setdefault(identity(node, model), []).append(node)
        except Unfit as unfit:
            left.append(Remark(node.name or "", "layers", MISSED, unfit.reason, unfit.detail))
    found: dict[str, Layer] = {}
    for nodes in uses.values():
        try:
            layer = layer_of(nodes)
            found[layer.name] = layer
        except Unfit as unfit:
            left.extend(Remark(n.name or "", "layers", MISSED, unfit.reason, unfit.detail) for n in nodes)
    return Layers(found, tuple(left))


def find_embeddings(model: onnx_ir.Model) -> dict[str, Layer]:
    """The tables [in, out] from which Gather nodes of `model` take rows, as layers of the operator Gather.

    Such a layer is W [1, out, in] on one-hot vectors; its nodes' inputs are the indices. A table that anything else
    reads is left out.
    """
    found: dict[str, Layer] = {}
    for table, nodes in _tables(model).items():
        if not _read_elsewhere(table, nodes) and table.shape is not None:
            rows, width = table.shape.numpy()
            uses = tuple(Use(n, n.inputs[1], n.outputs[0]) for n in nodes if n.inputs[1] is not None)
            found[str(nodes[0].name)] = Layer(str(nodes[0].name), "Gather", uses, table, (), None, 1, width, rows)
    return found


def tied_embeddings(model: onnx_ir.Model) -> dict[str, str]:
    """The tables that `find_embeddings` leaves out, by their first Gather, and what else reads them, for a person."""
    tied = ((nodes[0], _read_elsewhere(table, nodes)) for table, nodes in _tables(model).items())
    return {str(node.name): ", ".join(others) for node, others in tied if others}


def _tables(model: onnx_ir.Model) -> dict[onnx_ir.Value, list[onnx_ir.Node]]:
    """The Gather nodes that take rows from each table."""
    readers: dict[onnx_ir.Value, list[onnx_ir.Node]] = {}
    for node in model.graph:
        if node.op_type == "Gather" and node.domain in ("", "ai.onnx") and _is_table(node):
            assert node.inputs[0] is not None
            readers.setdefault(node.inputs[0], []).append(node)
    return readers


def _read_elsewhere(table: onnx_ir.Value, nodes: list[onnx_ir.Node]) -> list[str]:
    others = dict.fromkeys(use.node for use in table.uses() if use.node not in nodes)
    given = ["the graph's outputs"] if table.is_graph_output() else []
    return [*(f"{node.op_type} {node.name!r}" for node in others), *given]


def _is_table(gather: onnx_ir.Node) -> bool:
    table, indices = gather.inputs[0], gather.inputs[1]
    if not is_constant(table) or is_constant(indices) or integer(gather, "axis", 0) != 0:
        return False
    assert table is not None
    floating = table.dtype is not None and table.dtype.is_floating_point()
    return floating and table.shape is not None and len(table.shape) == 2 and 0 not in table.shape.dims


def integer(node: onnx_ir.Node, name: str, default: int) -> int:
    """An integer attribute of `node`, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def real(node: onnx_ir.Node, name: str, default: float) -> float:
    """A floating-point attribute of `node`, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def linear_nodes(model: onnx_ir.Model) -> Iterator[onnx_ir.Node]:
    """The nodes of all graphs that could apply a layer, in order."""
    return filter(is_linear, model.graph.all_nodes())


def is_linear(node: onnx_ir.Node) -> bool:
    """Whether `node` could apply a layer, or does with weights that are quantized."""
    return (node.op_type in OPERATORS and node.domain in ("", "ai.onnx")) or is_quantized(node)


def identity(node: onnx_ir.Node, model: onnx_ir.Model) -> tuple:
    """What makes two nodes the same layer: constant, views, bias and attributes. Raises Unfit if it is none."""
    if node.graph is not model.graph:
        raise Unfit("subgraph", "inside the body of an If, Loop or Scan")
    if is_quantized(node):
        raise Unfit(QUANTIZED, f"{node.op_type} multiplies with quantized weights: {LEFT}")
    weight, views = _constant(node)
    attributes = tuple(sorted((a.name, str(a.value)) for a in node.attributes.values()))
    steps = tuple((v.op_type, str(sorted(str(a) for a in v.attributes.values()))) for v in views)
    return weight.name, steps, node.op_type, attributes, _name(_bias(node))


def _name(value: onnx_ir.Value | None) -> str | None:
    return None if value is None else value.name


def _constant(node: onnx_ir.Node) -> tuple[onnx_ir.Value, tuple[onnx_ir.Node, ...]]:
    value, views = node.inputs[1], []
    if value is None or node.inputs[0] is None:
        raise Unfit("no-weight", f"{node.op_type} lacks an input")
    if is_constant(node.inputs[0]):
        raise Unfit("weight-on-the-left", "the constant is the first factor")
    while (producer := value.producer()) is not None and producer.op_type in VIEWS and producer.inputs[0] is not None:
        views.insert(0, producer)
        value = producer.inputs[0]
    if not is_constant(value):
        producer = value.producer()
        source = "a graph input" if producer is None else f"computed by {producer.op_type} {producer.name!r}"
        if producer is not None and dequantizes_weights(producer):
            raise Unfit(QUANTIZED, f"the weight is quantized, DequantizeLinear {producer.name!r} gives it: {LEFT}")
        raise Unfit("not-constant", f"both factors are computed: the second is {source}")
    return value, tuple(views)


def is_constant(value: onnx_ir.Value | None) -> bool:
    """Whether `value` is an initializer that no caller can override."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def constants_behind(value: onnx_ir.Value | None) -> list[onnx_ir.Value]:
    """The constants that `value` is, or is computed from, if nothing else goes into it; else none."""
    found: dict[onnx_ir.Value, None] = {}
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        seen.add(one)
        if is_constant(one):
            found[one] = None
        elif (producer := one.producer()) is None:
            return []
        else:
            waiting.extend(producer.inputs)
    return list(found)


def _bias(node: onnx_ir.Node) -> onnx_ir.Value | None:
    if node.op_type in ("Gemm", "Conv"):
        return node.inputs[2] if len(node.inputs) > 2 else None
    add = _following_add(node)
    if add is None:
        return None
    return add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]


def _following_add(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """The Add of a constant vector that alone reads the product."""
    output = node.outputs[0]
    readers = [use.node for use in output.uses()]
    if len(readers) != 1 or readers[0].op_type != "Add" or output.is_graph_output():
        return None
    other = [v for v in readers[0].inputs if v is not output]
    weight = node.inputs[1]
    if len(other) != 1 or not is_constant(other[0]) or other[0] is None or other[0].shape is None:
        return None
    out = None if weight is None or weight.shape is None else weight.shape[-1]
    return readers[0] if tuple(other[0].shape) == (out,) else None


def layer_of(nodes: list[onnx_ir.Node]) -> Layer:
    """The layer that nodes of one identity apply, in the order of the graph. Raises Unfit if they apply none."""
    first = nodes[0]
    weight, views = _constant(first)
    _check_readers(weight, nodes)
    assert weight.const_value is not None
    shape = weight.const_value.shape.numpy()
    stored = tuple(shape[axis] for axis in _order(views, len(shape)))
    bias = _bias(first)
    uses = tuple(Use(n, n.inputs[0], n.outputs[0]) for n in nodes if n.inputs[0] is not None)
    if weight.dtype is None or not weight.dtype.is_floating_point():
        raise Unfit("not-float", f"the weight is {weight.dtype}")
    if 0 in stored:
        raise Unfit("empty-weight", f"the weight has the shape {list(stored)}, and no elements")
    if first.op_type == "Conv":
        groups = integer(first, "group", 1)
        inputs = int(np.prod(stored[1:]))
        kernel = tuple(stored[2:])
        return Layer(
            str(first.name), "Conv", uses, weight, views, _vector(bias), groups, stored[0] // groups, inputs, kernel
        )
    if len(stored) != 2:
        raise Unfit("batched-weight", f"the weight has the shape {list(stored)}; a matrix is needed")
    if first.op_type == "Gemm" and not _plain(first):
        raise Unfit("scaled-gemm", "Gemm with transA, alpha or beta")
    out, inputs = stored if first.op_type == "Gemm" and integer(first, "transB", 0) else reversed(stored)
    if (
        first.op_type == "Gemm"
        and bias is not None
        and (bias.shape is None or bias.shape.numpy() not in ((out,), (1, out)))
    ):
        raise Unfit("wide-bias", f"the bias has the shape {bias.shape}; {[out]} is needed")
    return Layer(str(first.name), first.op_type, uses, weight, views, _vector(bias), 1, out, inputs)


def _vector(bias: onnx_ir.Value | None) -> onnx_ir.Value | None:
    if bias is not None and not is_constant(bias):
        raise Unfit("computed-bias", f"the bias {bias.name!r} is computed")
    return bias


def _plain(gemm: onnx_ir.Node) -> bool:
    scales = real(gemm, "alpha", 1.0), real(gemm, "beta", 1.0)
    return scales == (1.0, 1.0) and integer(gemm, "transA", 0) == 0


def _check_readers(weight: onnx_ir.Value, nodes: list[onnx_ir.Node]) -> None:
    """A weight that is read elsewhere as well would have to be kept beside its replacement."""
    readers = {end for use in weight.uses() for end in _ends(use.node)}
    others = readers - set(nodes)
    if weight.is_graph_output() or others:
        names = sorted(f"{n.op_type} {n.name!r}" for n in others) or ["the graph's outputs"]
        raise Unfit("tied-weight", f"the weight is read by {', '.join(names)} too")


def readers_of_weight(node: onnx_ir.Node) -> set[onnx_ir.Node]:
    """All nodes that read, behind views, what `node` reads as its weight, `node` itself among them."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    while value is not None and (view := value.producer()) is not None and view.op_type in VIEWS:
        value = view.inputs[0]
    return set() if value is None else {end for use in value.uses() for end in _ends(use.node)}


def _ends(reader: onnx_ir.Node) -> set[onnx_ir.Node]:
    """The nodes that read a weight behind its views, and the views that are outputs of the graph."""
    if reader.op_type not in VIEWS or reader.outputs[0].is_graph_output():
        return {reader}
    return {end for use in reader.outputs[0].uses() for end in _ends(use.node)}


def _order(views: tuple[onnx_ir.Node, ...], rank: int) -> tuple[int, ...]:
    """The axes of a constant of `rank` axes as they lie behind the views."""
    axes = np.arange(rank)
    for view in views:
        if view.op_type == "Transpose":
            axes = axes[permutation(view, rank)]
    return tuple(axes.tolist())


def permutation(transpose: onnx_ir.Node, rank: int) -> list[int]:
    """The axes of what a Transpose of `rank` axes reads, in the order in which it gives them."""
    attribute = transpose.attributes.get("perm")
    return list(range(rank))[::-1] if attribute is None else list(attribute.as_ints())
