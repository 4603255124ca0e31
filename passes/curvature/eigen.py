"""EKFAC: the diagonal of the curvature in the eigenbasis of the factors (George et al., 2018)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ...ir.layers import Layer, Use
from . import rows
from .allowance import chunks
from .backward import back_propagated
from .bench import Bench
from .factors import Factors
from .seeds import seed, unit
from .sums import accumulate
from .work import Work, measurable

LARGEST = 512 << 20  # bytes that the gradients of all samples of a feed may take in one graph


@dataclass(frozen=True)
class Eigenbasis:
    """A = Qa diag Qa^T with Qa = `inputs` [groups, in, in], G = Qg diag Qg^T with Qg = `outputs` [groups, out, out],
    and `values` [groups, out, in], the mean over samples of (Qg^T (sum_t g a^T) Qa)^2: their sum is the exact
    trace."""

    inputs: np.ndarray
    outputs: np.ndarray
    values: np.ndarray

    def divergence(self, change: np.ndarray) -> float:
        """1/2 sum values (Qg^T D Qa)^2 for D [groups, out, in], in nats per sample."""
        turned = self.outputs.transpose(0, 2, 1) @ change @ self.inputs
        return 0.5 * float(np.sum(self.values * turned**2))


def eigenbases(
    bench: Bench,
    factors: Mapping[str, Factors],
    *,
    centered: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Mapping[str, Eigenbasis]:
    """The corrected eigenvalues of every layer whose `factors` have both A and G.

    `centered` takes the mean of the inputs out where the layer absorbs it: then a change is one whose mean goes to the
    bias. `advance` is called after every graph, of which there are as many as the gradients of all samples take.
    """
    known = {name: found for name, found in factors.items() if _whole(found)}
    layers = measurable(bench.model)
    result: dict[str, Eigenbasis] = {}
    samples = max(bench.survey.counts)
    for chunk in chunks((layers[n] for n in known), lambda layer: 4.0 * samples * layer.parameters, LARGEST):
        shifts = {layer.name: centered and layer.absorbs for layer in chunk}
        result |= _measured({x.name: _basis(known[x.name], shifts[x.name]) for x in chunk}, bench)
        advance()
    return result


def _whole(factors: Factors) -> bool:
    """Whether both factors are matrices, G that of all outputs."""
    if factors.input is None or factors.mean is None or factors.gradient is None or factors.basis is not None:
        return False
    return factors.input.shape[:-1] == factors.mean.shape and len(factors.gradient) == len(factors.mean)


@dataclass(frozen=True)
class _Basis:
    inputs: np.ndarray
    outputs: np.ndarray
    mean: np.ndarray | None


def _basis(factors: Factors, centered: bool) -> _Basis:
    assert factors.input is not None
    assert factors.mean is not None
    assert factors.gradient is not None
    mean = factors.mean[:, :, None] * factors.mean[:, None, :]
    inner = factors.input - mean if centered else factors.input
    return _Basis(np.linalg.eigh(inner)[1], np.linalg.eigh(factors.gradient)[1], factors.mean if centered else None)


def _measured(bases: Mapping[str, _Basis], bench: Bench) -> dict[str, Eigenbasis]:
    work = Work(bench.model)
    seeded, seeds = seed(work, bench.heads, bench.settings.temperature)
    given, _ = back_propagated(work, bases, seeded)
    names = {name: _emitted(work, work.layers[name], found, bases[name]) for name, found in given.items()}
    run, sums = bench.execute(work.finish()), {}
    for _, _, found in bench.runs(run, seeds, np.dtype(work.dtype.numpy())):
        accumulate(sums, found)
    runs = bench.samples * bench.draws
    scale = unit(bench.heads, [(seeds, sums)], runs) / runs
    return {name: Eigenbasis(bases[name].inputs, bases[name].outputs, scale * sums[out]) for name, out in names.items()}


def _emitted(work: Work, layer: Layer, given: Mapping[Use, onnx_ir.Value], basis: _Basis) -> str:
    """The sum over samples of the squares of the gradient in the basis [groups, out, in]."""
    widths = layer.out, layer.inputs
    turned = basis.inputs.transpose(0, 2, 1)
    parts = []
    for use, gradient in given.items():
        read = rows.applied(work, layer, use, turned)
        if basis.mean is not None:
            shift = np.einsum("gki,gi->gk", turned, basis.mean).reshape(-1, *(1,) * len(layer.kernel))
            read = work.op("Sub", [read, work.constant(shift)])
        given_in_basis = _turned(work, layer, gradient, basis.outputs)
        parts.append(rows.cross_totals(work, layer, given_in_basis, read, widths, use.output))
    total = parts[0] if len(parts) == 1 else work.op("Sum", parts)
    return work.output(work.op("ReduceSumSquare", [total, work.integers(0)], keepdims=0))


def _turned(work: Work, layer: Layer, gradient: onnx_ir.Value, outputs: np.ndarray) -> onnx_ir.Value:
    """Qg^T g."""
    if layer.op != "Conv":
        return work.op("MatMul", [gradient, work.constant(outputs[0])])
    kernel = outputs.transpose(0, 2, 1).reshape(-1, layer.out, *(1,) * len(layer.kernel))
    return work.op("Conv", [gradient, work.constant(kernel)], group=layer.groups)
