"""Curvature of layers as matrices: second moments of inputs, outputs and gradients, and how rewrites change them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import prod
from typing import assert_never

import numpy as np

from ...ir.forms import Chain, composites, unfold
from ...ir.rewriter import Cleaned, Projected, Quantized, Redirected, Removed, Replaced, Rewrite, Tuned

LARGEST_INPUT = 6144  # up to so many inputs the passes ask for their second moment
ROUNDING = 1e-12  # above the float64 rounding of a sum over some thousand inputs


@dataclass(frozen=True)
class Want:
    """A layer, by name, and whether the second moment of its inputs is needed; without it, that of its outputs is
    given.

    `rows` says that the gradients of single outputs are needed; without it those of a layer of very many outputs are
    given along a basis. `removal` says that inputs are to be removed, and how well that is predicted is measured.
    """

    layer: str
    inputs: bool
    rows: bool = True
    removal: bool = False


@dataclass(frozen=True)
class Moments:
    """The factors of one layer, float64, already shrunken, so that all are positive definite.

    `input` A [groups, in, in] is the second moment of the inputs over samples and positions, `mean` [groups, in] the
    first. Without them, `output` [groups, out, out] and `output_mean` [groups, out] are the moments of W a.
    `gradient` G [groups, out, out] is scaled so that 1/2 tr(G D A D^T) predicts nats per sample for a change D of the
    weight. `measured` is False where no gradient could be had and G is the identity over the mean square of the
    outputs.

    Where `basis` Q [out, k] is given, orthonormal columns that span those of W, `gradient` [1, k, k] is that of Q^T
    g: all that changes within the span of W need (`compressed`), and no product of very many outputs.

    Of a table of embeddings `taken` [in] is how often each row was taken, a share.

    `unseen` [groups, in] is the part of the variances on the diagonal of A that no sample showed (`unseen_variances`);
    None where A isn't known, or is another layer's.

    A change that removes inputs costs `removal` times as much as the factors say, 1 where that wasn't measured.
    """

    gradient: np.ndarray
    input: np.ndarray | None = None
    mean: np.ndarray | None = None
    output: np.ndarray | None = None
    output_mean: np.ndarray | None = None
    measured: bool = True
    basis: np.ndarray | None = None
    unseen: np.ndarray | None = None
    removal: float = 1.0
    taken: np.ndarray | None = None

    def compressed(self, weight: np.ndarray) -> np.ndarray:
        """Q^T W [groups, k, ...] for W [groups, out, ...], what `gradient` is the metric of."""
        return weight if self.basis is None else np.tensordot(self.basis.T, weight[0], axes=1)[None]

    def expanded(self, weight: np.ndarray) -> np.ndarray:
        """Q W [groups, out, ...] for W [groups, k, ...]."""
        return weight if self.basis is None else np.tensordot(self.basis, weight[0], axes=1)[None]

    def kept(self, keep: Callable[[np.ndarray], np.ndarray]) -> "Moments":
        """The same with every matrix where `keep` puts it."""
        matrices = {name: getattr(self, name) for name in ("gradient", "input", "output")}
        return replace(self, **{name: keep(matrix) for name, matrix in matrices.items() if matrix is not None})

    def centered_input(self) -> np.ndarray | None:
        """The covariance of the inputs: what a change costs when the bias takes up the mean of it.

        Inputs that hardly vary, a single sample for instance, leave only rounding of the difference: ROUNDING of the
        mean square is added, so that it stays positive definite.
        """
        if self.input is None or self.mean is None:
            return None
        floor = ROUNDING * np.trace(self.input, axis1=1, axis2=2)[:, None, None] / self.input.shape[-1]
        covariance = self.input - self.mean[:, :, None] * self.mean[:, None, :]
        return covariance + floor * np.eye(self.input.shape[-1])

    def outputs(self, weight: np.ndarray, centered: bool) -> np.ndarray:
        """The second moment [groups, out, out] of W a, or its covariance; `weight` is W [groups, out, in]."""
        if self.input is not None:
            inner = self.centered_input() if centered else self.input
            return weight @ inner @ weight.transpose(0, 2, 1)
        assert self.output is not None
        assert self.output_mean is not None
        if not centered:
            return self.output
        return self.output - self.output_mean[:, :, None] * self.output_mean[:, None, :]


def divergence(change: np.ndarray, inner: np.ndarray, gradient: np.ndarray) -> float:
    """1/2 tr(G D A D^T) over all groups, for D [groups, out, in], A [groups, in, in], G [groups, out, out]."""
    return 0.5 * float(np.einsum("goi,goi->", gradient @ change, change @ inner))


def after(moments: Mapping[str, Moments], rewrites: Iterable[Rewrite]) -> dict[str, Moments]:
    """The moments of the layers that stand after `rewrites`, in the same quadratic model; those that can't be had are
    left out, and those of layers that a clean-up made are measured anew by whoever needs them."""
    current = dict(moments)
    for rewrite in rewrites:
        match rewrite:
            case Replaced():
                _replaced(current, rewrite)
            case Redirected():
                _redirected(current, rewrite)
            case Projected():
                _projected(current, rewrite)
            case Removed():
                _removed(current, rewrite)
            case Cleaned() | Tuned() | Quantized():
                pass
            case _:
                assert_never(rewrite)
    return current


def _redirected(moments: dict[str, Moments], rewrite: Redirected) -> None:
    """G is that of the layer, A that of what it reads now. Not in a basis, which may not span what the form gives."""
    whole, beside = moments.pop(rewrite.layer, None), moments.get(rewrite.beside)
    if whole is not None and beside is not None and whole.basis is None and beside.input is not None:
        read = beside.input, beside.mean
        moments[rewrite.layer] = Moments(whole.gradient, *read, measured=whole.measured, removal=whole.removal)
        width = beside.input.shape[-1]
        _replaced(moments, Replaced(rewrite.layer, width, (), rewrite.form, rewrite.parts, rewrite.bias))
    for name in rewrite.gone:
        moments.pop(name, None)


def _replaced(moments: dict[str, Moments], rewrite: Replaced) -> None:
    whole = moments.pop(rewrite.layer, None)
    structure = rewrite.form.structure
    if whole is None or not isinstance(structure, Chain):
        return
    *inner, last = rewrite.form.weights
    gradients = _gradients(structure, (*inner, whole.compressed(last)), whole.gradient)
    known = [Moments(gradient, measured=whole.measured) for gradient in gradients]
    if whole.input is not None and whole.mean is not None:
        known = [_read_by_the_first(whole, rewrite, gradients[0], structure.factors[0].kernel)]
        known += map(partial(_mapped, whole), _input_maps(structure, rewrite), gradients[1:])
    moments.update(zip(rewrite.parts, known, strict=True))
    moments[rewrite.parts[-1]] = replace(known[-1], basis=whole.basis)


def _read_by_the_first(whole: Moments, rewrite: Replaced, gradient: np.ndarray, kernel: tuple[int, ...]) -> Moments:
    """The moments of a factor that reads what the layer read: at the taps of its own `kernel` in the middle of it."""
    assert whole.input is not None
    assert whole.mean is not None
    taps = np.arange(rewrite.channels * prod(rewrite.kernel)).reshape(rewrite.channels, *rewrite.kernel)
    read = taps[(slice(None), *_middle(kernel, rewrite.kernel))].ravel()
    unseen = None if whole.unseen is None else whole.unseen[:, read]
    inner, mean = whole.input[:, read][:, :, read], whole.mean[:, read]
    removal, measured = whole.removal, whole.measured
    return Moments(gradient, inner, mean, measured=measured, unseen=unseen, removal=removal)


def _mapped(whole: Moments, inputs: np.ndarray, gradient: np.ndarray) -> Moments:
    if whole.input is None or whole.mean is None:
        return Moments(gradient, measured=whole.measured)
    inner = inputs @ whole.input @ inputs.transpose(0, 2, 1)
    mean = np.einsum("gki,gi->gk", inputs, whole.mean)
    return Moments(gradient, inner, mean, measured=whole.measured)


def _gradients(chain: Chain, weights: tuple[np.ndarray, ...], gradient: np.ndarray) -> list[np.ndarray]:
    """G of every factor, from the last back; the taps of a kernel count as independent positions."""
    result = [gradient]
    for factor, weight in zip(chain.factors[:0:-1], weights[:0:-1], strict=True):
        taps = weight.reshape(*weight.shape[:2], factor.channels, prod(factor.kernel))
        result.insert(0, np.einsum("goct,gop,gpdt->gcd", taps, result[0], taps, optimize=True))
    return result


def _input_maps(chain: Chain, rewrite: Replaced) -> list[np.ndarray]:
    """For each factor but the first, the map [groups, its inputs, inputs of the whole] from a patch of the layer to its
    own patch."""
    kernel: tuple[int, ...] = (1,) * len(rewrite.kernel)
    maps: list[np.ndarray] = []
    for product, (factor, following) in zip(
        composites(chain, rewrite.form.weights), pairwise(chain.factors), strict=False
    ):
        kernel = _joint(kernel, factor.kernel)
        patch = unfold(product, rewrite.channels, kernel, following.kernel)
        maps.append(_centre(patch, rewrite, _joint(kernel, following.kernel)))
    return maps


def _centre(mapping: np.ndarray, rewrite: Replaced, kernel: tuple[int, ...]) -> np.ndarray:
    """Places a map that reads a smaller `kernel` at the middle of the layer's whole kernel."""
    groups, rows, _ = mapping.shape
    placed = np.zeros((groups, rows, rewrite.channels, *rewrite.kernel))
    read = mapping.reshape(groups, rows, rewrite.channels, *kernel)
    placed[(slice(None), slice(None), slice(None), *_middle(kernel, rewrite.kernel))] = read
    return placed.reshape(groups, rows, -1)


