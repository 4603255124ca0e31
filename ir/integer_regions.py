"""Where convolutions can hand on integers to each other: layers of a model in; regions of them, and the values between
them that are to be rounded, out.

ONNX Runtime runs a convolution on integers if what it reads and what it gives are rounded, the latter behind an
activation that only cuts off. Sums and pools between two such values then run on integers as well.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir

from .layers import Layer

CUTTING = ("Relu", "Clip")
SUMS = ("Add",)
JOINS = (*SUMS, "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu")
SPLIT = ("Split",)
SHAPING = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice")
"""These hand on integers as they are: what they give isn't rounded once more on another grid, or ONNX Runtime would run
them on floats. Parts of a value it wants to be rounded, on the grid of the whole."""
HANDING_ON = (*JOINS, *SPLIT, *SHAPING)


@dataclass(frozen=True)
class Region:
    """Layers, by name in the order of the graph, whose work is on integers if the `values` are rounded, and the other
    `nodes` that then run on integers too. `parts` are to be rounded on the grid of the value that they are cut from.

    `reading` are convolutions of no layer of the region that read what comes as integers, `giving` those that give one
    of the values. One that is both runs on integers, too, whatever is wanted: ONNX Runtime rounds its weights to
    nearest, by tensor, in 8 bits.
    """

    layers: tuple[str, ...]
    values: tuple[onnx_ir.Value, ...]
    nodes: tuple[onnx_ir.Node, ...]
    parts: Mapping[onnx_ir.Value, onnx_ir.Value] = field(default_factory=dict)
    reading: frozenset[onnx_ir.Node] = frozenset()
    giving: frozenset[onnx_ir.Node] = frozenset()


def integer_region(model: onnx_ir.Model, layers: Mapping[str, Layer]) -> Region:
    """What is rounded, and runs on integers, if the convolutions `layers`, by name, do.

    A sum is rounded if all that it adds is; other joins, and what only shapes, if a layer reads what they lead to.
    """
    by_node = {use.node: name for name, layer in layers.items() for use in layer.uses}
    wanted = _leading_to([use.input for layer in layers.values() for use in layer.uses])
    grid: dict[onnx_ir.Value, onnx_ir.Value] = {}  # of each value that comes as integers, the one whose grid it has
    nodes: list[onnx_ir.Node] = []
    for node in model.graph:
        read = _read(node)
        if node in by_node:
            grid.setdefault(read[0], read[0])
        elif node.op_type not in HANDING_ON or not grid.keys() >= set(read):
            continue
        behind = [tail(value) for value in node.outputs]
        if node not in by_node and node.op_type not in SUMS and wanted.isdisjoint(behind):
            continue
        nodes += [node, *_between(node, behind)]
        if node.op_type in (*SPLIT, *SHAPING):
            grid.update(dict.fromkeys(node.outputs, grid[read[0]]))
        for value in behind:
            grid.setdefault(value, value)
    names = dict.fromkeys(by_node[node] for node in nodes if node in by_node)
    values = tuple(value for value, whole in grid.items() if value is whole)
    parts = {value: whole for value, whole in grid.items() if _is_of(value.producer(), SPLIT)}
    reading = _convolutions((use.node for value in grid for use in value.uses()), by_node)
    giving = _convolutions(map(_source, values), by_node)
    return Region(tuple(names), values, tuple(nodes), parts, reading, giving)


def integer_regions(model: onnx_ir.Model, layers: Mapping[str, Layer]) -> list[Region]:
    """The regions that the convolutions among `layers` make, each of layers that read what others of it give."""
    usable = {name: layer for name, layer in layers.items() if _fits(layer)}
    whole = integer_region(model, usable)
    kept, root = set(whole.nodes), {node: node for node in whole.nodes}

    def find(node: onnx_ir.Node) -> onnx_ir.Node:
        while root[node] is not node:
            root[node] = node = root[root[node]]
        return node

    for node in whole.nodes:
        for value in node.outputs:
            for use in value.uses():
                if use.node in kept:
                    root[find(use.node)] = find(node)
    for value in whole.values:
        readers = [use.node for use in value.uses() if use.node in kept]
        for node in readers[1:]:
            root[find(node)] = find(readers[0])
    members: dict[onnx_ir.Node, dict[str, Layer]] = {}
    for name in whole.layers:
        members.setdefault(find(usable[name].uses[0].node), {})[name] = usable[name]
    return [integer_region(model, found) for found in members.values()]


def tail(value: onnx_ir.Value) -> onnx_ir.Value:
    """What becomes of a value in activations that cut off, as long as nothing else reads it."""
    while (reader := _sole_reader(value)) is not None and reader.op_type in CUTTING:
        value = reader.outputs[0]
    return value


def maker(value: onnx_ir.Value, layers: Mapping[onnx_ir.Node, str]) -> str | None:
    """The layer whose outputs' gradients are those of `value`: it gives it through sums, maxima and activations that
    cut off alone, and nothing else reads it on the way. `layers` are names by node."""
    node = value.producer()
    if node is None or node in layers:
        return None if node is None else layers[node]
    if node.op_type not in (*CUTTING, *SUMS, *SPLIT, *SHAPING):
        return None
    before = (maker(x, layers) for x in _read(node) if _sole_reader(x) is node)
    return next((name for name in before if name is not None), None)


def _fits(layer: Layer) -> bool:
    return layer.op == "Conv" and layer.dtype == layer.weight.dtype == onnx_ir.DataType.FLOAT


def _leading_to(values: list[onnx_ir.Value]) -> set[onnx_ir.Value]:
    """`values`, and what joins or shaping alone bring to them."""
    found, waiting = set(), list(values)
    while waiting:
        value = waiting.pop()
        if value in found:
            continue
        found.add(value)
        node = _source(value)
        if node is not None and node.op_type in HANDING_ON:
            waiting.extend(_read(node))
    return found


def _between(node: onnx_ir.Node, ends: list[onnx_ir.Value]) -> Iterator[onnx_ir.Node]:
    """The activations from `node` to `ends`."""
    for value, end in zip(node.outputs, ends, strict=True):
        while value is not end and (reader := _sole_reader(value)) is not None:
            yield reader
            value = reader.outputs[0]


def _read(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """What a node reads besides shapes: its first input, or all that it joins."""
    given = node.inputs if node.op_type in JOINS else node.inputs[:1]
    return [value for value in given if value is not None]


def _source(value: onnx_ir.Value) -> onnx_ir.Node | None:
    """What gives `value`, before activations that cut off."""
    node = value.producer()
    while node is not None and node.op_type in CUTTING:
        node = _only(node.inputs[0]).producer()
    return node


def _convolutions(nodes: Iterable[onnx_ir.Node | None], besides: Mapping[onnx_ir.Node, str]) -> frozenset[onnx_ir.Node]:
    return frozenset(node for node in nodes if node is not None and node.op_type == "Conv" and node not in besides)


def _is_of(node: onnx_ir.Node | None, operators: tuple[str, ...]) -> bool:
    return node is not None and node.op_type in operators


def _sole_reader(value: onnx_ir.Value) -> onnx_ir.Node | None:
    readers = {use.node for use in value.uses()}
    return next(iter(readers)) if len(readers) == 1 and not value.is_graph_output() else None


def _only(value: onnx_ir.Value | None) -> onnx_ir.Value:
    assert value is not None
    return value
