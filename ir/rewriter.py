"""The only writer of a graph: numbered rewrites in, a changed model and a log of them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir
from onnx_ir.convenience import replace_nodes_and_values
from onnx_ir.tape import Tape

from .analyses import Analyses
from .channels.groups import Group
from .channels.removal import remove
from .cleanup.clean import clean
from .errors import GraphError, ShapeError
from .forms import Chain, Factor, Form, Structure, typed
from .input_scales import join_scales
from .integers import Affine
from .layers import INTEGER_OPERATORS, OPERATORS, Layer, is_constant
from .model.descriptions import inherit, inherit_weight
from .model.names import Names
from .scaled_forms import Scaled
from .touched import Touched


@dataclass(frozen=True)
class Replaced:
    """A layer became a form; `parts` are the names of the layers that now stand for it, in the order of their
    application. `bias` [groups * out] took the place of the layer's, if there was a new one."""

    layer: str
    channels: int
    kernel: tuple[int, ...]
    form: Form
    parts: tuple[str, ...]
    bias: np.ndarray | None = None


@dataclass(frozen=True)
class Projected:
    """Layers that read one activation now read its projection `down` [1, rank, in]; `part` is the layer that
    projects. `biases` [out] took the place of those that layers had."""

    part: str
    down: np.ndarray
    ups: Mapping[str, np.ndarray]
    biases: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Redirected:
    """A layer became a form that reads what the layer `beside` reads; `parts` as in `Replaced`. `gone` are layers that
    nothing read any more, and which left the graph. `bias` [out] took the place of the layer's, if there was a new
    one."""

    layer: str
    beside: str
    form: Form
    parts: tuple[str, ...]
    gone: tuple[str, ...] = ()
    bias: np.ndarray | None = None


