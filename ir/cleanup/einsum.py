"""Einsum as MatMul: a model in, the same model out, with its products of matrices as operators that runtimes do best
and that analyses see as layers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import onnx_ir
from onnx_ir.convenience import get_const_tensor, replace_nodes_and_values

from ..dimensions import Dim, dims
from ..model.names import Names
from ..model.shape_inference import infer_shapes
from .axis_layout import Groups, Layout, Writer
from .constant_folding import CASTS, LAYOUT

OPSET = 13
"""The first whose ReduceSum, Squeeze and Unsqueeze read their axes from an input."""

FLOATS = frozenset({onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE, onnx_ir.DataType.FLOAT16})
PRODUCTS = ("MatMul", "Mul")
DOTS = "..."


def contract(model: onnx_ir.Model) -> onnx_ir.Model:
    """Writes Einsum nodes of the main graph as MatMul, or Mul where nothing is summed, with the Transpose, Reshape,
    Squeeze, Unsqueeze and ReduceSum that they need; works in place. Results change by rounding at most.

    Only floats and one or two operands. A node stays if an operand repeats a label, if a size that would have to be
    written down is not known, if the sizes of a label that is summed are not surely equal (Einsum repeats a size of 1,
    MatMul doesn't), or if a constant that others read too would be needed in another layout. All behind a node that
    stays and surely repeats a size of 1 stay as well, for their sizes are not known.
    """
    if model.opset_imports.get("", 0) < OPSET or not _einsums(model.graph):
        return model
    names = Names(model)
    while sum(_rewrite(node, model.graph, names) for node in _known(_einsums(infer_shapes(model).graph))):
        pass  # what took the place of a node tells shapes
    return model


def _einsums(graph: onnx_ir.Graph) -> list[onnx_ir.Node]:
    return [node for node in graph if node.op_type == "Einsum" and node.domain in ("", "ai.onnx")]


def _known(einsums: list[onnx_ir.Node]) -> Iterator[onnx_ir.Node]:
    """The nodes up to the first that repeats a size of 1: onnx infers 1 for its result, and so on from there."""
    for node in einsums:
        last = _repeats(node)
        yield node
        if last:
            return


def _repeats(node: onnx_ir.Node) -> bool:
    values = [value for value in node.inputs if value is not None]
    shapes = [(dims(value) or ()) for value in values]
    axes, _ = labels(_equation(node), [len(shape) for shape in shapes]) or ([], "")
    sizes = {pair for own, shape in zip(axes, shapes, strict=False) for pair in zip(own, shape, strict=True)}
    return any((label, 1) in sizes and size != 1 for label, size in sizes)


def _equation(node: onnx_ir.Node) -> str:
    return node.attributes.get_string("equation", "") or ""


@dataclass(frozen=True)
class Term:
    """An operand: its axes and their sizes, and the labels that remain when those of no one else are summed."""

    value: onnx_ir.Value
    axes: str
    labels: str
    sizes: Mapping[str, Dim]

    def summed(self, writer: Writer) -> onnx_ir.Value:
        axes = [axis for axis, label in enumerate(self.axes) if label not in self.labels]
        return writer.op("ReduceSum", self.value, writer.integers(axes, "axes"), keepdims=0) if axes else self.value

    def layout(self, groups: Groups) -> Layout:
        return Layout(self.labels, groups, self.sizes)

    def admits(self, layout: Layout) -> bool:
        """A constant is laid out ahead of time, which makes another of it, and sums are not computed ahead."""
        if not layout.is_possible(tuple(layout.order), layout.groups):
            return False
        changes = layout.transposes or layout.regroups
        return not is_weight(self.value) or (self.axes == self.labels and not (changes and _is_shared(self.value)))


def is_weight(value: onnx_ir.Value) -> bool:
    """Whether `value` is a constant, or one behind nodes that are computed ahead of time."""
    if value.is_graph_input():
        return False
    if get_const_tensor(value) is not None:
        return True
    source = _source(value)
    return source is not None and is_weight(source)


def _source(value: onnx_ir.Value) -> onnx_ir.Value | None:
    """What a node that only moves or casts makes `value` of."""
    node = value.producer()
    return node.inputs[0] if node is not None and not node.domain and node.op_type in LAYOUT | CASTS else None


def _is_shared(weight: onnx_ir.Value) -> bool:
    if len(weight.uses()) > 1 or weight.is_graph_output():
        return True
    source = _source(weight)
    return source is not None and _is_shared(source)


@dataclass(frozen=True)
class MatrixProduct:
    """Two operands laid out for the operator `op_type`, and the result as it comes out of it."""

    op_type: str
    terms: tuple[Term, Term]
    layouts: tuple[Layout, Layout]
    result: Layout

    @property
    def is_possible(self) -> bool:
        splits = self.result.is_possible(self.result.groups, tuple(self.result.order))
        return splits and all(term.admits(layout) for term, layout in zip(self.terms, self.layouts, strict=True))

    @property
    def cost(self) -> tuple[int, int]:
        """How many Transposes and how many other changes of layout are done at run time."""
        pairs = zip(self.terms, self.layouts, strict=True)
        layouts = [self.result, *(layout for term, layout in pairs if not is_weight(term.value))]
        return sum(layout.transposes for layout in layouts), sum(layout.regroups for layout in layouts)

    def write(self, writer: Writer) -> onnx_ir.Value:
        pairs = zip(self.terms, self.layouts, strict=True)
        operands = [layout.merged(writer, term.summed(writer)) for term, layout in pairs]
        return self.result.split(writer, writer.op(self.op_type, *operands))


@dataclass(frozen=True)
class Move:
    """One operand, summed and transposed."""

    term: Term
    layout: Layout

    @property
    def is_possible(self) -> bool:
        return self.term.admits(self.layout)

    @property
    def cost(self) -> tuple[int, int]:
        return int(self.layout.transposes), 0

    def write(self, writer: Writer) -> onnx_ir.Value:
        return self.layout.merged(writer, self.term.summed(writer))


def _rewrite(node: onnx_ir.Node, graph: onnx_ir.Graph, names: Names) -> bool:
    """Puts the cheapest way to compute the node in its place. False if there is none."""
    plan = min((plan for plan in plans(node) if plan.is_possible), key=lambda plan: plan.cost, default=None)
    if plan is None or ([dims(value) for value in node.outputs] == [()] and len(node.inputs) == 2):
        return False  # the scalar product of two arrays would take more nodes than it saves
    old = node.outputs[0]
    writer = Writer(node.name or str(old.name), names)
    y = plan.write(writer)
    if not writer.nodes:
        y = writer.op("Identity", y)
    main = [n for n in writer.nodes if n.op_type in PRODUCTS] or writer.nodes[-1:]
    main[0].name = node.name
    for value in writer.constants:
        graph.register_initializer(value)
    replace_nodes_and_values(graph, node, [node], writer.nodes, [old], [y])
    return True


def plans(node: onnx_ir.Node) -> Iterator[MatrixProduct | Move]:
    """The ways to compute an Einsum that differ in layout; some may not be possible."""
    values = [value for value in node.inputs if value is not None]
    shapes = [(dims(value) or ()) for value in values]
    axes, result = labels(_equation(node), [len(shape) for shape in shapes]) or ([], "")
    if not _is_plain(values, shapes) or not _is_contraction(axes, result):
        return
    read = result + "".join(label for label in "".join(axes) if "".join(axes).count(label) > 1)
    terms = [
        Term(value, own, _only(own, read), dict(zip(own, shape, strict=True)))
        for value, own, shape in zip(values, axes, shapes, strict=True)
    ]
    if len(terms) == 1:
        yield Move(terms[0], terms[0].layout(tuple(result)))
    else:
        yield from _products(terms[0], terms[1], result)


def _is_plain(values: Sequence[onnx_ir.Value], shapes: Sequence[Sequence[Dim]]) -> bool:
    """One or two arrays of the same floating type and known rank that are not surely empty."""
    dtypes = {value.dtype for value in values}
    known = all(value.shape is not None for value in values) and not any(0 in shape for shape in shapes)
    return len(values) in (1, 2) and len(dtypes) == 1 and dtypes <= FLOATS and known


def labels(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """The labels of the axes of each operand and of the result, with digits for the axes of an ellipsis; None if
    the equation doesn't fit the ranks, or leaves the order of the result to the runtime.
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks) or (not arrow and left != left.lower()):
        return None
    if not arrow:
        result = DOTS * (DOTS in left) + "".join(sorted(x for x in set(left) - set(",.") if left.count(x) == 1))
    if (DOTS in left) != (DOTS in result):
        return None
    widths = {rank - len(term.replace(DOTS, "")) for term, rank in zip(terms, ranks, strict=True) if DOTS in term}
    dots = "".join(map(str, range(max(widths, default=0))))
    expanded = [term.replace(DOTS, dots) for term in terms]
    if len(widths) > 1 or list(map(len, expanded)) != list(ranks):
        return None
    return expanded, result.replace(DOTS, dots)


