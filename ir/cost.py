"""What a model costs: multiply-adds, parameters, bytes and time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir

from .forms import Structure, structure_of
from .layers import Layer, integer
from .model.weights import weights
from .quantized import CONVOLUTIONS, PACKED, factors, kind

FLOATING = ("MatMul", "Gemm", "Conv", "ConvTranspose")

Timer = Callable[[Structure, tuple[int, ...]], float]


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one run, elements of the weights, microseconds (0 when nothing was timed), and the bytes that
    the weights take as they are stored."""

    macs: float = 0.0
    parameters: float = 0.0
    microseconds: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.macs + other.macs,
            self.parameters + other.parameters,
            self.microseconds + other.microseconds,
            self.bytes + other.bytes,
        )

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(
            self.macs - other.macs,
            self.parameters - other.parameters,
            self.microseconds - other.microseconds,
            self.bytes - other.bytes,
        )


@dataclass(frozen=True)
class Piece:
    """A structure that runs on inputs of these shapes: one for each node that applies its weights. `itemsize` is the
    bytes of one weight in the model's own type."""

    structure: Structure
    shapes: tuple[tuple[int, ...], ...]
    itemsize: float = 4

    def cost(self, timer: Timer | None = None) -> Cost:
        """The cost of all runs; `timer` gives the microseconds of one."""
        macs = sum(self.structure.macs(shape) for shape in self.shapes)
        time = 0.0 if timer is None else sum(timer(self.structure, shape) for shape in self.shapes)
        return Cost(macs, self.structure.parameters, time, self.structure.bytes(self.itemsize))


def piece_of(layer: Layer, shapes: Mapping[str, tuple[int, ...]]) -> Piece:
    """What runs of `layer` as it is; `shapes` are those of the values that it reads, by name."""
    assert layer.weight.dtype is not None
    read = tuple(shapes[str(use.input.name)] for use in layer.uses)
    return Piece(structure_of(layer), read, layer.weight.dtype.itemsize)


def parameters(model: onnx_ir.Model) -> int:
    """Elements of all floating-point and quantized constants of more than one element, each counted once; several in
    each byte of a packed one."""
    packed = {n.inputs[1].name: 8 // integer(n, "bits", 4) for n in model.graph if kind(n) in PACKED and n.inputs[1]}
    return sum(parameters_of(tensor) * packed.get(name, 1) for name, tensor in weights(model))


def parameters_of(tensor: onnx_ir.TensorProtocol) -> int:
    """The elements of one constant that count as parameters: none of wider integers, truth values and text."""
    narrow = tensor.dtype != onnx_ir.DataType.STRING and tensor.dtype.bitwidth <= 8
    size = prod(tensor.shape.numpy())
    return size if size > 1 and (narrow or tensor.dtype.is_floating_point()) else 0


def macs(model: onnx_ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-adds of MatMul, Gemm, Conv and ConvTranspose nodes, and of those on codes, with `shapes` the concrete
    shapes of all values.

    One MatMul [m, k] x [k, n] is m * k * n. Nodes inside subgraphs or with unknown shapes count as zero.
    """
    return sum(node_macs(node, shapes) for node in model.graph)


def is_counted(node: onnx_ir.Node) -> bool:
    """Whether `macs` counts multiply-adds of the node."""
    return (node.op_type in FLOATING and node.domain in ("", "ai.onnx")) or factors(node) is not None


def node_macs(node: onnx_ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-adds of one node, as `macs` counts them."""
    if not is_counted(node):
        return 0
    left, right = factors(node) or (0, 1)
    x, w = (_shape(node.inputs[i], shapes) for i in (left, right))
    y = _shape(node.outputs[0], shapes)
    if x is None or w is None or y is None:
        return 0
    if node.op_type in ("Conv", "ConvTranspose") or kind(node) in CONVOLUTIONS:
        spread = x if node.op_type == "ConvTranspose" else y
        return prod(spread) * prod(w[1:])
    shared = x[-2] if node.op_type in ("Gemm", "QGemm") and integer(node, "transA", 0) else x[-1]
    return prod(y) * shared


def _shape(value: onnx_ir.Value | None, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    if value is None:
        return None
    if value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    return shapes.get(value.name or "")
