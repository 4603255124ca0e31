"""Weighted low-rank approximation of one layer: W, G and the moments of its inputs in; spectra and factors out.

The loss of W' is q = 1/2 tr(G (W' - W) A (W' - W)^T), which predicts KL. With G = L L^T the best rank r is
W' = L^-T U_r U_r^T L^T W, U the eigenvectors of L^T Y L, Y = W A W^T; with A = R R^T it is also the truncated SVD of
L^T W R (GFWSVD, 2025; SVD-LLM is G = I). Both give q = half the sum of the squared singular values that are cut.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from scipy.linalg import cholesky, eigh, solve, solve_triangular, svd

from ...ir.forms import Form, low_rank, spatial, tucker, unfold
from ...ir.layers import Layer
from ..curvature.moments import Moments


@dataclass(frozen=True)
class Spectrum:
    """The weighted singular values of one group's W, and the factors at full rank: W = up @ down, columns and rows in
    order."""

    values: np.ndarray
    up: np.ndarray
    down: np.ndarray

    def loss(self, rank: int) -> float:
        """Predicted divergence of keeping `rank` directions."""
        return 0.5 * float(np.sum(self.values[rank:] ** 2))


def spectrum(
    weight: np.ndarray, gradient: np.ndarray, inner: np.ndarray | None, outputs: np.ndarray | None
) -> Spectrum:
    """The weighted spectrum of W [out, in] under G [out, out] and either A [in, in] or Y [out, out], all positive
    definite."""
    left = cholesky(gradient, lower=True)
    out, inputs = weight.shape
    if inner is not None and inputs < out:
        return _by_inputs(weight, left, inner)
    second = weight @ inner @ weight.T if inner is not None else outputs
    assert second is not None
    return _by_outputs(weight, left, second)


def _by_inputs(weight: np.ndarray, left: np.ndarray, inner: np.ndarray) -> Spectrum:
    right = cholesky(inner, lower=True)
    u, values, vt = svd(left.T @ weight @ right, full_matrices=False)
    up = solve_triangular(left, u, trans=1, lower=True)
    down = solve_triangular(right, vt.T, trans=1, lower=True).T
    return _balanced(values, up, values[:, None] * down)


def _by_outputs(weight: np.ndarray, left: np.ndarray, second: np.ndarray) -> Spectrum:
    squares, u = eigh(left.T @ second @ left)
    order = slice(None, None, -1)
    u = u[:, order]
    up = solve_triangular(left, u, trans=1, lower=True)
    return _balanced(np.sqrt(np.maximum(squares[order], 0)), up, u.T @ (left.T @ weight))


def _balanced(values: np.ndarray, up: np.ndarray, down: np.ndarray) -> Spectrum:
    """Scales each pair of column and row to equal norms, so that neither overflows a narrow type."""
    norms = np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=1)
    scale = np.sqrt(np.divide(norms[1], norms[0], out=np.ones_like(norms[0]), where=(norms[0] > 0) & (norms[1] > 0)))
    return Spectrum(values, up * scale, down / scale[:, None])


class Factorizer:
    """All weighted factorizations of one layer. `centered` measures the loss after the bias took up the mean of the
    change."""

    def __init__(self, layer: Layer, moments: Moments, centered: bool):
        self.layer = layer
        self.moments = moments
        self.weight = moments.compressed(layer.matrix())
        self.gradient = moments.gradient
        self.inner = moments.centered_input() if centered else moments.input
        second = moments.outputs(self.weight, centered)
        inners = [None] * layer.groups if self.inner is None else list(self.inner)
        self.spectra = [
            spectrum(w, g, a, y) for w, g, a, y in zip(self.weight, self.gradient, inners, second, strict=True)
        ]
        self.total = sum(s.loss(0) for s in self.spectra)

    def low_rank_loss(self, rank: int) -> float:
        return sum(s.loss(rank) for s in self.spectra)

    def low_rank(self, rank: int) -> Form:
        down = np.stack([s.down[:rank] for s in self.spectra])
        up = np.stack([s.up[:, :rank] for s in self.spectra])
        return Form(low_rank(self.layer, rank), (down, self.moments.expanded(up)))

    @property
    def has_kernel_forms(self) -> bool:
        """Whether there are spatial and Tucker-2 forms, and A is known."""
        return self.inner is not None and takes_kernel_forms(self.layer)

    def spatial(self, ranks: list[int]) -> list[tuple[float, Form]]:
        """The loss and the form for each of `ranks` vertical filters; the horizontal ones are the least-squares fit
        to them."""
        (height, width), channels = self.layer.kernel, self.layer.channels
        inner = self._inner()
        taps = inner.reshape(channels, height, width, channels, height, width)
        column = np.einsum("cijdkj->cidk", taps).reshape(channels * height, -1) / width
        rows = self.weight[0].reshape(-1, channels, height, width).transpose(0, 3, 1, 2)
        left, right = cholesky(self.gradient[0], lower=True), cholesky(column, lower=True)
        weighted = np.einsum("po,pjx->ojx", left, rows.reshape(self.layer.out, width, -1)) @ right
        _, _, vt = svd(weighted.reshape(-1, channels * height), full_matrices=False)
        vertical = solve_triangular(right, vt[: max(ranks)].T, trans=1, lower=True).T
        return [self._spatial(vertical[:rank], inner) for rank in ranks]

    def _spatial(self, vertical: np.ndarray, inner: np.ndarray) -> tuple[float, Form]:
        height, width = self.layer.kernel
        mapping = unfold(vertical[None], self.layer.channels, (height, 1), (1, width))[0]
        horizontal, loss = self._fit(mapping, inner)
        return loss, Form(spatial(self.layer, len(vertical)), (vertical[None], horizontal[None]))

    def tucker(self, inner_ranks: list[int], outer_ranks: list[int]) -> list[tuple[float, Form]]:
        """The loss and the form for each pair of ranks, the channels that are read first."""
        basis = self._channel_basis(max(inner_ranks))
        found: list[tuple[float, Form]] = []
        for rank in inner_ranks:
            found.extend(self._tucker(basis[:rank], outer_ranks))
        return found

    def _channel_basis(self, rank: int) -> np.ndarray:
        """Directions [rank, channels] of the input's channels that matter most, under the mean over the taps."""
        channels, taps = self.layer.channels, prod(self.layer.kernel)
        inner = np.einsum("ctdt->cd", self._inner().reshape(channels, taps, channels, taps)) / taps
        left = cholesky(self.gradient[0], lower=True)
        weighted = np.einsum("po,pct->otc", left, self.weight[0].reshape(-1, channels, taps)).reshape(-1, channels)
        right = cholesky(inner, lower=True)
        _, _, vt = svd(weighted @ right, full_matrices=False)
        return solve_triangular(right, vt[:rank].T, trans=1, lower=True).T

    def _tucker(self, basis: np.ndarray, outer_ranks: list[int]) -> list[tuple[float, Form]]:
        inner, rank = self._inner(), len(basis)
        ones = (1,) * len(self.layer.kernel)
        mapping = unfold(basis[None], self.layer.channels, ones, self.layer.kernel)[0]
        core, lost = self._fit(mapping, inner)
        cut = spectrum(core, self.gradient[0], None, core @ (mapping @ inner @ mapping.T) @ core.T)
        return [
            (
                lost + cut.loss(r),
                Form(tucker(self.layer, rank, r), (basis[None], cut.down[None, :r], cut.up[None, :, :r])),
            )
            for r in outer_ranks
        ]

    def _fit(self, mapping: np.ndarray, inner: np.ndarray) -> tuple[np.ndarray, float]:
        """The best H in W ~ H P for P = `mapping`, H = W A P^T (P A P^T)^-1, whatever G is, and its loss."""
        crossed = mapping @ inner
        fitted = solve(crossed @ mapping.T, crossed @ self.weight[0].T, assume_a="pos").T
        change = fitted @ mapping - self.weight[0]
        return fitted, 0.5 * float(np.sum((self.gradient[0] @ change) * (change @ inner)))

    def _inner(self) -> np.ndarray:
        assert self.inner is not None
        return self.inner[0]


