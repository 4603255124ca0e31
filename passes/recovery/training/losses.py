"""The loss of a recovery: how far a model's outputs are from the original's. What a distribution is computed from in
both models in; the loss and its derivative, in closed form, out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ....ir.autodiff.emitter import Emitter
from ....ir.output_heads import Head

TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Loss:
    """`value` [] and `seed`, its derivative by the value that was compared, in that value's shape."""

    value: onnx_ir.Value
    seed: onnx_ir.Value


@dataclass(frozen=True)
class Losses:
    """Emits losses in the type of what they compare."""

    emit: Emitter
    dtype: onnx_ir.DataType

    def of_head(self, head: Head, student: onnx_ir.Value, target: onnx_ir.Value, temperature: float) -> Loss:
        """`student` and `target` are what the head's distribution is computed from, the original's the latter."""
        if head.kind == "gaussian":
            return self.squared(student, target)
        return self.divergence(student, target, temperature)

    def divergence(self, logits: onnx_ir.Value, target: onnx_ir.Value, temperature: float) -> Loss:
        """tau^2 KL(p || q), mean over positions, p and q the softmax of target / tau and of logits / tau (Hinton,
        Vinyals and Dean, 2015, section 2)."""
        log_p, log_q = (self._log_softmax(v, temperature) for v in (target, logits))
        p, positions = self.emit.op("Exp", log_p), self._positions(logits)
        each = self.emit.op("Mul", p, self.emit.op("Sub", log_p, log_q))
        total = self.emit.op("ReduceSum", each, keepdims=0)
        seed = self.emit.op("Sub", self.emit.op("Exp", log_q), p)
        return Loss(self._over(total, positions, temperature**2), self._over(seed, positions, temperature))

    def squared(self, values: onnx_ir.Value, target: onnx_ir.Value) -> Loss:
        """1/2 ||y - t||^2 / ||t||^2 over the batch: half of the squared relative error."""
        difference = self.emit.op("Sub", values, target)
        square = self.emit.op("ReduceSumSquare", difference, keepdims=0)
        scale = self.emit.op("Max", self.emit.op("ReduceSumSquare", target, keepdims=0), self._number(TINY))
        return Loss(self._over(square, scale, 0.5), self.emit.op("Div", difference, scale))

    def cross_entropy(self, logits: onnx_ir.Value, labels: onnx_ir.Value) -> Loss:
        """-log q[label], mean over samples, for logits [samples, classes] and labels [samples] of int64."""
        log_q, positions = self._log_softmax(logits, 1.0), self._positions(logits)
        hot = self._hot(labels, self._classes(logits))
        total = self.emit.op("ReduceSum", self.emit.op("Mul", hot, log_q), keepdims=0)
        seed = self.emit.op("Sub", self.emit.op("Exp", log_q), hot)
        return Loss(self._over(total, positions, -1.0), self._over(seed, positions, 1.0))

    def mixed(self, parts: Sequence[tuple[float, Loss]]) -> Loss:
        """The weighted sum of losses of one value."""
        return Loss(
            self.total([self._times(loss.value, weight) for weight, loss in parts]),
            self.total([self._times(loss.seed, weight) for weight, loss in parts]),
        )

    def total(self, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        return values[0] if len(values) == 1 else self.emit.op("Sum", *values)

    def _log_softmax(self, logits: onnx_ir.Value, temperature: float) -> onnx_ir.Value:
        return self.emit.op("LogSoftmax", self._times(logits, 1 / temperature), axis=-1)

    def _positions(self, logits: onnx_ir.Value) -> onnx_ir.Value:
        """How many distributions there are, as a number of the loss' type."""
        rows = self.emit.op("Div", self.emit.op("Size", logits), self.emit.op("Squeeze", self._classes(logits)))
        return self.emit.op("Cast", rows, to=self.dtype.value)

    def _hot(self, labels: onnx_ir.Value, classes: onnx_ir.Value) -> onnx_ir.Value:
        """[samples, classes], 1 at the label; ONNX Runtime has OneHot in float32 only."""
        ends = self.emit.constant(np.array([0.0, 1.0]), onnx_ir.DataType.FLOAT)
        hot = self.emit.op("OneHot", labels, classes, ends, axis=-1)
        return hot if self.dtype == onnx_ir.DataType.FLOAT else self.emit.op("Cast", hot, to=self.dtype.value)

    def _classes(self, logits: onnx_ir.Value) -> onnx_ir.Value:
        """[1]"""
        return self.emit.op("Shape", logits, start=-1)

    def _over(self, value: onnx_ir.Value, divisor: onnx_ir.Value, factor: float) -> onnx_ir.Value:
        return self._times(self.emit.op("Div", value, divisor), factor)

    def _times(self, value: onnx_ir.Value, factor: float) -> onnx_ir.Value:
        return value if factor == 1 else self.emit.op("Mul", value, self._number(factor))

    def _number(self, number: float) -> onnx_ir.Value:
        return self.emit.constant(np.array(number), self.dtype)