@dataclass(frozen=True)
class Removed:
    """Channels of a group were removed; `keep` are those that stay, ascending. `consumers` gives the weights
    [out, kept in] and the bias, if a new one, of the layers that read them."""

    group: Group
    keep: np.ndarray
    consumers: Mapping[str, tuple[np.ndarray, np.ndarray | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cleaned:
    """The whole graph went through the lossless clean-up; names may have changed."""


@dataclass(frozen=True)
class Tuned:
    """Constants got new values; all else is as it was."""

    weights: tuple[str, ...]


@dataclass(frozen=True)
class Quantized:
    """Values, by name, became integers and floats again: all that reads them reads them rounded."""

    values: Mapping[str, Affine]


Rewrite = Replaced | Projected | Redirected | Removed | Quantized | Cleaned | Tuned


class Rewriter:
    """Changes one model. Each call is one rewrite; from the `limit`-th on, calls change nothing (for bisection)."""

    def __init__(self, model: onnx_ir.Model, limit: int | None = None):
        self.model = model
        self.limit = limit
        self.log: list[Rewrite] = []
        self._analyses = Analyses(model)
        self._names = Names(model)
        self._touched = Touched()

    @property
    def analyses(self) -> Analyses:
        """What is known of the model as it is now."""
        return self._analyses

    def replace(self, layer: Layer, form: Form, bias: np.ndarray | None = None) -> None:
        """Every node of `layer` runs as `form`; `bias` [groups * out] takes the place of the layer's bias, if any.

        Raises ShapeError if the form's matrix is not the layer's shape, or a bias is given to a layer that has no place
        for one.
        """
        _check_fit(layer, layer.inputs, form, bias)
        if self._admits():
            parts = self._run_as(layer, form, bias)
            if isinstance(form.structure, Scaled):
                for value in dict.fromkeys(use.input for use in layer.uses):
                    join_scales(self.model.graph, value, self._names, self._touched)
            self._record(Replaced(layer.name, layer.channels, layer.kernel, form, parts, bias))

    def redirect(self, layer: Layer, beside: Layer, form: Form, bias: np.ndarray | None = None) -> None:
        """`layer` reads what `beside` reads, and runs as `form` [1, out, inputs of `beside`]; `bias` [out] as in
        `replace`. Nodes that nothing reads any more leave the graph: so two layers, one behind the other, become one.

        Raises ShapeError if the form doesn't fit, GraphError if the two are no matrix products of one node each, or
        `beside` is not on the way to `layer`.
        """
        _check_fit(layer, beside.inputs, form, bias)
        if "Conv" in (layer.op, beside.op) or len(layer.uses) + len(beside.uses) > 2:
            raise GraphError(f"{layer.name!r} and {beside.name!r}: only matrix products of one node can be redirected")
        (use,), (other,) = layer.uses, beside.uses
        if not _leads_to(other.node, use.input):
            raise GraphError(f"{layer.name!r} doesn't depend on {beside.name!r}: what that reads may not be there yet")
        if not self._admits():
            return
        self._touched.add([use.node])
        use.node.replace_input_with(0, other.input)
        parts = self._run_as(layer, form, bias)
        gone = self._drop_unread(use.input)
        self._record(Redirected(layer.name, beside.name, form, parts, gone, bias))

    def project(
        self,
        layers: tuple[Layer, ...],
        down: np.ndarray,
        ups: Mapping[str, np.ndarray],
        biases: Mapping[str, np.ndarray],
    ) -> None:
        """One product by `down` [rank, in] before all `layers`, which read the same value; each keeps `ups[name]`
        [out, rank]. `biases` [out] take the place of those that layers have.

        Raises ShapeError if the layers don't read one value.
        """
        sources = {id(use.input) for layer in layers for use in layer.uses}
        if len(sources) != 1 or any(layer.op == "Conv" for layer in layers):
            raise ShapeError(f"layers {[x.name for x in layers]} don't read the same vector")
        if not self._admits():
            return
        first = layers[0].uses[0]
        structure = Chain(layers[0].op, (Factor(1, *down.shape),))
        part = f"{layers[0].name}.projection"
        tape = Tape()
        weight = self._initializer(structure.stored((down[None],))[0], f"{part}.weight", layers[0].dtype)
        projected = structure.emit(tape, first.input, (weight,), None, part)
        (part,) = self._named(tape.nodes, part)
        self.model.graph.insert_before(first.node, list(tape.nodes))
        self._touched.add(tape.nodes)
        for layer in layers:
            if layer.name in biases:
                self._set_bias(layer, biases[layer.name])
            narrow = Chain(layer.op, (Factor(1, layer.out, down.shape[0]),))
            constants = self._constants(layer, narrow.stored((ups[layer.name][None],)))
            for use in layer.uses:
                self._touched.add([use.node])
                use.node.replace_input_with(0, projected)
                self._replace_node(use.node, narrow, constants)
            self._drop(layer)
        self._record(Projected(part, down[None], {n: up[None] for n, up in ups.items()}, biases))

    def remove(
        self, group: Group, keep: np.ndarray, consumers: Mapping[str, tuple[np.ndarray, np.ndarray | None]]
    ) -> None:
        """The channels of `group` that are not in `keep` go; `consumers` gives the weights [out, kept in] and the
        bias that the consumers have afterwards."""
        if not self._admits():
            return
        index, layers = self._analyses.names, self._layers_of(group)
        remove(index, layers, group, keep, consumers, self._names, self._touched)
        self._record(Removed(group, keep, consumers))

    def _layers_of(self, group: Group) -> dict[str, Layer]:
        names = dict.fromkeys(p.layer for p in (*group.producers, *group.consumers, *group.carriers))
        known = {name: self._analyses.find(name) for name in names}
        return {name: layer for name, layer in known.items() if layer is not None}

    def quantize(self, values: Mapping[str, Affine]) -> None:
        """Everything that reads one of `values`, by name, reads it as unsigned integers of 8 bits made floats again
        (QuantizeLinear, DequantizeLinear), which ONNX Runtime fuses into the operators around.

        Raises GraphError for a value that isn't there.
        """
        known = {str(value.name): value for value in self.model.graph.inputs} | self._analyses.names.values
        missing = sorted(values.keys() - known.keys())
        if missing:
            raise GraphError(f"there is no value {missing[0]!r} that could be rounded")
        if not self._admits():
            return
        for name, affine in values.items():
            self._round(known[name], affine)
        self._record(Quantized(dict(values)))

    def _round(self, value: onnx_ir.Value, affine: Affine) -> None:
        name, producer, readers = str(value.name), value.producer(), list(value.uses())
        step = self._initializer(np.array(affine.step), f"{name}.step", value.dtype)
        zero = self._initializer(np.array(affine.zero), f"{name}.zero", onnx_ir.DataType.UINT8)
        tape = Tape()
        codes = tape.op("QuantizeLinear", [value, step, zero], name=f"{name}.quantize")
        rounded = tape.op("DequantizeLinear", [codes, step, zero], name=f"{name}.dequantize")
        codes.type, codes.shape = onnx_ir.TensorType(onnx_ir.DataType.UINT8), value.shape
        rounded.type, rounded.shape = value.type, value.shape
        self._named(tape.nodes, name)
        if value.is_graph_output() and not value.is_graph_input():
            self._give_in_place_of(value, rounded)
        self._touched.add([use.node for use in readers])
        for use in readers:
            use.node.replace_input_with(use.idx, rounded)
        if producer is None:
            self.model.graph.insert_before(self.model.graph[0], list(tape.nodes))
        else:
            self.model.graph.insert_after(producer, list(tape.nodes))
        self._touched.add([*tape.nodes, *(use.node for use in readers)])

    def _give_in_place_of(self, value: onnx_ir.Value, rounded: onnx_ir.Value) -> None:
        """`rounded` becomes the output of the graph that `value` was, under its name."""
        name = value.name
        value.name, rounded.name = self._names.values.fresh(f"{name}.exact"), name
        outputs = self.model.graph.outputs
        for k, output in enumerate(list(outputs)):
            if output is value:
                outputs[k] = rounded

    def clean(self) -> None:
        """The lossless clean-up of the whole graph; `model` may be another object afterwards."""
        if self._admits():
            self.model = clean(self.model)
            self._names = Names(self.model)
            self._record(Cleaned())

    def tune(self, weights: Mapping[str, np.ndarray]) -> None:
        """New values for constants, by name; types and shapes stay, and so do all who read them.

        Raises ShapeError for a constant that isn't there or has another shape.
        """
        for name, array in weights.items():
            known = self.model.graph.initializers.get(name)
            shape = None if known is None or known.const_value is None else tuple(known.const_value.shape.numpy())
            if shape != array.shape:
                raise ShapeError(f"the constant {name!r} is {shape or 'missing'}, its new value {array.shape}")
        if not self._admits():
            return
        for name, array in weights.items():
            value = self.model.graph.initializers[name]
            assert value.dtype is not None
            tensor = onnx_ir.tensor(np.ascontiguousarray(array).astype(value.dtype.numpy()), name=name)
            value.const_value = tensor if value.const_value is None else inherit(tensor, value.const_value)
        self._record(Tuned(tuple(weights)))

    def _admits(self) -> bool:
        return self.limit is None or len(self.log) < self.limit

    def _record(self, rewrite: Rewrite) -> None:
        self.log.append(rewrite)
        whole = isinstance(rewrite, Cleaned | Tuned)
        self._analyses = Analyses(self.model) if whole else self._analyses.renewed(self._touched)
        self._touched = Touched()

    def _run_as(self, layer: Layer, form: Form, bias: np.ndarray | None) -> tuple[str, ...]:
        """Every node of `layer` runs as `form`; returns the linear nodes that the first one became."""
        if bias is not None:
            self._set_bias(layer, bias)
        weights = self._constants(layer, form.stored())
        parts = [self._replace_node(use.node, form.structure, weights) for use in layer.uses]
        self._drop(layer)
        return parts[0]

    def _drop_unread(self, value: onnx_ir.Value) -> tuple[str, ...]:
        """Removes what computes `value` as far as nothing else reads it; returns the names of the layers among it."""
        gone: list[str] = []
        waiting = [value]
        while waiting:
            node = waiting.pop().producer()
            if (
                node is None
                or node.graph is not self.model.graph
                or any(v.uses() or v.is_graph_output() for v in node.outputs)
            ):
                continue
            read = [v for v in node.inputs if v is not None]
            gone.extend([str(node.name)] if self._analyses.find(str(node.name)) else [])
            self._touched.add([node])
            self.model.graph.remove(node, safe=True)
            self._names.nodes.release(node.name)
            for output in node.outputs:
                self._names.values.release(output.name)
            for constant in filter(is_constant, read):
                self._drop_constant(constant)
            waiting.extend(read)
        return tuple(gone)

    def _replace_node(
        self, node: onnx_ir.Node, structure: Structure, weights: tuple[onnx_ir.Value, ...]
    ) -> tuple[str, ...]:
        """Runs `node` as `structure`; returns the names of the linear nodes that do, in their order."""
        tape = Tape()
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        x, old = node.inputs[1 if node.op_type == "Gather" else 0], node.outputs[0]
        assert x is not None
        y = structure.emit(tape, x, weights, bias, str(node.name))
        y.shape, y.type = old.shape, old.type
        inherit(y, old)
        inherit(tape.nodes[0], node)
        for value in tape.initializers:
            value.name = self._names.values.fresh(str(value.name))
            self.model.graph.register_initializer(value)
        self._names.nodes.release(node.name)
        parts = self._named(tape.nodes, str(node.name))
        self._touched.add([node])
        replace_nodes_and_values(self.model.graph, node, [node], tape.nodes, [old], [y])
        self._touched.add([*tape.nodes, *(use.node for use in y.uses())])
        return parts

    def _named(self, nodes: Sequence[onnx_ir.Node], stem: str) -> tuple[str, ...]:
        """Gives new nodes and their outputs names that nothing else has; returns those of the linear ones."""
        for node in nodes:
            node.name = self._names.nodes.fresh(node.name or f"{stem}.{node.op_type}")
            for y in node.outputs:
                y.name = self._names.values.numbered("val_") if y.name is None else self._names.values.fresh(y.name)
        return tuple(str(node.name) for node in nodes if node.op_type in (*OPERATORS, *INTEGER_OPERATORS))

    def _constants(self, layer: Layer, arrays: tuple[np.ndarray, ...]) -> tuple[onnx_ir.Value, ...]:
        assert layer.dtype is not None
        name, kept = layer.weight.name, [typed(array, layer.dtype) for array in arrays]
        types = [onnx_ir.DataType.from_numpy(array.dtype) for array in kept]
        made = [self._initializer(a, f"{name}.{k}", t) for k, (a, t) in enumerate(zip(kept, types, strict=True))]
        for value in made:
            inherit_weight(value, layer.weight)
        return tuple(made)

    def _initializer(self, array: np.ndarray, name: str, dtype: onnx_ir.DataType | None) -> onnx_ir.Value:
        assert dtype is not None
        name = self._names.values.fresh(name)
        tensor = onnx_ir.tensor(array.astype(dtype.numpy(), order="C"), name=name)
        value = onnx_ir.val(name, dtype, array.shape, const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def _set_bias(self, layer: Layer, bias: np.ndarray) -> None:
        old = layer.bias
        if old is None or old.const_value is None:
            new = self._initializer(bias, f"{layer.name}.bias", layer.dtype)
            for use in layer.uses:
                use.node.resize_inputs(3)
                use.node.replace_input_with(2, new)
                self._touched.add([use.node])
            return
        new = self._initializer(bias.reshape(old.const_value.shape.numpy()), f"{old.name}.shifted", old.dtype)
        inherit_weight(new, old)
        for use in layer.uses:
            reader = use.node if len(use.node.inputs) > 2 else next(iter(use.output.uses())).node
            self._touched.add([reader])
            reader.replace_input_with(list(reader.inputs).index(old), new)
            self._touched.add([reader])
        self._drop_constant(old)

    def _drop(self, layer: Layer) -> None:
        """Removes the layer's weight and the views of it that nothing reads any more."""
        for view in reversed(layer.views):
            if not view.outputs[0].uses():
                self._touched.add([view])
                self.model.graph.remove(view, safe=True)
                self._names.nodes.release(view.name)
                self._names.values.release(view.outputs[0].name)
        self._drop_constant(layer.weight)

    def _drop_constant(self, value: onnx_ir.Value) -> None:
        if value.name is not None and not value.uses() and not value.is_graph_output():
            del self.model.graph.initializers[value.name]
            self._names.values.release(value.name)


def _check_fit(layer: Layer, inputs: int, form: Form, bias: np.ndarray | None) -> None:
    expected, shape = (layer.groups, layer.out, inputs), form.dense().shape
    if shape != expected:
        raise ShapeError(f"layer {layer.name!r} is {list(expected)}; the form is {list(shape)}")
    if bias is not None and not layer.absorbs:
        raise ShapeError(f"layer {layer.name!r} has no bias that could be set")


def _leads_to(node: onnx_ir.Node, value: onnx_ir.Value) -> bool:
    """Whether `value` is computed from what `node` gives."""
    waiting, seen = [value], {value}
    while waiting:
        producer = waiting.pop().producer()
        if producer is node:
            return True
        new = {v for v in ([] if producer is None else producer.inputs) if v is not None} - seen
        seen |= new
        waiting.extend(new)
    return False
