"""The loss of a recovery: how far a model's outputs are from the original's. What a distribution is computed from in
both models in; the loss and its derivative, in closed form, out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir

from ....ir.autodiff.emitter import Emitter
from ....ir.output_heads import Distribution, Head
from ....ir.output_heads.head import LEAST, NEVER

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

    def of_head(
        self, head: Head, given: Distribution, target: onnx_ir.Value, temperature: float, samples: onnx_ir.Value
    ) -> Loss:
        """`given` is what the head's distribution is computed from, `target` the original's; `samples` [1] says how
        many there are."""
        if head.kind == "gaussian":
            return self.squared(given.value, target)
        if given.scale == "logits":
            return self._of_logits(head, given, target, temperature, samples)
        student, slope = self._odds(head, given.value)
        logits = replace(given, value=student)
        loss = self._of_logits(head, logits, self._odds(head, target)[0], temperature, samples)
        return Loss(loss.value, self.emit.op("Div", loss.seed, slope))

    def _of_logits(
        self, head: Head, given: Distribution, target: onnx_ir.Value, temperature: float, samples: onnx_ir.Value
    ) -> Loss:
        if head.kind == "bernoulli":
            return self.decisions(given.value, target, temperature, samples)
        return self.divergence(given.value, target, temperature, given.axis)

    def divergence(self, logits: onnx_ir.Value, target: onnx_ir.Value, temperature: float, axis: int = -1) -> Loss:
        """tau^2 KL(p || q), mean over positions, p and q the softmax over `axis` of target / tau and of logits / tau
        (Hinton, Vinyals and Dean, 2015, section 2)."""
        log_p, log_q = (self._log_softmax(v, temperature, axis) for v in (target, logits))
        p, positions = self.emit.op("Exp", log_p), self._positions(logits, axis)
        each = self.emit.op("Mul", p, self.emit.op("Sub", log_p, log_q))
        total = self.emit.op("ReduceSum", each, keepdims=0)
        seed = self.emit.op("Sub", self.emit.op("Exp", log_q), p)
        return Loss(self._over(total, positions, temperature**2), self._over(seed, positions, temperature))

    def decisions(
        self, logits: onnx_ir.Value, target: onnx_ir.Value, temperature: float, samples: onnx_ir.Value
    ) -> Loss:
        """tau^2 KL(p || q) over the effective number of decisions, p and q the sigmoid of target / tau and of
        logits / tau."""
        t, z = (self._times(self._present(v), 1 / temperature) for v in (target, logits))
        p, q = self.emit.op("Sigmoid", t), self.emit.op("Sigmoid", z)
        level = self.emit.op("Sub", self._softplus(z), self._softplus(t))
        each = self.emit.op("Sub", level, self.emit.op("Mul", p, self.emit.op("Sub", z, t)))
        total = self.emit.op("ReduceSum", each, keepdims=0)
        number = self._effective(self._present(target), samples)
        seed = self.emit.op("Sub", q, p)
        return Loss(self._over(total, number, temperature**2), self._over(seed, number, temperature))

    def squared(self, values: onnx_ir.Value, target: onnx_ir.Value) -> Loss:
        """1/2 ||y - t||^2 / ||t||^2 over the batch: half of the squared relative error, without what is -infinity."""
        never, zero = self.emit.op("IsInf", target, detect_positive=0), self._number(0.0)
        difference = self.emit.op("Where", never, zero, self.emit.op("Sub", values, target))
        square = self.emit.op("ReduceSumSquare", difference, keepdims=0)
        norm = self.emit.op("ReduceSumSquare", self.emit.op("Where", never, zero, target), keepdims=0)
        scale = self.emit.op("Max", norm, self._number(TINY))
        return Loss(self._over(square, scale, 0.5), self.emit.op("Div", difference, scale))

    def cross_entropy(self, logits: onnx_ir.Value, labels: onnx_ir.Value) -> Loss:
        """-log q[label], mean over samples, for logits [samples, classes] and labels [samples] of int64."""
        log_q, positions = self._log_softmax(logits, 1.0, -1), self._positions(logits, -1)
        hot = self._hot(labels, self._classes(logits, -1))
        total = self.emit.op("ReduceSum", self.emit.op("Mul", hot, log_q), keepdims=0)
        seed = self.emit.op("Sub", self.emit.op("Exp", log_q), hot)
        return Loss(self._over(total, positions, -1.0), self._over(seed, positions, 1.0))

    def binary_cross_entropy(self, logits: onnx_ir.Value, labels: onnx_ir.Value) -> Loss:
        """-log q of the label's side, mean over samples, for logits [samples] or [samples, 1] and labels [samples] of
        int64, 0 or 1."""
        yes = self.emit.reshaped(self.emit.op("Cast", labels, to=self.dtype.value), logits)
        each = self.emit.op("Sub", self._softplus(logits), self.emit.op("Mul", yes, logits))
        samples = self.emit.op("Cast", self.emit.op("Size", labels), to=self.dtype.value)
        seed = self.emit.op("Sub", self.emit.op("Sigmoid", logits), yes)
        return Loss(
            self._over(self.emit.op("ReduceSum", each, keepdims=0), samples, 1.0), self._over(seed, samples, 1.0)
        )

    def mixed(self, parts: Sequence[tuple[float, Loss]]) -> Loss:
        """The weighted sum of losses of one value."""
        return Loss(
            self.total([self._times(loss.value, weight) for weight, loss in parts]),
            self.total([self._times(loss.seed, weight) for weight, loss in parts]),
        )

    def total(self, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        return values[0] if len(values) == 1 else self.emit.op("Sum", *values)

    def _log_softmax(self, logits: onnx_ir.Value, temperature: float, axis: int) -> onnx_ir.Value:
        return self.emit.op("LogSoftmax", self._times(self._present(logits), 1 / temperature), axis=axis)

    def _present(self, logits: onnx_ir.Value) -> onnx_ir.Value:
        """Logits of which those of -infinity are numbers that can be subtracted."""
        return self.emit.op("Max", logits, self._number(NEVER))

    def _softplus(self, z: onnx_ir.Value) -> onnx_ir.Value:
        """log(1 + exp(z)); ONNX Runtime has Softplus in float32 only."""
        rest = self.emit.op("Exp", self.emit.op("Neg", self.emit.op("Abs", z)))
        logarithm = self.emit.op("Log", self.emit.op("Add", rest, self._number(1.0)))
        return self.emit.op("Add", self.emit.op("Relu", z), logarithm)

    def _odds(self, head: Head, probabilities: onnx_ir.Value) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """Logits of probabilities, and the derivative of these by them: p of classes, for what it leaves out is zero
        for a divergence; p (1 - p) of decisions."""
        p = self.emit.op("Clip", probabilities, self._number(LEAST), self._number(1 - LEAST))
        if head.kind == "categorical":
            return self.emit.op("Log", p), p
        rest = self.emit.op("Sub", self._number(1.0), p)
        return self.emit.op("Sub", self.emit.op("Log", p), self.emit.op("Log", rest)), self.emit.op("Mul", p, rest)

    def _effective(self, target: onnx_ir.Value, samples: onnx_ir.Value) -> onnx_ir.Value:
        """`effective_decisions` of the original's log-odds."""
        ones, zeros = (
            self.emit.op("ReduceSum", self.emit.op("Sigmoid", v), keepdims=0)
            for v in (target, self.emit.op("Neg", target))
        )
        least = self.emit.op("Cast", self.emit.op("Squeeze", samples), to=self.dtype.value)
        rarer = self.emit.op("Max", self.emit.op("Min", ones, zeros), least)
        return self.emit.op("Min", rarer, self.emit.op("Max", self.emit.op("Add", ones, zeros), self._number(1.0)))

    def _positions(self, logits: onnx_ir.Value, axis: int) -> onnx_ir.Value:
        """How many distributions there are, as a number of the loss' type."""
        classes = self.emit.op("Squeeze", self._classes(logits, axis))
        return self.emit.op("Cast", self.emit.op("Div", self.emit.op("Size", logits), classes), to=self.dtype.value)

    def _hot(self, labels: onnx_ir.Value, classes: onnx_ir.Value) -> onnx_ir.Value:
        """[samples, classes], 1 at the label; ONNX Runtime has OneHot in float32 only."""
        ends = self.emit.constant(np.array([0.0, 1.0]), onnx_ir.DataType.FLOAT)
        hot = self.emit.op("OneHot", labels, classes, ends, axis=-1)
        return hot if self.dtype == onnx_ir.DataType.FLOAT else self.emit.op("Cast", hot, to=self.dtype.value)

    def _classes(self, logits: onnx_ir.Value, axis: int) -> onnx_ir.Value:
        """[1]"""
        return self.emit.op("Shape", logits, start=axis, end=None if axis == -1 else axis + 1)

    def _over(self, value: onnx_ir.Value, divisor: onnx_ir.Value, factor: float) -> onnx_ir.Value:
        return self._times(self.emit.op("Div", value, divisor), factor)

    def _times(self, value: onnx_ir.Value, factor: float) -> onnx_ir.Value:
        return value if factor == 1 else self.emit.op("Mul", value, self._number(factor))

    def _number(self, number: float) -> onnx_ir.Value:
        return self.emit.constant(np.array(number), self.dtype)
