"""The statistics graphs: a model in, the same model with sums of second moments as its outputs out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from ..ir.autodiff import gradients
from ..ir.heads import Head
from ..ir.layers import Layer, Layers, Use, find_layers
from ..ir.model import clone
from ..ir.remarks import ANALYSIS, Remark
from .moments import Want

PROBES = 8
T = TypeVar("T")
FLOAT, INT64 = onnx_ir.DataType.FLOAT, onnx_ir.DataType.INT64


@dataclass(frozen=True)
class Sums:
    """Names of the outputs of a statistics graph that belong to one node of a layer.

    `second` [groups, d, d] and `first` [groups, d] are summed over samples and positions, `count` is how many those
    are.
    """

    second: str
    first: str
    count: str


@dataclass(frozen=True)
class GradientSums:
    """As `Sums`, for the gradients at the outputs of the nodes of a layer that share the axis of samples.

    `trace` is the sum over samples of the squared norm of the weight's gradient, to which all these nodes add before
    it is squared; `energy` is the sum over samples and positions of the squared norm of the inputs. Both are estimated
    with the same random probes.
    """

    second: str
    count: str
    trace: str
    energy: str


@dataclass(frozen=True)
class ForwardGraph:
    """Moments of what layers read (`inputs`) or give (`outputs`); `probes` names the sums over samples and positions of
    each layer's inputs times the random probes; for every head there is the shape of its distribution, and for the
    gaussian ones the sum of their squares."""

    model: onnx_ir.Model
    inputs: Mapping[str, tuple[Sums, ...]]
    outputs: Mapping[str, tuple[Sums, ...]]
    probes: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, str]
    squares: Mapping[str, str]


@dataclass(frozen=True)
class GradientGraph:
    """Moments of gradients by layer. `seeds` maps each head to the graph input for its random vector, to be drawn in
    the shape of the head; `blocked` gives the reason for every layer without a gradient."""

    model: onnx_ir.Model
    sums: Mapping[str, tuple[GradientSums, ...]]
    seeds: Mapping[str, str]
    scales: Mapping[str, str]
    blocked: tuple[Remark, ...]


def forward_graph(model: onnx_ir.Model, wants: Iterable[Want], heads: Sequence[Head]) -> ForwardGraph:
    """The graph that sums A (or the outputs' moments) for all `wants`; layers that read the same patches share the
    sums."""
    work = _Work(clone(model))
    inputs: dict[str, tuple[Sums, ...]] = {}
    outputs: dict[str, tuple[Sums, ...]] = {}
    probes: dict[str, tuple[str, ...]] = {}
    for want in wants:
        layer = work.layers.found[want.layer]
        probes[layer.name] = tuple(work.probe_sums(layer, use) for use in layer.uses)
        if want.inputs:
            inputs[layer.name] = tuple(work.input_sums(layer, use) for use in layer.uses)
        else:
            outputs[layer.name] = tuple(work.value_sums(layer, use.output) for use in layer.uses)
    squares = {h.output: work.sum_of_squares(h.output) for h in heads if h.kind == "gaussian"}
    shapes = {h.output: work.output(work.op("Shape", [work.distribution(h)]), INT64) for h in heads}
    return ForwardGraph(work.finish(), inputs, outputs, probes, shapes, squares)


def gradient_graph(
    model: onnx_ir.Model,
    names: Iterable[str],
    heads: Sequence[Head],
    temperature: float,
    offsets: Mapping[str, np.ndarray],
) -> GradientGraph:
    """The graph that back-propagates one random vector per sample and head and sums G for the layers `names`.

    `offsets` [groups * PROBES] is subtracted from the probed inputs of the layers that it names: their means, where a
    bias takes up the mean of a change.

    A categorical head gets S e with S S^T = diag(p) - p p^T, p = softmax(logits / temperature), and is divided by the
    root of its number of positions, so that the loss is the mean over them; a gaussian head gets its scale times e
    (math: docs/mathematics.md).
    """
    work = _Work(clone(model))
    layers = [work.layers.found[name] for name in names]
    seeds: dict[onnx_ir.Value, onnx_ir.Value] = {}
    draws: dict[str, str] = {}
    scales: dict[str, str] = {}
    for head in heads:
        value = work.distribution(head)
        draw, scale = work.input(f"{head.output}.draw", value.shape), work.input(f"{head.output}.scale", [])
        draws[head.output], scales[head.output] = draw.name or "", scale.name or ""
        seed = work.categorical_seed(value, draw, temperature) if head.kind == "categorical" else draw
        seeds[value] = work.op("Mul", [work.cast_like(seed, value), work.cast_like(scale, value)])
    work.flush()
    wanted = [use.output for layer in layers for use in layer.uses]
    result = gradients(work.model, seeds, wanted)
    sums: dict[str, tuple[GradientSums, ...]] = {}
    blocked: list[Remark] = []
    for layer in layers:
        reasons = [str(result.blocked[u.output]) for u in layer.uses if u.output in result.blocked]
        if reasons:
            blocked.append(Remark(layer.name, "curvature", ANALYSIS, "no-gradient", reasons[0]))
            continue
        offset = offsets.get(layer.name, np.zeros(layer.groups * PROBES))
        sums[layer.name] = tuple(
            work.gradient_sums(layer, uses, result.values, offset) for uses in _by_samples(layer.uses)
        )
    return GradientGraph(work.finish(), sums, draws, scales, tuple(blocked))


def _by_samples(uses: Iterable[Use]) -> Iterable[list[Use]]:
    """The uses whose outputs are known to have the same first axis, together."""
    found: dict[object, list[Use]] = {}
    for use in uses:
        shape = use.output.shape
        first = shape[0] if shape else None
        if isinstance(first, onnx_ir.SymbolicDim):
            first = first.value
        found.setdefault(use.output if first is None else first, []).append(use)
    return found.values()


class _Work:
    """A clone under construction: appends nodes and outputs."""

    def __init__(self, model: onnx_ir.Model):
        self.model = model
        self.layers: Layers = find_layers(model)
        self.tape = Tape()
        self.added: list[onnx_ir.Value] = []
        self._shared: dict[tuple, Any] = {}
        self._constants = 0

    def op(self, op_type: str, inputs: Sequence[onnx_ir.Value | None], **attributes) -> onnx_ir.Value:
        return self.tape.op(op_type, inputs, attributes)

    def constant(self, array: np.ndarray) -> onnx_ir.Value:
        self._constants += 1
        return self.tape.initializer(onnx_ir.tensor(array), f"kronnx.constant.{self._constants}")

    def input(self, name: str, shape: onnx_ir.Shape | Sequence[int] | None) -> onnx_ir.Value:
        value = onnx_ir.val(f"kronnx.{name}", FLOAT, shape)
        self.model.graph.inputs.append(value)
        return value

    def output(self, value: onnx_ir.Value, dtype: onnx_ir.DataType = FLOAT) -> str:
        """Makes `value` an output and gives its name."""
        name = f"kronnx.{len(self.added)}"
        copied = self.op("Identity", [value])
        copied.name, copied.dtype = name, dtype
        self.added.append(copied)
        return name

    def cast_like(self, value: onnx_ir.Value, like: onnx_ir.Value) -> onnx_ir.Value:
        if like.dtype in (None, FLOAT):
            return value
        return self.op("Cast", [value], to=like.dtype)

    def as_float(self, value: onnx_ir.Value) -> onnx_ir.Value:
        return value if value.dtype == FLOAT else self.op("Cast", [value], to=FLOAT)

    def flush(self) -> None:
        """Moves what the tape holds into the graph."""
        for value in self.tape.initializers:
            self.model.graph.register_initializer(value)
        self.model.graph.extend(self.tape.nodes)
        self.tape = Tape()

    def finish(self) -> onnx_ir.Model:
        self.flush()
        self.model.graph.outputs.clear()
        self.model.graph.outputs.extend(self.added)
        self.model.graph.sort()
        return self.model

    def distribution(self, head: Head) -> onnx_ir.Value:
        """The value whose distribution the head gives: the logits before a softmax, else the output itself."""
        value = next(v for v in self.model.graph.outputs if v.name == head.output)
        if head.scale not in ("probabilities", "log_probabilities"):
            return value
        node = value.producer()
        while node is not None and node.op_type not in ("Softmax", "LogSoftmax"):
            source = next(v for v in node.inputs if v is not None and v.const_value is None)
            node = source.producer()
        assert node is not None
        assert node.inputs[0] is not None
        return node.inputs[0]

    def categorical_seed(self, logits: onnx_ir.Value, draw: onnx_ir.Value, temperature: float) -> onnx_ir.Value:
        cooled = self.op("Div", [self.as_float(logits), self.constant(np.array(temperature, np.float32))])
        p = self.op("Softmax", [cooled], axis=-1)
        spread = self.op("Mul", [self.op("Sqrt", [p]), draw])
        total = self.op("ReduceSum", [spread, self.constant(np.array([-1]))], keepdims=1)
        return self.op("Sub", [spread, self.op("Mul", [p, total])])

    def sum_of_squares(self, name: str) -> str:
        value = next(v for v in self.model.graph.outputs if v.name == name)
        return self.output(self.op("ReduceSumSquare", [self.as_float(value)], keepdims=0))

    def input_sums(self, layer: Layer, use: Use) -> Sums:
        return self._once("patches", layer, use, lambda: self._second(self._patches(layer, use)))

    def _once(self, what: str, layer: Layer, use: Use, emit: Callable[[], T]) -> T:
        """What `emit` gives, emitted once for all layers that read the same patches."""
        attributes = tuple(sorted((a.name, str(a.value)) for a in use.node.attributes.values()))
        key = (what, use.input, layer.kernel, layer.groups, attributes if layer.op == "Conv" else ())
        if key not in self._shared:
            self._shared[key] = emit()
        return self._shared[key]

    def value_sums(self, layer: Layer, value: onnx_ir.Value) -> Sums:
        return self._second(self._rows(layer, value))

    def probe_sums(self, layer: Layer, use: Use) -> str:
        """The sum [groups * PROBES] of the probed inputs."""
        return self._once("probes", layer, use, lambda: self._probe_sums(layer, use))

    def _probe_sums(self, layer: Layer, use: Use) -> str:
        read = self._read(layer, use)
        if layer.op != "Conv":
            return self.output(
                self.op("ReduceSum", [self._flat(read, PROBES), self.constant(np.array([0]))], keepdims=0)
            )
        rows = self.op("Reshape", [read, self.constant(np.array([0, 0, -1]))])
        return self.output(self.op("ReduceSum", [rows, self.constant(np.array([0, 2]))], keepdims=0))

    def gradient_sums(
        self,
        layer: Layer,
        uses: Sequence[Use],
        gradients: Mapping[onnx_ir.Value, onnx_ir.Value],
        offset: np.ndarray,
    ) -> GradientSums:
        rows = [self._rows(layer, gradients[use.output]) for use in uses]
        sums = self._second(self.op("Concat", rows, axis=2))
        trace, energy = self._trace([self._probed(layer, use, gradients[use.output], offset) for use in uses])
        return GradientSums(sums.second, sums.count, trace, energy)

    def _patches(self, layer: Layer, use: Use) -> onnx_ir.Value:
        """What the layer reads, as [groups, in, samples * positions]; im2col is a depthwise convolution by the
        identity."""
        x = self.as_float(use.input)
        if layer.op != "Conv":
            rows = self.op("Transpose", [self._flat(x, layer.inputs)], perm=[1, 0])
            return self.op("Unsqueeze", [rows, self.constant(np.array([0]))])
        channels, taps = layer.groups * layer.channels, prod(layer.kernel)
        if taps > 1 or any(n in use.node.attributes for n in ("strides", "pads")):
            identity = np.tile(np.eye(taps, dtype=np.float32), (channels, 1)).reshape(channels * taps, 1, *layer.kernel)
            x = self.tape.op("Conv", [x, self.constant(identity)], _geometry(use.node, channels, layer.kernel))
        return self._grouped(x, layer.groups, layer.inputs)

    def _rows(self, layer: Layer, value: onnx_ir.Value) -> onnx_ir.Value:
        """A value in the place of the layer's output, as [groups, out, samples * positions]."""
        value = self.as_float(value)
        if layer.op == "Conv":
            return self._grouped(value, layer.groups, layer.out)
        rows = self.op("Transpose", [self._flat(value, layer.out)], perm=[1, 0])
        return self.op("Unsqueeze", [rows, self.constant(np.array([0]))])

    def _grouped(self, x: onnx_ir.Value, groups: int, width: int) -> onnx_ir.Value:
        split = self.op("Reshape", [x, self.constant(np.array([0, groups, width, -1]))])
        moved = self.op("Transpose", [split], perm=[1, 2, 0, 3])
        return self.op("Reshape", [moved, self.constant(np.array([groups, width, -1]))])

    def _second(self, rows: onnx_ir.Value) -> Sums:
        second = self.op("MatMul", [rows, self.op("Transpose", [rows], perm=[0, 2, 1])])
        first = self.op("ReduceSum", [rows, self.constant(np.array([2]))], keepdims=0)
        count = self.op("Shape", [rows], start=2, end=3)
        return Sums(self.output(second), self.output(first), self.output(count, INT64))

    def _trace(self, probed: Sequence[tuple[onnx_ir.Value, onnx_ir.Value]]) -> tuple[str, str]:
        """The means over the probes of sum_n || sum_t g (a^T z) ||^2, which estimates sum_n || sum_t g a^T ||_F^2, and
        of sum_nt (a^T z)^2, which estimates sum_nt || a ||^2."""
        products, reads = zip(*probed, strict=True)
        squares = [self.op("ReduceSumSquare", [read], keepdims=0) for read in reads]
        whole = self.op("ReduceSumSquare", [self.op("Sum", products)], keepdims=0)
        count = self.constant(np.array(PROBES, np.float32))
        trace, energy = (self.output(self.op("Div", [v, count])) for v in (whole, self.op("Sum", squares)))
        return trace, energy

    def _probed(
        self, layer: Layer, use: Use, gradient: onnx_ir.Value, offset: np.ndarray
    ) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """sum_t g (a^T z) for every sample and each of PROBES normal vectors z, and a^T z for every position;
        `offset` is
        taken from every a^T z."""
        g = self.as_float(gradient)
        ones = [1] * len(layer.kernel)
        shift = offset.astype(np.float32).reshape(layer.groups * PROBES, *ones)
        read = self.op("Sub", [self._read(layer, use), self.constant(shift)])
        if layer.op == "Conv":
            a = self.op("Reshape", [read, self.constant(np.array([0, layer.groups, PROBES, -1]))])
            g = self.op("Reshape", [g, self.constant(np.array([0, layer.groups, layer.out, -1]))])
            return self.op("MatMul", [g, self.op("Transpose", [a], perm=[0, 1, 3, 2])]), read
        a = self.op("Reshape", [read, self.constant(np.array([0, -1, PROBES]))])
        g = self.op("Reshape", [g, self.constant(np.array([0, -1, layer.out]))])
        return self.op("MatMul", [self.op("Transpose", [g], perm=[0, 2, 1]), a]), read

    def _read(self, layer: Layer, use: Use) -> onnx_ir.Value:
        """What the layer reads times PROBES normal vectors a group, in the place of its output."""
        random = np.random.default_rng(PROBES)
        probes = random.standard_normal((layer.groups, PROBES, layer.inputs)).astype(np.float32)
        x = self.as_float(use.input)
        if layer.op != "Conv":
            return self.op("MatMul", [x, self.constant(np.ascontiguousarray(probes[0].T))])
        kernel = self.constant(probes.reshape(layer.groups * PROBES, layer.channels, *layer.kernel))
        return self.tape.op("Conv", [x, kernel], _geometry(use.node, layer.groups, layer.kernel))

    def _flat(self, value: onnx_ir.Value, width: int) -> onnx_ir.Value:
        return self.op("Reshape", [value, self.constant(np.array([-1, width]))])


def _geometry(node: onnx_ir.Node, groups: int, kernel: tuple[int, ...]) -> dict:
    """The attributes of a convolution with the strides, pads and dilations of `node`."""
    kept = {a.name: a.value for a in node.attributes.values() if a.name in ("strides", "pads", "dilations", "auto_pad")}
    return {**kept, "group": groups, "kernel_shape": list(kernel)}
