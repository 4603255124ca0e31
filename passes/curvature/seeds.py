"""What is back-propagated: for every sample vectors whose second moment is the Fisher information of a head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir

from ...ir.output_heads import Distribution, Head, distribution
from ...ir.output_heads.head import LEAST, NEVER
from .work import Work


@dataclass(frozen=True)
class Seeds:
    """Names of the graph inputs for each head's random vector, in the shape of its distribution, and for its scale;
    `squares` names the sum of the squares of each gaussian head."""

    draws: Mapping[str, str]
    scales: Mapping[str, str]
    squares: Mapping[str, str]


def seed(work: Work, heads: Sequence[Head], temperature: float) -> tuple[dict[onnx_ir.Value, onnx_ir.Value], Seeds]:
    """Adds the seeds of all heads: the value each is the gradient of, and the value that holds it.

    A categorical head gets S e with S S^T = diag(p) - p p^T, p = softmax(logits / temperature), a bernoulli one
    sqrt(p (1 - p)) e with p = sigmoid(logits / temperature), a gaussian one e (docs/curvature.md).
    """
    values: dict[onnx_ir.Value, onnx_ir.Value] = {}
    draws: dict[str, str] = {}
    scales: dict[str, str] = {}
    squares: dict[str, str] = {}
    for head in heads:
        given = distribution(work.model, head)
        value = given.value
        draw, scale = work.input(f"{head.output}.draw", value.shape), work.input(f"{head.output}.scale", [])
        draws[head.output], scales[head.output] = str(draw.name), str(scale.name)
        vector = _vector(work, head, given, draw, temperature)
        seeded = work.op("Mul", [work.cast_like(vector, value), work.cast_like(scale, value)])
        values[value] = work.op("Add", [values[value], seeded]) if value in values else seeded
        if head.kind == "gaussian":
            squares[head.output] = sum_of_squares(work, value)
    work.flush()
    return values, Seeds(draws, scales, squares)


def _vector(work: Work, head: Head, given: Distribution, draw: onnx_ir.Value, temperature: float) -> onnx_ir.Value:
    if head.kind == "gaussian":
        return work.op("Where", [_is_never(work, given.value), work.constant(np.array(0.0)), draw])
    if given.scale == "probabilities":
        return _of_probabilities(work, head, given, draw, temperature)
    logits = work.op("Max", [work.cast(given.value), work.constant(np.array(NEVER))])
    return _of_logits(work, head, logits, given.axis, draw, temperature)


def _of_logits(
    work: Work, head: Head, logits: onnx_ir.Value, axis: int, draw: onnx_ir.Value, temperature: float
) -> onnx_ir.Value:
    cooled = work.op("Div", [logits, work.constant(np.array(float(temperature)))])
    if head.kind == "bernoulli":
        p, rest = work.op("Sigmoid", [cooled]), work.op("Sigmoid", [work.op("Neg", [cooled])])
        return work.op("Mul", [work.op("Sqrt", [work.op("Mul", [p, rest])]), draw])
    p = work.op("Softmax", [cooled], axis=axis)
    spread = work.op("Mul", [work.op("Sqrt", [p]), draw])
    total = work.op("ReduceSum", [spread, work.integers(axis)], keepdims=1)
    return work.op("Sub", [spread, work.op("Mul", [p, total])])


def _of_probabilities(
    work: Work, head: Head, given: Distribution, draw: onnx_ir.Value, temperature: float
) -> onnx_ir.Value:
    """The vector for logits over the derivative of the probabilities by them: p of classes, for what it leaves out, p
    times the mean, is zero for such a vector; p (1 - p) of decisions."""
    p = work.op("Clip", [work.cast(given.value), work.constant(np.array(LEAST)), work.constant(np.array(1 - LEAST))])
    logits, slope = work.op("Log", [p]), p
    if head.kind == "bernoulli":
        rest = work.op("Sub", [work.constant(np.array(1.0)), p])
        logits, slope = work.op("Sub", [logits, work.op("Log", [rest])]), work.op("Mul", [p, rest])
    return work.op("Div", [_of_logits(work, head, logits, given.axis, draw, temperature), slope])


def sum_of_squares(work: Work, value: onnx_ir.Value) -> str:
    """The output that holds it; what is -infinity doesn't count."""
    finite = work.op("Where", [_is_never(work, value), work.constant(np.array(0.0)), work.cast(value)])
    return work.output(work.op("ReduceSumSquare", [finite], keepdims=0))


def _is_never(work: Work, value: onnx_ir.Value) -> onnx_ir.Value:
    return work.op("IsInf", [work.cast(value)], detect_positive=0)


def unit(heads: Sequence[Head], seen: Sequence[tuple[Seeds, Mapping[str, Any]]], runs: float) -> float:
    """What products of gradients are multiplied with in the end: the squared scale of a gaussian head that is alone,
    from the sums that graphs gave over so many samples and draws; NaN where those overflow."""
    if len(heads) != 1 or heads[0].kind != "gaussian":
        return 1.0
    total = sum(float(sums[seeds.squares[heads[0].output]]) for seeds, sums in seen)
    return inverse_root(total / runs) ** 2 if np.isfinite(total) else np.nan


def inverse_root(square: float) -> float:
    return 1.0 / np.sqrt(square) if square > 0 else 0.0
