"""How a matrix is held and run: a `Form` is a structure (no weights) with its weights, and emits standard operators.

Other packages make structures of their own: all that Kronnx asks of one are the methods of `Structure`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np
import onnx_ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.tape import Tape

from .errors import ShapeError
from .layers import Layer

CONV_ATTRIBUTES = ("auto_pad", "dilations", "pads", "strides")
INDEX_BYTES = 8  # of an int64


class Structure(ABC):
    """How one matrix is run, without its weights: enough to know its cost and to time it.

    `dense` and `bytes` say what holds for most; a structure of which it doesn't hold says it itself
    (docs/decisions/0019-a-structure-is-what-it-emits.md).
    """

    @property
    @abstractmethod
    def label(self) -> str:
        """A few words for the report, such as `low rank 24`; others may be called the same."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Elements of all weights, biases not counted."""

    @abstractmethod
    def macs(self, shape: tuple[int, ...]) -> int:
        """Multiply-adds on one input of `shape`."""

    @abstractmethod
    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes [groups, out, in] of the weights, in the order in which they are applied."""

    def bytes(self, itemsize: float) -> float:
        """What the constants take, where an element of the model's own type takes `itemsize` bytes."""
        return itemsize * self.parameters

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        """The matrix [groups, out, in] that the structure stands for with these weights [groups, out, in].

        It is what the emitted operators give of unit vectors, as many as the first weight has inputs: a structure that
        doesn't run on vectors of that width says its own.

        Raises ShapeError if the operators can't be run so.
        """
        return _response(self, weights)

    def alone(self, shape: tuple[int, ...]) -> onnx_ir.Model:
        """A model of this structure alone, with random weights, to be timed: `x` of `shape` to `y`."""
        random = np.random.default_rng(0)
        drawn = tuple(random.standard_normal(s) / np.sqrt(s[-1]) for s in self.weight_shapes())
        return _alone(self, drawn, shape)

    @abstractmethod
    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        """Adds the operators to `tape` and returns their output; the nodes are called `name` and `name`.k."""

    @abstractmethod
    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights [groups, out, in] in the layouts that `emit` reads. Arrays of float64 are stored in the type of the
        layer that they are for, all others in their own."""


@dataclass(frozen=True)
class Factor:
    """One link of a chain: a matrix [groups, out, channels * the kernel's size] with its convolution attributes."""

    groups: int
    out: int
    channels: int
    kernel: tuple[int, ...] = ()
    attributes: tuple[tuple[str, str | tuple[int, ...]], ...] = ()

    @property
    def inputs(self) -> int:
        return self.channels * prod(self.kernel)

    @property
    def parameters(self) -> int:
        return self.groups * self.out * self.inputs

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the output for an input of `shape`."""
        if not self.kernel:
            return (*shape[:-1], self.out)
        spatial = (self._extent(axis, size) for axis, size in enumerate(shape[2:]))
        return (shape[0], self.groups * self.out, *spatial)

    def stated_shape(self, shape: onnx_ir.Shape | None) -> onnx_ir.Shape | None:
        """The shape of the output as a graph says it: symbols are kept, sizes that follow from a symbol are unknown."""
        if shape is None or not self.kernel:
            return _with_width(shape, self.out)
        spatial = (self._extent(k, size) if isinstance(size, int) else None for k, size in enumerate(shape[2:]))
        return onnx_ir.Shape([shape[0], self.groups * self.out, *spatial])

    def _extent(self, axis: int, size: int) -> int:
        attributes = dict(self.attributes)
        rank = len(self.kernel)
        stride = int(attributes.get("strides", (1,) * rank)[axis])
        dilation = int(attributes.get("dilations", (1,) * rank)[axis])
        auto_pad = attributes.get("auto_pad", "NOTSET")
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            return -(-size // stride)
        pads = attributes.get("pads", (0,) * (2 * rank)) if auto_pad == "NOTSET" else (0,) * (2 * rank)
        span = dilation * (self.kernel[axis] - 1) + 1
        return (size + int(pads[axis]) + int(pads[axis + rank]) - span) // stride + 1


@dataclass(frozen=True)
class Chain(Structure):
    """Factors that run one after the other, all as `op` (MatMul, Gemm or Conv): dense, low rank, spatial, Tucker-2."""

    op: str
    factors: tuple[Factor, ...]
    kind: str = "dense"

    @property
    def label(self) -> str:
        ranks = "/".join(str(f.out) for f in self.factors[:-1])
        return f"{self.kind} {ranks}" if ranks else self.kind

    @property
    def parameters(self) -> int:
        return sum(f.parameters for f in self.factors)

    def macs(self, shape: tuple[int, ...]) -> int:
        total = 0
        for factor in self.factors:
            shape = factor.output_shape(shape)
            positions = prod(shape) // (factor.groups * factor.out)
            total += positions * factor.parameters
        return total

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple((f.groups, f.out, f.inputs) for f in self.factors)

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        return composites(self, weights)[-1]

    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(self._stored(f, w) for f, w in zip(self.factors, weights, strict=True))

    def _stored(self, factor: Factor, weight: np.ndarray) -> np.ndarray:
        if self.op == "Conv":
            return weight.reshape(factor.groups * factor.out, factor.channels, *factor.kernel)
        return weight[0] if self.op == "Gemm" else weight[0].T

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        last = len(self.factors) - 1
        for k, (factor, weight) in enumerate(zip(self.factors, weights, strict=True)):
            inputs = [x, weight] if k < last or bias is None else [x, weight, bias]
            y = tape.op(self.op, inputs, self._attributes(factor), name=name if last == 0 else f"{name}.{k}")
            y.type, y.shape = x.type, factor.stated_shape(x.shape)
            x = y
        return x

    def _attributes(self, factor: Factor) -> dict[str, int | str | tuple[int, ...]]:
        if self.op == "Gemm":
            return {"transB": 1}
        if self.op == "MatMul":
            return {}
        return {"kernel_shape": factor.kernel, "group": factor.groups, **dict(factor.attributes)}


@dataclass(frozen=True)
class Striped(Structure):
    """A block-sparse matrix in tall blocks: the outputs in equal stripes, each of which reads inputs of its own.

    `indices` holds the kept inputs of each stripe, ascending. Every stripe runs as Gather and MatMul, then all are
    concatenated.
    """

    out: int
    inputs: int
    indices: tuple[tuple[int, ...], ...]

    @property
    def label(self) -> str:
        kept = sum(map(len, self.indices)) / (len(self.indices) * self.inputs)
        return f"block-sparse {kept:.2f}"

    @property
    def parameters(self) -> int:
        return sum(prod(shape) for shape in self.weight_shapes())

    def macs(self, shape: tuple[int, ...]) -> int:
        return prod(shape[:-1]) * self.parameters

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        rows = self.out // len(self.indices)
        return tuple((1, rows, len(kept)) for kept in self.indices)

    def bytes(self, itemsize: float) -> float:
        return itemsize * self.parameters + INDEX_BYTES * sum(map(len, self.indices))

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        result = np.zeros((1, self.out, self.inputs))
        edges = np.linspace(0, self.out, len(weights) + 1, dtype=int)
        for (start, stop), kept, weight in zip(pairwise(edges), self.indices, weights, strict=True):
            result[0, start:stop, list(kept)] = weight[0].T
        return result

    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(w[0].T for w in weights)

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        stripes = []
        for k, (kept, weight) in enumerate(zip(self.indices, weights, strict=True)):
            index = tape.initializer(onnx_ir.tensor(np.array(kept, np.int64)), f"{name}.{k}.index")
            part = tape.op("Gather", [x, index], {"axis": -1}, name=f"{name}.{k}.gather")
            part.type, part.shape = x.type, _with_width(x.shape, len(kept))
            y = tape.op("MatMul", [part, weight], name=f"{name}.{k}")
            y.type, y.shape = x.type, _with_width(x.shape, self.out // len(self.indices))
            stripes.append(y)
        y = tape.op("Concat", stripes, {"axis": -1}, name=f"{name}.concat")
        y.type, y.shape = x.type, _with_width(x.shape, self.out)
        return y if bias is None else tape.op("Add", [y, bias], name=f"{name}.bias")


@dataclass(frozen=True)
class Around(Structure):
    """A structure that runs as another one, whose weights it holds in a way of its own."""

    structure: Chain | Striped

    @property
    @abstractmethod
    def own_label(self) -> str:
        """The way of its own, in a word or two."""

    @property
    def label(self) -> str:
        return self.own_label if self.structure.label == "dense" else f"{self.structure.label} {self.own_label}"

    @property
    def parameters(self) -> int:
        return self.structure.parameters

    def macs(self, shape: tuple[int, ...]) -> int:
        return self.structure.macs(shape)


@dataclass(frozen=True)
class Form:
    """A structure with its weights, each [groups, out, in], in float64 whatever they are given in."""

    structure: Structure
    weights: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(np.asarray(weight, np.float64) for weight in self.weights))

    def stored(self) -> tuple[np.ndarray, ...]:
        """The weights in the layouts that the structure's operators read."""
        return self.structure.stored(self.weights)

    def dense(self) -> np.ndarray:
        """The matrix [groups, out, in] that the form stands for."""
        return self.structure.dense(self.weights)


def structure_of(layer: Layer) -> Chain:
    """The dense structure that `layer` has now."""
    return Chain(layer.op, (Factor(layer.groups, layer.out, layer.channels, layer.kernel, _attributes(layer)),))


def low_rank(layer: Layer, rank: int) -> Chain:
    """W ~ U V with V [rank, in], U [out, rank] for each group; a convolution becomes k x k to `rank`, then 1 x 1."""
    whole = structure_of(layer).factors[0]
    ones = (1,) * len(layer.kernel)
    return Chain(layer.op, (replace(whole, out=rank), Factor(layer.groups, layer.out, rank, ones)), "low rank")


def spatial(layer: Layer, rank: int) -> Chain:
    """A 2-D convolution kh x kw as kh x 1 to `rank` channels, then 1 x kw (Jaderberg, Vedaldi and Zisserman, 2014)."""
    height, width = layer.kernel
    first = Factor(1, rank, layer.channels, (height, 1), _along(layer, 0))
    return Chain("Conv", (first, Factor(1, layer.out, rank, (1, width), _along(layer, 1))), "spatial")


def tucker(layer: Layer, inner: int, outer: int) -> Chain:
    """A convolution as 1 x 1 to `inner` channels, k x k to `outer`, 1 x 1 to all (Tucker-2; Kim et al., 2016)."""
    ones = (1,) * len(layer.kernel)
    first = Factor(1, inner, layer.channels, ones)
    core = Factor(1, outer, inner, layer.kernel, _attributes(layer))
    return Chain("Conv", (first, core, Factor(1, layer.out, outer, ones)), "tucker")


def composites(chain: Chain, weights: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """For each factor, the matrix [groups, out, inputs of the whole] of the chain up to and with it, on patches of
    the kernel that the factors so far span."""
    product, results, kernel = weights[0], [weights[0]], chain.factors[0].kernel
    for factor, weight in zip(chain.factors[1:], weights[1:], strict=True):
        product = weight @ unfold(product, chain.factors[0].channels, kernel, factor.kernel)
        kernel = tuple(a * b for a, b in zip(kernel, factor.kernel, strict=True))
        results.append(product)
    return results


def unfold(weight: np.ndarray, channels: int, kernel: tuple[int, ...], following: tuple[int, ...]) -> np.ndarray:
    """The matrix [groups, rows * following's size, channels * joint size] that maps a patch of the joint kernel to
    the patch of `weight`'s outputs that a `following` kernel reads. Along each axis one of the two kernels is 1."""
    groups, rows, _ = weight.shape
    joint = tuple(a * b for a, b in zip(kernel, following, strict=True))
    result = np.zeros((groups, rows, *following, channels, *joint))
    taps = weight.reshape(groups, rows, channels, *kernel)
    for tap in np.ndindex(*following):
        places = (slice(None) if k > 1 else slice(t, t + 1) for k, t in zip(kernel, tap, strict=True))
        result[(slice(None), slice(None), *tap, slice(None), *places)] = taps
    return result.reshape(groups, rows * prod(following), channels * prod(joint))


def typed(stored: np.ndarray, dtype: onnx_ir.DataType) -> np.ndarray:
    """What a structure stores, as it stands in a model that computes in `dtype`: float64 becomes that, all else is of
    the structure's choosing."""
    return np.ascontiguousarray(stored.astype(dtype.numpy()) if stored.dtype == np.float64 else stored)


def _alone(structure: Structure, drawn: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> onnx_ir.Model:
    tape = Tape()
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, shape)
    stored = (typed(array, onnx_ir.DataType.FLOAT) for array in structure.stored(drawn))
    weights = tuple(tape.initializer(onnx_ir.tensor(w), f"w{k}") for k, w in enumerate(stored))
    y = structure.emit(tape, x, weights, None, "layer")
    y.name = "y"
    graph = onnx_ir.Graph(
        [x], [y], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 21}, name="layer"
    )
    return onnx_ir.Model(graph, ir_version=10)


def _response(structure: Structure, weights: tuple[np.ndarray, ...]) -> np.ndarray:
    """What `structure` gives of unit vectors: [1, out, in]."""
    units = np.eye(weights[0].shape[-1], dtype=np.float32)  # all operators are made for this type
    try:
        model = _alone(structure, weights, units.shape)
        (given,) = ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, {"x": units})
    except Exception as e:  # whatever another's operators or this evaluator have to say
        raise ShapeError(
            f"the structure {structure.label!r} ({type(structure).__name__}) can't be run on vectors of {len(units)}, "
            f"the inputs of its first weight: {e}; let it say its own dense(weights)"
        ) from e
    return np.asarray(given, np.float64).T[None]


def _attributes(layer: Layer) -> tuple[tuple[str, str | tuple[int, ...]], ...]:
    node = layer.uses[0].node
    if layer.op != "Conv":
        return ()
    present = ((name, node.attributes.get(name)) for name in CONV_ATTRIBUTES)
    return tuple((n, a.as_string() if n == "auto_pad" else tuple(a.as_ints())) for n, a in present if a is not None)


def _along(layer: Layer, axis: int) -> tuple[tuple[str, str | tuple[int, ...]], ...]:
    """The convolution's attributes along one spatial axis, neutral along the other."""
    neutral: Mapping[str, int] = {"strides": 1, "dilations": 1, "pads": 0}
    picked: list[tuple[str, str | tuple[int, ...]]] = []
    for name, value in _attributes(layer):
        if isinstance(value, str):
            picked.append((name, value))
            continue
        kept = (v if k % 2 == axis else neutral[name] for k, v in enumerate(value))
        picked.append((name, tuple(kept)))
    return tuple(picked)


def _with_width(shape: onnx_ir.Shape | None, width: int) -> onnx_ir.Shape | None:
    return None if shape is None else onnx_ir.Shape([*shape[:-1], width])
