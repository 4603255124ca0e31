"""K-FAC as what is done to gradients before plain gradient descent: they are multiplied with the inverse of a
Kronecker-factored Fisher matrix, and scaled so that a step changes the outputs by no more than is wanted.

Sources: Martens and Grosse, 2015 (sections 3 and 6.3); Grosse and Martens, 2016 (convolutions); Ba, Grosse and Martens,
2017 (section 5: the bound on a step). Deviations: the damping doesn't change while training and has no part for weight
decay; a layer's two factors are inverted for each group of a convolution.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx_ir import Value

from ....ir.autodiff.emitter import Emitter
from ....ir.errors import UsageError
from ...curvature.factors import Factors
from ..scalars import cast, double, once
from .adam import mean_of_sum, spread
from .kronecker_blocks import KroneckerBlock
from .optimizer import Slots, check_positive, check_share, decayed_sum, dtype_of

SMALLEST = 1e-30  # of a divisor


@dataclass(frozen=True)
class Directions:
    """What takes the place of the gradients, and the new slots of the weights that have any, both by weight."""

    gradients: Mapping[str, Value]
    slots: Mapping[str, Slots]


@dataclass(frozen=True)
class Kfac:
    """The natural gradient. A rate of 1 is a Newton step.

    `damping` is added to the Fisher matrix in units of its own mean eigenvalue over all blocks, which is far above
    most of them. Natural gradients are scaled down together where rate^2 d^T F d, twice the divergence in nats per
    sample that the step is predicted to make, would exceed `clip`. A momentum m behind it lengthens the way by up to
    1 / (1 - m), the divergence by the square of that: 1e-4 of the divergence that is to be recovered is a good bound.

    Weights without a block go by g / (sqrt(v) + epsilon) times `others`, v the running mean of g^2 with `decay`: Adam
    without its momentum, which the gradient descent behind it has. Raises UsageError for settings out of range.
    """

    damping: float = 1.0
    clip: float = 1e-5
    others: float = 1e-3
    decay: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        for name, value in (("damping", self.damping), ("clip", self.clip)):
            if not value > 0:
                raise UsageError(f"{name} must be above 0, not {value}")
        check_positive("others", self.others)
        check_positive("epsilon", self.epsilon)
        check_share("decay", self.decay)

    def inverses(
        self, blocks: Sequence[KroneckerBlock], factors: Mapping[str, Factors]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """G^-1 and A^-1 by layer, damped, in float64. Before anything is measured, `identities` stand for them."""
        pairs = {block.layer: curvature(block, factors[block.layer]) for block in blocks}
        damping = self.damping * mean_eigenvalue(list(pairs.values()))
        return {layer: damped_inverses(*pair, damping) for layer, pair in pairs.items()}

    def slots(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """The state of a weight without a block before the first step."""
        return {"squares": np.zeros(weight.shape, weight.dtype)}

    def directions(
        self,
        emit: Emitter,
        gradients: Mapping[str, Value],
        blocks: Sequence[KroneckerBlock],
        inverses: Mapping[str, tuple[Value, Value]],
        slots: Mapping[str, Slots],
        rate: Value,
        count: Value,
    ) -> Directions:
        """Emits what to descend along instead of the gradients.

        `inverses` are by layer, in the type of the gradients; `slots` by weight, of all that are in no block; `rate`
        and `count` scalars []: the learning rate, and the number of the step, from 1.
        """
        found = self._natural(emit, gradients, blocks, inverses, rate) if blocks else {}
        after: dict[str, Slots] = {}
        for name in [name for name in gradients if name not in found]:
            found[name], after[name] = self._scaled(emit, gradients[name], slots[name], count)
        for name, value in found.items():
            emit.describe(value, gradients[name])
        return Directions(found, after)

    def _natural(
        self,
        emit: Emitter,
        gradients: Mapping[str, Value],
        blocks: Sequence[KroneckerBlock],
        inverses: Mapping[str, tuple[Value, Value]],
        rate: Value,
    ) -> dict[str, Value]:
        found: dict[str, Value] = {}
        matrices = [block.matrix(emit, gradients) for block in blocks]
        steps = [block.natural(emit, d, *inverses[block.layer]) for block, d in zip(blocks, matrices, strict=True)]
        scale = self._scale(emit, list(zip(matrices, steps, strict=True)), rate)
        for block, step in zip(blocks, steps, strict=True):
            kept = emit.op("Mul", step, cast(emit, scale, dtype_of(inverses[block.layer][0])))
            found |= block.parts(emit, kept)
        return found

    def _scale(self, emit: Emitter, pairs: Sequence[tuple[Value, Value]], rate: Value) -> Value:
        """nu = min(1, sqrt(clip / (rate^2 sum g^T F^-1 g))), over pairs of g and F^-1 g."""
        products = [emit.op("ReduceSum", emit.op("Mul", *pair), keepdims=0) for pair in pairs]
        total = once(emit, "Sum", *(double(emit, product) for product in products))
        change = once(emit, "Mul", once(emit, "Mul", double(emit, rate), double(emit, rate)), total)
        change = once(emit, "Max", change, double(emit, SMALLEST))
        share = once(emit, "Sqrt", once(emit, "Div", double(emit, self.clip), change))
        return once(emit, "Min", double(emit, 1.0), share)

    def _scaled(self, emit: Emitter, gradient: Value, slots: Slots, count: Value) -> tuple[Value, Slots]:
        """Along the gradient, over the root of its mean square."""
        dtype = dtype_of(slots["squares"])
        squares = decayed_sum(emit, slots["squares"], emit.op("Mul", gradient, gradient), self.decay)
        root = once(emit, "Sqrt", mean_of_sum(emit, self.decay, count))
        factor = cast(emit, once(emit, "Div", double(emit, self.others), root), dtype)
        ratio = emit.op("Div", gradient, spread(emit, squares, root, self.epsilon, dtype))
        emit.describe(squares, slots["squares"])
        return emit.op("Mul", ratio, factor), {"squares": squares}


def identities(block: KroneckerBlock) -> tuple[np.ndarray, np.ndarray]:
    """Inverses that leave the gradients of a layer as they are."""
    left, right = (np.tile(np.eye(width), (block.groups, 1, 1)) for width in (block.out, block.columns))
    return left, right


def curvature(block: KroneckerBlock, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    """G [groups, out, out] and A [groups, columns, columns] of a block. G is zero where no gradient could be had.

    Raises ValueError where A wasn't measured, or either isn't one matrix for each group.
    """
    if factors.input is None or factors.basis is not None:
        raise ValueError(f"layer {block.layer!r}: K-FAC needs the inputs and single outputs: Want(layer, inputs=True)")
    left = np.zeros((block.groups, block.out, block.out)) if factors.gradient is None else factors.gradient
    right = factors.input if block.bias is None else factors.with_bias()
    if left.shape[1:] != (block.out, block.out) or right.shape[1:] != (block.columns, block.columns):
        raise ValueError(f"layer {block.layer!r}: factors {left.shape} and {right.shape} are not whole matrices")
    return left.astype(np.float64), right.astype(np.float64)


def mean_eigenvalue(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Of the Fisher matrix whose blocks G kron A are given by their factors; 1 where all is zero."""
    total = sum(float(_traces(left) @ _traces(right)) for left, right in pairs)
    size = sum(len(left) * left.shape[-1] * right.shape[-1] for left, right in pairs)
    return total / size if total > 0 else 1.0


def damped_inverses(left: np.ndarray, right: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """(G + sqrt(damping) / pi I)^-1 [groups, out, out] and (A + pi sqrt(damping) I)^-1 [groups, in, in].

    pi^2 is the ratio of A's mean eigenvalue to that of G, for each group (Martens and Grosse, 2015, section 6.3), and 1
    where one of them is zero. Raises LinAlgError for a singular factor without damping.
    """
    means = [_traces(part) / part.shape[-1] for part in (left, right)]
    known = (means[0] > 0) & (means[1] > 0)
    pi = np.sqrt(np.divide(means[1], means[0], out=np.ones(len(left)), where=known))
    root = np.sqrt(damping)
    return _inverse(left, root / pi), _inverse(right, root * pi)


def _inverse(factor: np.ndarray, added: np.ndarray) -> np.ndarray:
    return np.linalg.inv(factor + added[:, None, None] * np.eye(factor.shape[-1]))


def _traces(factor: np.ndarray) -> np.ndarray:
    return np.trace(factor, axis1=1, axis2=2)
