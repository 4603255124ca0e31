"""Takes channels of a group out of a model: every piece of the group shrinks, and consumers get weights that make up
for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir

from ..dimensions import constant
from ..errors import GraphError, ShapeError
from ..layers import Layer, integer, permutation
from ..model.descriptions import inherit_weight
from ..model.names import Names
from ..name_index import NameIndex
from ..touched import Touched
from .groups import Group
from .pieces import Extent

SUFFIX = ".kept"
Compensation = tuple[np.ndarray, np.ndarray | None]


def remove(
    index: NameIndex,
    layers: Mapping[str, Layer],
    group: Group,
    keep: np.ndarray,
    consumers: Mapping[str, Compensation],
    names: Names,
    touched: Touched,
) -> None:
    """Changes the model so that only the channels `keep` (ascending) of `group` are left. The signature stays. `index`
    knows its nodes and values, `layers` its layers, at least the group's, `names` those in use; `touched` notes what
    changes.

    `consumers` gives layers that read the group their weights W [out, kept in] in float64 (`out` as it was before) and
    a bias [out], or None to leave the bias alone; a consumer without an entry only loses its columns. Weights are
    stored in the layout and type that they had. Equal constants stay one constant; a constant that others read as well
    is left to them.

    Raises ShapeError if `keep` or a weight doesn't fit, GraphError if a bias is given to a layer that can hold none.
    Both are raised before anything is changed.
    """
    _check(layers, group, keep, consumers)
    gone = np.delete(np.arange(group.channels), keep)
    work = _Removal(index, dict(layers), names, touched)
    for consumer in group.consumers:
        weight, bias = consumers.get(consumer.layer, (None, None))
        work.narrow(consumer.layer, consumer.columns[gone].ravel(), weight)
        if bias is not None:
            work.set_bias(consumer.layer, bias)
    for producer in group.producers:
        work.shorten(producer.layer, producer.rows[gone].ravel())
    for carrier in group.carriers:
        work.shorten(carrier.layer, carrier.rows[gone].ravel())
        work.regroup(carrier.layer, carrier.rows[gone].size // carrier.multiplier)
    for one in group.constants:
        work.slice_input(index.nodes[one.node], one.input, one.axis, one.index[gone].ravel())
    work.shrink_extents(group.extents, gone)
    work.shrink_shapes({r.value: (r.axis, r.index[gone].size) for r in group.resized})
    work.drop_unread()


def _check(layers: Mapping[str, Layer], group: Group, keep: np.ndarray, consumers: Mapping[str, Compensation]) -> None:
    if len(keep) == 0 or np.any(np.diff(keep) <= 0) or keep[0] < 0 or keep[-1] >= group.channels:
        raise ShapeError(
            f"group {group.name!r} has {group.channels} channels; kept ones must ascend and be at least one of them"
        )
    missing = [p.layer for p in (*group.producers, *group.consumers, *group.carriers) if p.layer not in layers]
    if missing:
        raise GraphError(f"group {group.name!r} is of another graph: no layer {missing[0]!r}; find the groups again")
    columns = {c.layer: c.columns for c in group.consumers}
    for name, (weight, bias) in consumers.items():
        if name not in columns:
            raise ShapeError(f"layer {name!r} does not read group {group.name!r}; it is read by {sorted(columns)}")
        layer = layers[name]
        expected = layer.out, layer.inputs - columns[name].size + columns[name][keep].size
        if weight.shape != expected or (bias is not None and bias.shape != (layer.out,)):
            raise ShapeError(
                f"layer {name!r} needs a weight of {list(expected)} and a bias of [{layer.out}]; it was given "
                f"{list(weight.shape)} and {None if bias is None else list(bias.shape)}"
            )
        if bias is not None and layer.bias is None and layer.op == "MatMul":
            raise GraphError(f"layer {name!r} is a MatMul without a bias; give it none")


@dataclass
class _Removal:
    """The model while it changes; `sliced` keeps one new constant for readers that need the same one."""

    index: NameIndex
    layers: dict[str, Layer]
    names: Names
    touched: Touched
    sliced: dict[tuple[str, int, bytes], onnx_ir.Value] = field(default_factory=dict)
    unread: dict[str, onnx_ir.Value] = field(default_factory=dict)

    def narrow(self, name: str, columns: np.ndarray, weight: np.ndarray | None) -> None:
        """The layer no longer reads `columns`; `weight` [out, kept in] is its new W, or what is left of the old one."""
        layer = self.layers[name]
        kept = np.delete(layer.matrix()[0], columns, axis=1) if weight is None else weight
        self._set_weight(layer, layer.laid_out(kept[None]), inputs=kept.shape[1])

    def shorten(self, name: str, rows: np.ndarray) -> None:
        """The layer no longer makes `rows` [groups * out] of its outputs; its own bias loses them as well."""
        layer = self.layers[name]
        axis = 0 if layer.outputs_first else 1
        kept = np.delete(layer.stored(), rows, axis=axis)
        if layer.depthwise:
            self._set_weight(layer, kept, groups=kept.shape[0] // layer.out)
        else:
            self._set_weight(layer, kept, out=kept.shape[axis])
        for use in layer.uses:
            if layer.op != "MatMul" and layer.bias is not None:
                self.slice_input(use.node, 2, -1, rows)

    def regroup(self, name: str, fewer: int) -> None:
        """A depthwise convolution reads `fewer` channels less."""
        for use in self.layers[name].uses:
            groups = integer(use.node, "group", 1) - fewer
            use.node.attributes["group"] = onnx_ir.AttrInt64("group", groups)
            self.touched.add([use.node])

    def slice_input(self, node: onnx_ir.Node, number: int, axis: int, positions: np.ndarray) -> None:
        """The constant that `node` reads as its input `number` loses `positions` along `axis`."""
        old = node.inputs[number]
        assert old is not None
        assert old.const_value is not None
        array = old.const_value.numpy()
        key = str(old.name), axis % array.ndim, np.sort(positions).tobytes()
        if key not in self.sliced:
            self.sliced[key] = self._like(old, np.delete(array, positions, axis=axis))
        self._read(node, number, self.sliced[key])

    def set_bias(self, name: str, bias: np.ndarray) -> None:
        """All uses of the layer add `bias` [out]."""
        layer = self.layers[name]
        if layer.bias is None:
            value = self._constant(f"{name}.bias", onnx_ir.val("", layer.dtype), bias)
        else:
            assert layer.bias.const_value is not None
            value = self._like(layer.bias, bias.reshape(layer.bias.const_value.shape.numpy()))
        for use in layer.uses:
            if layer.op == "MatMul":
                add = next(iter(use.output.uses())).node
                self._read(add, 0 if add.inputs[0] is layer.bias else 1, value)
                continue
            use.node.resize_inputs(3)
            self._read(use.node, 2, value)
        self.layers[name] = replace(layer, bias=value)

    def shrink_extents(self, extents: tuple[Extent, ...], gone: np.ndarray) -> None:
        """Sizes and bounds that count the channels fall by those that are gone."""
        for place in dict.fromkeys((e.node, e.input) for e in extents):
            here = [e for e in extents if (e.node, e.input) == place]
            node, number = self.index.nodes[place[0]], place[1]
            old = node.inputs[number] if len(node.inputs) > number else None
            known = constant(old)
            array = np.array(here[0].whole if known is None else known)
            for e in here:
                array.reshape(-1)[e.position] = e.value - e.sign * e.index[gone].size
            if old is None:
                self._write_sizes(node, array)
            else:
                self._read(node, number, self._like(old, array))

    def _write_sizes(self, split: onnx_ir.Node, sizes: np.ndarray) -> None:
        """A Split into equal parts gets its sizes, which are no longer equal by rule."""
        split.attributes.pop("num_outputs", None)
        split.resize_inputs(2)
        kind = onnx_ir.val("", onnx_ir.DataType.INT64)
        self._read(split, 1, self._constant(f"{split.name}.split", kind, sizes))

    def shrink_shapes(self, less: Mapping[str, tuple[int, int]]) -> None:
        """Values that are said to have a size get the new one."""
        for name, (axis, count) in less.items():
            value = self.index.values.get(name)
            if value is not None and value.shape is not None and isinstance(size := value.shape[axis], int):
                value.shape = onnx_ir.Shape([size - count if k == axis else d for k, d in enumerate(value.shape)])

    def drop_unread(self) -> None:
        """Replaced constants that nothing reads any more leave the graph."""
        for name, value in self.unread.items():
            if not value.uses() and not value.is_graph_output() and name in self.index.graph.initializers:
                del self.index.graph.initializers[name]
                self.names.values.release(name)

    def _set_weight(self, layer: Layer, stored: np.ndarray, **sizes: int) -> None:
        new = self._like(layer.weight, layer.unread(stored))
        for node, number in list(layer.weight.uses()):
            self._read(node, number, new)
        for use in layer.uses:
            _shape_views(use.node.inputs[1])
        self.layers[layer.name] = replace(layer, weight=new, **sizes)

    def _read(self, node: onnx_ir.Node, number: int, value: onnx_ir.Value) -> None:
        old = node.inputs[number]
        if old is not None:
            self.unread[str(old.name)] = old
        self.touched.add([node])
        node.replace_input_with(number, value)
        self.touched.add([node])

    def _like(self, old: onnx_ir.Value, array: np.ndarray) -> onnx_ir.Value:
        return self._constant(f"{str(old.name).split(SUFFIX)[0]}{SUFFIX}", old, array)

    def _constant(self, name: str, like: onnx_ir.Value | None, array: np.ndarray) -> onnx_ir.Value:
        """A new initializer, called `name` if nothing else is; its type is that of `like`."""
        assert like is not None
        assert like.dtype is not None
        free = self.names.values.fresh(name)
        tensor = onnx_ir.tensor(np.ascontiguousarray(array.astype(like.dtype.numpy())), dtype=like.dtype, name=free)
        value = onnx_ir.val(free, like.dtype, array.shape, const_value=tensor)
        self.index.graph.register_initializer(value)
        if like.const_value is not None:
            inherit_weight(value, like)
        return value


def _shape_views(value: onnx_ir.Value | None) -> tuple[int, ...]:
    """Sets the shapes of the views between a weight and its reader anew; returns that of `value`."""
    assert value is not None
    view = value.producer()
    if view is None:
        assert value.const_value is not None
        return tuple(value.const_value.shape.numpy())
    shape = _shape_views(view.inputs[0])
    if view.op_type == "Transpose":
        shape = tuple(shape[k] for k in permutation(view, len(shape)))
    value.shape = onnx_ir.Shape(shape)
    return shape