def _middle(kernel: tuple[int, ...], whole: tuple[int, ...]) -> list[slice]:
    """Where a smaller kernel lies in the `whole` one."""
    return [slice(None) if a == b else slice(b // 2, b // 2 + 1) for a, b in zip(kernel, whole, strict=True)]


def _joint(kernel: tuple[int, ...], following: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a * b for a, b in zip(kernel, following, strict=True))


def _projected(moments: dict[str, Moments], rewrite: Projected) -> None:
    known = [(moments.get(name), up) for name, up in rewrite.ups.items()]
    if any(m is None or m.input is None for m, _ in known):
        for name in rewrite.ups:
            moments.pop(name, None)
        return
    first = known[0][0]
    assert first is not None
    narrow = [(m.gradient, m.compressed(up)) for m, up in known if m is not None]
    gradient = sum(up.transpose(0, 2, 1) @ g @ up for g, up in narrow)
    moments[rewrite.part] = replace(first, gradient=np.asarray(gradient), basis=None)
    for name in rewrite.ups:
        whole = moments[name]
        moments[name] = replace(_mapped(whole, rewrite.down, whole.gradient), basis=whole.basis)


def _removed(moments: dict[str, Moments], rewrite: Removed) -> None:
    """Cuts what producers give and consumers read; a carrier's groups are fewer, and nobody asks for its moments."""
    group = rewrite.group
    gone = np.delete(np.arange(group.channels), rewrite.keep)
    for carrier in group.carriers:
        moments.pop(carrier.layer, None)
    for producer in group.producers:
        whole = moments.get(producer.layer)
        if whole is not None and whole.basis is not None:
            del moments[producer.layer]  # the basis doesn't say what single outputs did
        elif whole is not None:
            rows = np.delete(np.arange(whole.gradient.shape[1]), producer.rows[gone].ravel())
            moments[producer.layer] = _without_outputs(whole, rows)
    for consumer in group.consumers:
        whole = moments.get(consumer.layer)
        if whole is not None:
            moments[consumer.layer] = _without_inputs(whole, consumer.columns[gone].ravel())


def _without_outputs(whole: Moments, rows: np.ndarray) -> Moments:
    def cut(matrix: np.ndarray | None) -> np.ndarray | None:
        return None if matrix is None else matrix[np.ix_(np.arange(len(matrix)), rows, rows)]

    mean = None if whole.output_mean is None else whole.output_mean[:, rows]
    return replace(whole, gradient=whole.gradient[:, rows][:, :, rows], output=cut(whole.output), output_mean=mean)


def _without_inputs(whole: Moments, gone: np.ndarray) -> Moments:
    if whole.input is None or whole.mean is None:
        return Moments(whole.gradient, measured=whole.measured, basis=whole.basis)
    inner = np.delete(np.delete(whole.input, gone, axis=1), gone, axis=2)
    unseen = None if whole.unseen is None else np.delete(whole.unseen, gone, axis=1)
    return replace(whole, input=inner, mean=np.delete(whole.mean, gone, axis=1), unseen=unseen)