def takes_kernel_forms(layer: Layer) -> bool:
    """Whether `layer` is an ungrouped 2-D convolution with a kernel larger than 1 along both axes, which can become
    spatial or Tucker-2."""
    return layer.groups == 1 and len(layer.kernel) == 2 and min(layer.kernel) > 1


def corrected_bias(layer: Layer, form: Form, moments: Moments) -> np.ndarray | None:
    """The bias [groups * out] that takes up the mean of the change, b + (W - W') E[a]; None where the layer can have
    none."""
    if moments.mean is not None or not layer.absorbs:
        return shifted_bias(layer, form.dense(), moments)
    assert moments.output_mean is not None
    parts = zip(form.weights[-1], moments.gradient, moments.output_mean, strict=True)
    lost = [mean - _projected(up, gradient, mean) for up, gradient, mean in parts]
    return (layer.bias_or_zero() + np.stack(lost)).ravel()


def shifted_bias(layer: Layer, weight: np.ndarray, moments: Moments) -> np.ndarray | None:
    """The bias [groups * out] that takes up the mean of a change to `weight` [groups, out, in]; None where the layer
    can have none."""
    if not layer.absorbs or moments.mean is None:
        return None
    return (layer.bias_or_zero() + np.einsum("goi,gi->go", layer.matrix() - weight, moments.mean)).ravel()


def _projected(up: np.ndarray, gradient: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The part of `mean` that the columns of `up` give under the metric `gradient`: W' E[a] where W' keeps the best
    directions."""
    weighted = up.T @ gradient
    return up @ solve(weighted @ up, weighted @ mean, assume_a="pos")
