"""Structures and a pass as another package would make them, of what is public."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import kronnx
import numpy as np
import onnx_ir


@dataclass(frozen=True)
class Twice(kronnx.Structure):
    """W = 2 V with V stored; says nothing of its dense value."""

    out: int
    inputs: int

    label = "own"

    @property
    def parameters(self) -> int:
        return self.out * self.inputs

    def macs(self, shape):
        return int(np.prod(shape[:-1])) * self.parameters

    def weight_shapes(self):
        return ((1, self.out, self.inputs),)

    def stored(self, weights):
        return tuple(w[0].T for w in weights)

    def emit(self, tape, x, weights, bias, name):
        half = tape.op("MatMul", [x, weights[0]], name=name)
        y = tape.op("Add", [half, half], name=f"{name}.twice")
        return y if bias is None else tape.op("Add", [y, bias], name=f"{name}.bias")


@dataclass(frozen=True)
class Bytes(kronnx.Structure):
    """A matrix in one byte a weight with one scale, its constants stored as such."""

    out: int
    inputs: int

    label = "own"

    @property
    def parameters(self) -> int:
        return self.out * self.inputs

    def bytes(self, itemsize):
        return self.parameters + itemsize

    def macs(self, shape):
        return int(np.prod(shape[:-1])) * self.parameters

    def weight_shapes(self):
        return ((1, self.out, self.inputs),)

    def stored(self, weights):
        scale = np.abs(weights[0]).max() / 127
        return np.round(weights[0][0].T / scale).astype(np.int8), np.array(scale)

    def emit(self, tape, x, weights, bias, name):
        whole, scale = weights
        wide = tape.op("CastLike", [whole, scale], name=f"{name}.cast")
        y = tape.op("MatMul", [x, tape.op("Mul", [wide, scale], name=f"{name}.scaled")], name=name)
        return y if bias is None else tape.op("Add", [y, bias], name=f"{name}.bias")


@dataclass(frozen=True)
class PerPixel(kronnx.Structure):
    """A convolution as 1 x 1, which doesn't run on vectors."""

    out: int
    inputs: int

    label = "per pixel"

    @property
    def parameters(self) -> int:
        return self.out * self.inputs

    def macs(self, shape):
        return int(np.prod(shape)) // shape[1] * self.parameters

    def weight_shapes(self):
        return ((1, self.out, self.inputs),)

    def stored(self, weights):
        return tuple(w[0][:, :, None, None] for w in weights)

    def emit(self, tape, x, weights, bias, name):
        inputs = [x, weights[0]] if bias is None else [x, weights[0], bias]
        return tape.op("Conv", inputs, name=name)


@dataclass(frozen=True)
class InBytes(kronnx.Pass):
    """Every matrix in one byte a weight; `fixed` takes them all."""

    name: ClassVar[str] = "in-bytes"
    fixed: bool = False

    def wants(self, analyses: kronnx.Analyses) -> Iterable[kronnx.Want]:
        return ()

    def propose(self, context: kronnx.Context) -> kronnx.Proposal:
        layers = context.analyses.layers.found.values()
        found = (context.replacement(x, Bytes(x.out, x.inputs), 1e-6, None) for x in layers)
        return kronnx.Proposal(tuple(found), fixed=self.fixed)

    def apply(self, candidate: kronnx.Candidate, context: kronnx.Context, rewriter: kronnx.Rewriter) -> None:
        layer = rewriter.analyses.layers.found[candidate.site]
        rewriter.replace(layer, kronnx.Form(Bytes(layer.out, layer.inputs), (layer.matrix(),)))


def constants(model: onnx_ir.Model) -> dict[str, onnx_ir.DataType | None]:
    """The types of the initializers by name."""
    return {name: value.dtype for name, value in model.graph.initializers.items()}
