"""The factors of a layer, assembled from sums, and the moments that passes read, made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import block_diag

from ...ir.layers import Layer
from .graph import GradientSums, InputSums, Task
from .halves import Half, steadied
from .moments import ROUNDING, Moments
from .sums import Arrays
from .unseen import unseen_variances

# Neighbouring positions say nearly the same: more than a few of a sample don't count as samples of their own (math:
# shrinkage).
INDEPENDENT_POSITIONS = 4


@dataclass(frozen=True)
class Inner:
    """What a layer reads (or gives): the second moment [groups, d, d] and the mean [groups, d] over `count` rows, and
    the mean and the mean square [groups, probes] of the probed reads; where there were two parts, the first of them."""

    second: np.ndarray
    mean: np.ndarray
    count: float
    probed: np.ndarray
    square: np.ndarray
    half: Half | None = None

    def energy(self, centered: bool) -> np.ndarray:
        """The mean square norm of a row [groups], of its distance from the mean if `centered`."""
        return (self.square - self.probed**2 if centered else self.square).mean(axis=1)

    @property
    def finite(self) -> bool:
        """Whether all numbers are, and none was too large for the type it was summed in."""
        squares = self.second if self.second.ndim == 2 else np.einsum("gii->gi", self.second)
        return all(np.isfinite(part).all() for part in (squares, self.mean, self.square))

    def neutral(self) -> "Inner":
        """The same as if all numbers had been independent and of variance 1."""
        eye = np.ones(()) if self.second.ndim == 2 else np.eye(self.second.shape[-1])
        second = np.broadcast_to(eye, self.second.shape).astype(self.second.dtype)
        zeros, ones = np.zeros_like(self.probed), np.ones_like(self.square)
        return Inner(second, np.zeros_like(self.mean), self.count, zeros, ones)


@dataclass(frozen=True)
class Outer:
    """The gradients of a layer, over samples and draws: G [groups, k, k], and of P = sum_t g (a^T z) and s = sum_t g
    the means of |P|^2, P s [groups, probes] and |s|^2 [groups]; where there were two parts, the first of them."""

    second: np.ndarray
    square: np.ndarray
    crossed: np.ndarray
    total: np.ndarray
    half: Half | None = None

    def trace(self, mean: np.ndarray) -> float:
        """The mean over samples of || sum_t g (a - mean)^T ||_F^2, given the probed mean [groups, probes]."""
        traces = self.square - 2 * mean * self.crossed + mean**2 * self.total[:, None]
        return float(traces.mean(axis=1).sum())


@dataclass(frozen=True)
class Factors:
    """The factors of one layer as they were measured, summed in float64, kept in the type of the model, not shrunken.

    With `sharing` "expand" `input` A [groups, in, in] is 1/(N T) sum_nt a a^T and `gradient` G [groups, out, out] is
    1/N sum_nt g g^T; with "reduce" A is 1/N sum_n (mean_t a)(mean_t a)^T and G 1/N sum_n (sum_t g)(sum_t g)^T
    (Eschenhagen et al., 2023). `mean` [groups, in] is the mean of a. Where the inputs weren't asked for, `output`
    [groups, out, out] and `output_mean` are the moments of W a. `gradient` is None where it could not be had.

    `trace` is 1/N sum_n || sum_t g a^T ||_F^2, the exact trace of the layer's block, about the mean of a where the
    layer has a place for a bias; `energy` [groups] the mean of ||a||^2, about the same. Both come from the same few
    random probes, and are exact for layers of so few inputs. G is that of Q^T g where `basis` Q [out, k] is given:
    the layer's columns lie in its range. `samples` and `rows` are how many were seen: N, and the rows that A is the
    mean of. Of a layer with more than some thousand inputs (or outputs) A (or G) is block-diagonal, [blocks, d, d];
    of a table of embeddings A is a diagonal [1, in]. `half` is that part of A (or of the outputs' moment), and
    `gradient_half` that of G, that was measured on every other batch, if there were two.
    """

    sharing: str
    gradient: np.ndarray | None
    input: np.ndarray | None
    mean: np.ndarray | None
    output: np.ndarray | None
    output_mean: np.ndarray | None
    trace: float
    energy: np.ndarray
    samples: int
    rows: float
    draws: int
    basis: np.ndarray | None = None
    half: Half | None = None
    gradient_half: Half | None = None

    def with_bias(self) -> np.ndarray:
        """A [groups, in + 1, in + 1] of inputs with one more that is always 1. Raises ValueError where A is not
        known, or not as one matrix."""
        if self.input is None or self.mean is None or self.input.shape[:-1] != self.mean.shape:
            raise ValueError("the inputs were not measured as one matrix")
        groups, inputs = self.mean.shape
        whole = np.ones((groups, inputs + 1, inputs + 1))
        whole[:, :-1, :-1] = self.input
        whole[:, :-1, -1] = whole[:, -1, :-1] = self.mean
        return whole

    @property
    def predicted_trace(self) -> float:
        """tr(G) tr(A), summed over the groups: what the two factors make of `trace`."""
        assert self.gradient is not None
        traces = np.trace(self.gradient, axis1=1, axis2=2)
        return float(traces.reshape(len(self.energy), -1).sum(axis=1) @ self.energy)

    @property
    def effective(self) -> float:
        """How many independent rows were seen."""
        if self.sharing == "reduce":
            return self.samples
        return self.samples * min(self.rows / self.samples, INDEPENDENT_POSITIONS)


def assembled_inner(spec: InputSums, sums: Arrays, dtype: np.dtype) -> Inner:
    """The means of the sums that `spec` names, zeros where no row was seen; the large matrix is kept in `dtype`."""
    rows = sum(float(np.sum(sums[name])) for name in spec.counts)
    count = max(rows, 1.0)
    second = _total([product.second(sums) for product in spec.products])
    second /= count
    first = _total([product.first(sums) for product in spec.products])
    if spec.vectors is not None:
        probed, square = _of_probes(spec.vectors, first / count, second)
    else:
        probed, square = (_total([sums[name] for name in names]) / count for names in (spec.probed, spec.squares))
    return Inner(second.astype(dtype, copy=False), first / count, rows, probed, square)


def joined_inner(parts: Sequence[Inner]) -> Inner:
    """The means over the rows of one or two parts."""
    seen = [part for part in parts if part.count] or parts[:1]
    if len(seen) == 1:
        return seen[0]
    first, other = seen
    share = first.count / (first.count + other.count)
    second, mean, probed, square = (
        share * getattr(first, name) + (1 - share) * getattr(other, name)
        for name in ("second", "mean", "probed", "square")
    )
    half = Half(first.second, share, first.mean, mean)
    return Inner(second, mean, first.count + other.count, probed, square, half)


def _of_probes(vectors: np.ndarray, mean: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means of a^T z and of its square [groups, probes], for A [groups, in, in] or its diagonal [groups, in]."""
    turned = vectors * second[:, None] if second.ndim == 2 else vectors.astype(second.dtype) @ second
    return np.einsum("gki,gi->gk", vectors, mean), np.einsum("gki,gki->gk", vectors, turned)


def assembled_outer(parts: Sequence[tuple[GradientSums, Arrays]], runs: float, dtype: np.dtype) -> Outer:
    """The means over `runs` (samples times draws) of what one or several graphs summed up; the large matrix is kept in
    `dtype`."""
    second = _total([product.second(sums) for spec, sums in parts for product in spec.products])
    second /= runs
    square, crossed, total = (
        _total([sums[name] for spec, sums in parts for name in getattr(spec, names)]) / runs
        for names in ("squares", "crossed", "totals")
    )
    return Outer(second.astype(dtype, copy=False), square, crossed, total)


def joined_outer(parts: Sequence[Outer], shares: Sequence[float]) -> Outer:
    """The means over all samples of one or two parts, of so large a share each."""
    if len(parts) == 1:
        return parts[0]
    (first, other), (share, rest) = parts, shares
    second, square, crossed, total = (
        share * getattr(first, name) + rest * getattr(other, name) for name in ("second", "square", "crossed", "total")
    )
    return Outer(second, square, crossed, total, Half(first.second, share))


def _total(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Their sum; the first of them may be used for it. Zero if there are none."""
    if not arrays:
        return np.zeros(())
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total


def factors_of(layer: Layer, task: Task, inner: Inner, outer: Outer | None, samples: int, draws: int) -> Factors:
    """The factors that the means of one layer make, neutral ones where those are not finite."""
    if not inner.finite:
        inner, outer = inner.neutral(), None
    trace = 0.0 if outer is None else outer.trace(inner.probed if layer.absorbs else np.zeros_like(inner.probed))
    usable = outer is not None and np.isfinite(trace) and outer.second.any()
    second, mean = inner.second, inner.mean.reshape(layer.groups, -1)
    if layer.absorbs and not task.inputs and layer.op != "MatMul":  # such a node gives W a + b
        second, mean = _without_bias(layer, inner)
    return Factors(
        sharing=task.sharing,
        gradient=outer.second if outer is not None and usable else None,
        input=second if task.inputs else None,
        mean=mean if task.inputs else None,
        output=None if task.inputs else second,
        output_mean=None if task.inputs else mean,
        trace=trace,
        energy=inner.energy(layer.absorbs),
        samples=samples,
        rows=max(inner.count, 1.0),
        draws=draws,
        basis=task.basis,
        half=inner.half,
        gradient_half=outer.half if outer is not None and usable else None,
    )


def _without_bias(layer: Layer, inner: Inner) -> tuple[np.ndarray, np.ndarray]:
    """The moments of W a, given those of W a + b."""
    mean = inner.mean - layer.bias_or_zero()
    return inner.second + _outer(mean) - _outer(inner.mean), mean


def whole(blocks: np.ndarray, groups: int) -> np.ndarray:
    """Diagonal blocks [groups * blocks, d, d] as matrices [groups, blocks * d, blocks * d]."""
    if len(blocks) == groups:
        return blocks
    return np.stack([np.asarray(block_diag(*part)) for part in np.split(blocks, groups)])


def _outer(mean: np.ndarray) -> np.ndarray:
    return mean[:, :, None] * mean[:, None, :]


def moments_of(layer: Layer, factors: Factors) -> Moments:
    """The factors, cross-fitted or shrunken, with G scaled so that tr(G) tr(A) is the exact trace of the layer's block.

    That is done to covariances, means are kept. Where the layer absorbs a mean, the trace is that about the mean, which
    adds up over all positions and is the bias's to correct. Inputs that were the same in all samples have the variance
    that no sample showed. Without a gradient G is the identity over the mean square
    of the layer's outputs: the input-only metric. A table of embeddings is known by the moments of its outputs.
    """
    known = _of_table(layer, factors) if layer.op == "Gather" else _shrunken_inner(layer, factors)
    if factors.gradient is None:
        return _input_only(layer, known)
    kept = steadied(factors.gradient.astype(np.float64), factors.gradient_half, factors.effective * factors.draws)
    predicted = factors.predicted_trace
    scale = factors.trace / predicted if predicted > 0 < factors.trace else 1.0  # inputs that never change have none
    return known.with_gradient(whole(kept, layer.groups) * scale, factors.basis)


@dataclass(frozen=True)
class _Activations:
    """What `Moments` holds besides the gradient: the moments of what a layer reads, or of what it gives."""

    input: np.ndarray | None = None
    mean: np.ndarray | None = None
    output: np.ndarray | None = None
    output_mean: np.ndarray | None = None
    unseen: np.ndarray | None = None
    taken: np.ndarray | None = None

    def with_gradient(self, gradient: np.ndarray, basis: np.ndarray | None = None) -> Moments:
        known = self.input, self.mean, self.output, self.output_mean
        return Moments(gradient, *known, basis=basis, unseen=self.unseen, taken=self.taken)


def _shrunken_inner(layer: Layer, factors: Factors) -> _Activations:
    known = (factors.input, factors.mean) if factors.input is not None else (factors.output, factors.output_mean)
    second, mean = (None if part is None else part.astype(np.float64) for part in known)
    assert second is not None
    assert mean is not None
    blocks = mean.reshape(len(second), -1)
    prior = layer.matrix() @ layer.matrix().transpose(0, 2, 1) if factors.input is None and len(blocks) == 1 else None
    covariance = second - _outer(blocks)
    unseen = unseen_variances(np.einsum("gii->gi", covariance).reshape(mean.shape), mean, factors.samples)
    steady = steadied(covariance, factors.half, factors.effective, prior)
    kept = whole(steady, layer.groups) + _outer(mean)
    diagonal = np.einsum("gii->gi", kept)
    diagonal += ROUNDING * diagonal.mean(axis=1, keepdims=True)  # where nothing varies, the mean alone is singular
    if factors.input is not None:
        diagonal += unseen
        return _Activations(kept, mean, unseen=unseen)
    return _Activations(output=kept, output_mean=mean)


def _of_table(layer: Layer, factors: Factors) -> _Activations:
    assert factors.input is not None
    weight = layer.matrix()
    second = (weight * factors.input[:, None]) @ weight.transpose(0, 2, 1)
    mean = np.einsum("goi,gi->go", weight, factors.input)
    return _Activations(output=steadied(second, None, factors.effective), output_mean=mean, taken=factors.input[0])


def _input_only(layer: Layer, known: _Activations) -> Moments:
    """With the identity for G, over the mean square of the layer's outputs."""
    eye = np.broadcast_to(np.eye(layer.out), (layer.groups, layer.out, layer.out))
    moments = known.with_gradient(eye)
    square = np.trace(moments.outputs(layer.matrix(), centered=False), axis1=1, axis2=2).sum()
    return replace(moments, gradient=eye / max(float(square), 1e-30), measured=False)