def _is_contraction(terms: Sequence[str], result: str) -> bool:
    """At least one operand, no label twice in one or in the result, and none in the result that no operand has."""
    alone = all(len(set(some)) == len(some) and (not some or some.isalnum()) for some in (*terms, result))
    return len(terms) > 0 and alone and set(result) <= set("".join(terms))


def _only(labels: str, wanted: Iterable[str]) -> str:
    return "".join(label for label in labels if label in set(wanted))


def _products(a: Term, b: Term, result: str) -> Iterator[MatrixProduct]:
    """A constant is only ever the second operand, as in a layer."""
    contracted = set(a.labels) & set(b.labels) - set(result)
    if any(a.sizes[label] is None or a.sizes[label] != b.sizes[label] for label in contracted):
        return
    for left, right in ((a, b), (b, a)):
        if is_weight(left.value):
            continue
        if contracted:
            yield from _matrix_products(left, right, result)
        else:
            yield _elementwise(left, right, result)


def _elementwise(left: Term, right: Term, result: str) -> MatrixProduct:
    layouts = [term.layout(_aligned(term.labels, result)) for term in (left, right)]
    return MatrixProduct("Mul", (left, right), (layouts[0], layouts[1]), Layout(result, tuple(result), {}))


def _aligned(labels: str, result: str) -> Groups:
    """One axis for each of the result from the first that the operand has."""
    axes = [label if label in labels else "" for label in result]
    return tuple(axes[next((i for i, label in enumerate(axes) if label), len(axes)) :])


def _matrix_products(left: Term, right: Term, result: str) -> Iterator[MatrixProduct]:
    """[batch..., rows, contracted] x [batch..., contracted, columns], in every order that one of the three has."""
    both = set(left.labels) & set(right.labels)
    sizes = {x: _broadcast(left.sizes.get(x, 1), right.sizes.get(x, 1)) for x in result}
    for batch, rows, inner, columns in product(
        _orders(both & set(result), left.labels, right.labels, result),
        _orders(set(left.labels) - both, left.labels, result),
        _orders(both - set(result), left.labels, right.labels),
        _orders(set(right.labels) - both, right.labels, result),
    ):
        leading = (*batch, rows) if batch or not rows else tuple(rows)
        layouts = left.layout((*leading, inner)), right.layout((*batch, inner, columns))
        yield MatrixProduct("MatMul", (left, right), layouts, Layout(result, (*leading, columns), sizes))


def _orders(some: set[str], *terms: str) -> Iterable[str]:
    return dict.fromkeys(_only(term, some) for term in terms)


def _broadcast(a: Dim, b: Dim) -> Dim:
    """The size of an axis of the product of two arrays, in which a size of 1 is repeated."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    return next((size for size in (a, b) if isinstance(size, int)), None)
