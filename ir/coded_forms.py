"""Structures whose weights are held as integers: those of a chain or of stripes, read as they are or made floats again.

The weights of such a structure are pairs: codes [groups, out, in], then scales [groups, out, scales of a row].
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from .forms import INDEX_BYTES, Around, Chain, Form, Striped, Structure
from .integers import Affine, Integers

LEAST_SIZE = 1e-30  # what a row of zeros is divided by


@dataclass(frozen=True)
class Coded(Around):
    """`structure` with its weights made floats by DequantizeLinear, where they are read.

    ONNX Runtime fuses that into the operator: into QLinearConv between quantized activations, into MatMulNBits where
    blocks of inputs have a scale, and for that Gemm runs as MatMul and Add. All else is smaller, not faster: with
    weights alone in 8 or 4 bits a convolution of 3 x 3 takes 1.5 to 1.7 times as long as with floats, a depthwise one
    twice, one of 1 x 1 .9 to 1.05 times (64 to 256 channels, batch 1, ONNX Runtime 1.32, AVX2).
    """

    integers: Integers

    @property
    def own_label(self) -> str:
        return self.integers.label

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        return _with_scales(self.structure, self.integers)

    def bytes(self, itemsize: float) -> float:
        extra = self.structure.bytes(itemsize) - itemsize * self.structure.parameters
        return extra + _bytes(self, itemsize)

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        return self.structure.dense(_values(weights, self.integers))

    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        return _stored(self._run, weights, self.integers)

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        structure, block = self._run, self.integers.block
        outputs = 0 if isinstance(structure, Chain) and structure.op != "MatMul" else 1
        attributes = {"axis": outputs} if block is None else {"axis": 1 - outputs, "block_size": block}
        floats = []
        for k, (codes, scale) in enumerate(_pairs(weights)):
            value = tape.op("DequantizeLinear", [codes, scale], attributes, name=f"{name}.{k}.weight")
            value.type, value.shape = onnx_ir.TensorType(scale.dtype), codes.shape
            floats.append(value)
        if isinstance(structure, Chain) and structure.op == "MatMul":
            return _biased(tape, structure.emit(tape, x, tuple(floats), None, name), bias, name)
        return structure.emit(tape, x, tuple(floats), bias, name)

    @property
    def _run(self) -> Chain | Striped:
        """The structure whose operators run."""
        if self.integers.block is None or not isinstance(self.structure, Chain):
            return self.structure
        return replace(self.structure, op="MatMul")


@dataclass(frozen=True)
class Multiplied(Structure):
    """A chain of matrix products of integers, of which each rounds all that it reads alike as it runs; or a single
    one, that rounds on the grid `read`. With `by_row` every row is divided by its largest magnitude before and
    multiplied by it afterwards, which passes through a product: so one step for all fits each.

    ONNX Runtime fuses each of the former into DynamicQuantizeMatMul, the latter not at all: between QuantizeLinear and
    DequantizeLinear a product loses its bias to Gemm first and runs on floats, at a tenth of the speed.
    """

    chain: Chain
    integers: Integers
    read: Affine | None = None
    by_row: bool = False

    @property
    def label(self) -> str:
        kind = "static" if self.read is not None else "dynamic by row" if self.by_row else "dynamic"
        return f"{_label(self.chain, self.integers)} {kind}"

    @property
    def parameters(self) -> int:
        return self.chain.parameters

    def macs(self, shape: tuple[int, ...]) -> int:
        return self.chain.macs(shape)

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        return _with_scales(self.chain, self.integers)

    def bytes(self, itemsize: float) -> float:
        axis = INDEX_BYTES + itemsize if self.by_row else 0
        return _bytes(self, itemsize) + len(self.chain.factors) * axis + (0 if self.read is None else itemsize + 1)

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        return self.chain.dense(_values(weights, self.integers))

    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        return _stored(replace(self.chain, op="MatMul"), weights, self.integers)

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        last, like = len(self.chain.factors) - 1, x.type
        for k, (factor, (codes, scale)) in enumerate(zip(self.chain.factors, _pairs(weights), strict=True)):
            stem = name if last == 0 else f"{name}.{k}"
            shape = factor.stated_shape(x.shape)
            size, x = _by_size(tape, x, stem) if self.by_row else (None, x)
            whole, step, zero = self._rounded(tape, x, stem)
            product = tape.op("MatMulInteger", [whole, codes, zero], name=stem)
            product.type, product.shape = onnx_ir.TensorType(onnx_ir.DataType.INT32), shape
            counted = tape.op("Cast", [product], {"to": onnx_ir.DataType.FLOAT}, name=f"{stem}.cast")
            x = tape.op("Mul", [counted, tape.op("Mul", [step, scale], name=f"{stem}.scale")], name=f"{stem}.scaled")
            x.type, x.shape = like, shape
            if size is not None:
                x = tape.op("Mul", [x, size], name=f"{stem}.sized")
                x.type, x.shape = like, shape
        return _biased(tape, x, bias, name)

    def _rounded(self, tape: Tape, x: onnx_ir.Value, stem: str) -> Sequence[onnx_ir.Value]:
        """The codes of `x`, their step and their zero."""
        if self.read is None:
            return tape.op_multi_out("DynamicQuantizeLinear", [x], num_outputs=3, name=f"{stem}.quantize")
        step = tape.initializer(onnx_ir.tensor(np.array(self.read.step, np.float32)), f"{stem}.step")
        zero = tape.initializer(onnx_ir.tensor(np.array(self.read.zero, np.uint8)), f"{stem}.zero")
        return tape.op("QuantizeLinear", [x, step, zero], name=f"{stem}.quantize"), step, zero


def coded(structure: Coded | Multiplied, weights: Sequence[tuple[np.ndarray, np.ndarray]]) -> Form:
    """The form of these codes [groups, out, in] and scales [groups, out, scales of a row]."""
    return Form(structure, tuple(array for pair in weights for array in pair))


def _by_size(tape: Tape, x: onnx_ir.Value, stem: str) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """The largest magnitude of each row, and the rows over it."""
    axis = tape.initializer(onnx_ir.tensor(np.array([-1])), f"{stem}.axis")
    least = tape.initializer(onnx_ir.tensor(np.array(LEAST_SIZE, np.float32)), f"{stem}.least")
    sizes = tape.op("ReduceMax", [tape.op("Abs", [x], name=f"{stem}.magnitude"), axis], name=f"{stem}.size")
    size = tape.op("Max", [sizes, least], name=f"{stem}.some")
    rows = tape.op("Div", [x, size], name=f"{stem}.rows")
    rows.type, rows.shape = x.type, x.shape
    return size, rows


def _biased(tape: Tape, x: onnx_ir.Value, bias: onnx_ir.Value | None, name: str) -> onnx_ir.Value:
    if bias is None:
        return x
    y = tape.op("Add", [x, bias], name=f"{name}.bias")
    y.type, y.shape = x.type, x.shape
    return y


def _label(structure: Structure, integers: Integers) -> str:
    return integers.label if structure.label == "dense" else f"{structure.label} {integers.label}"


def _pairs(weights: Iterable) -> list[tuple]:
    known = list(weights)
    return list(zip(known[::2], known[1::2], strict=True))


def _values(weights: Iterable[np.ndarray], integers: Integers) -> tuple[np.ndarray, ...]:
    return tuple(integers.values(codes, scale) for codes, scale in _pairs(weights))


def _with_scales(structure: Structure, integers: Integers) -> tuple[tuple[int, ...], ...]:
    shapes = structure.weight_shapes()
    return tuple(s for g, o, i in shapes for s in ((g, o, i), (g, o, integers.scales_of(i))))


def _bytes(structure: Coded | Multiplied, itemsize: float) -> float:
    shapes = structure.weight_shapes()
    codes, scales = (sum(int(np.prod(shape)) for shape in shapes[k::2]) for k in (0, 1))
    return codes * structure.integers.stored_bits / 8 + scales * itemsize


def _stored(structure: Chain | Striped, weights: Iterable[np.ndarray], integers: Integers) -> tuple[np.ndarray, ...]:
    pairs = _pairs(weights)
    codes = structure.stored(np.rint(c) for c, _ in pairs)
    if integers.block is None:
        scales = [np.asarray(s, np.float64).ravel() for _, s in pairs]
    else:
        outputs_first = isinstance(structure, Chain) and structure.op != "MatMul"
        scales = [s[0] if outputs_first else s[0].T for _, s in pairs]
    low, high = integers.lowest, integers.highest
    kept = (np.clip(c, low, high).astype(integers.dtype) for c in codes)
    return tuple(array for pair in zip(kept, scales, strict=True) for array in pair)
