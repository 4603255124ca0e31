"""What each layer would cost: a model in; for every layer the predicted or measured divergence of standard changes, the
exact trace of its curvature and the effective ranks of its factors out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import onnx_ir

from ...ir.analyses import Analyses
from ...ir.cost import Piece
from ...ir.errors import InputError
from ...ir.forms import structure_of
from ...ir.layers import Layer
from ...passes.curvature import Bench, Curvature, Factors, measurable, measure_factors, moments_of
from ...passes.curvature.judged import Reason
from ...passes.curvature.measuring import Statistics
from ...passes.curvature.moments import LARGEST_INPUT, Want
from ...passes.planning.stages import Shapes
from ...runtime.data.named_data import Data
from ...runtime.environment import limit_threads, versions
from ...runtime.sessions import Target
from ..report.progress import Progress, Silent
from ..report.sensitivity_records import INPUT_ONLY, Left, Row, Sensitivity
from .cache import statistics_store, tidy
from .exploration import TEMPERATURES
from .machine import Machine, check_threads
from .measured_changes import Measuring
from .memory import peak_memory
from .samples import Purposes
from .shaped_model import ShapedModel
from .sources import Sources
from .standard_changes import channels_removed, rank_halved
from .subject import Subject, open_subject

ROUNDING = 1e-6  # of a mean square: what float32 sums leave of a variance
UNREACHED = "no-curvature", "its gradient is zero on this data"


def sensitivity(
    source: object,
    *,
    example_inputs: object = None,
    inputs: Sequence[str] | str | None = None,
    data: Data | None = None,
    heads: Mapping[str, str] | None = None,
    judge: Sequence[str] | str = (),
    temperature: float = 1.0,
    target: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    memory_limit: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Sensitivity:
    """What each layer of the model `source` would cost; nothing is changed.

    Options are those of `optimize`; the samples that guide are the same as there. `temperature` is that of the
    softmax of categorical outputs, `threads` by default one for each core.

    Raises the errors of `kronnx.ir.errors`, each with the exit code of the command line.
    """
    sources = Sources(source, example_inputs, inputs, data, heads=heads, judge=judge, seed=seed)
    machine = Machine(target, threads, 1, cache_dir, memory_limit, fresh)
    return measured_sensitivity(sources, temperature, machine, progress or Silent())


def measured_sensitivity(sources: Sources, temperature: float, machine: Machine, progress: Progress) -> Sensitivity:
    """What `sensitivity` gives, whose arguments these are."""
    settings = Curvature(temperature=temperature, seed=sources.seed)
    check_threads(machine)
    place = Target(machine.target, machine.timed_threads)
    tidy(machine)
    subject = open_subject(sources, Purposes(), place, place, progress)
    _check_judged(subject, subject.reason_to_leave())
    judge = subject.judge(subject.samples.validation)
    _check_judged(subject, subject.nothing_found(judge) or subject.unrepeatable(judge))
    model, reason = subject.cleaned(judge)
    _check_judged(subject, reason)
    with nullcontext() if machine.threads is None else limit_threads(machine.threads):
        rows = _rows(subject, subject.shaped(model, subject.sample(1)), settings, machine)
    return Sensitivity(
        input=subject.source.name,
        data=subject.data_record(),
        temperature=temperature,
        rows=rows,
        left=tuple(Left(r.site, r.reason, r.detail) for r in Analyses(model).layers.left),
        heads={h.output: h.kind for h in subject.heads},
        notes=subject.notes(),
        versions=versions(),
        peak_memory=peak_memory(),
    )


def _check_judged(subject: Subject, reason: tuple[str, str] | None) -> None:
    if reason is not None:
        raise InputError(f"the layers of {subject.source.name} can't be judged: {reason[1]}")


def _rows(subject: Subject, clean: ShapedModel, settings: Curvature, machine: Machine) -> tuple[Row, ...]:
    analyses, feeds = Analyses(clean.model), clean.feeds(subject.samples.calibration, machine.memory_limit)
    bench = subject.bench(clean.model, feeds, settings)
    layers = {**measurable(bench.model), **analyses.layers.found}
    shapes = subject.shapes(bench.model, clean.sample)
    found = _statistics(subject, bench, layers.values(), machine, "curvature")
    reasons = {remark.site: (remark.reason, remark.detail) for remark in found.remarks}
    rows = []
    with subject.progress.step("layers", len(found.factors)) as advance:
        for name, factors in found.factors.items():
            rows.append(_row(layers[name], factors, reasons.get(name, UNREACHED), analyses, shapes))
            advance()
    if settings.temperature == 1:  # else the figures are no divergence of the outputs
        rows = _measured(rows, subject, clean.model, bench, found, machine)
    return tuple(sorted(rows, key=_order))


def _measured(
    rows: Sequence[Row], subject: Subject, model: onnx_ir.Model, bench: Bench, cold: Statistics, machine: Machine
) -> list[Row]:
    """The rows, those whose predictions can't be trusted with measured costs: the lesser one of what the curvatures of
    both temperatures build, as the passes take it."""
    measuring = Measuring.of(model, bench, subject, len(rows))
    open_ = [cold.layers[row.name] for row in rows if measuring.wants(row)]
    known = [cold.factors]
    if open_ and any(head.is_probability for head in bench.heads):
        warm = TEMPERATURES[-1]
        warmer = replace(bench, settings=replace(bench.settings, temperature=warm))
        known.append(_statistics(subject, warmer, open_, machine, f"curvature, temperature {warm:g}").factors)
    costs = {}
    with subject.progress.step("measured changes", len(open_)) as advance:
        for layer in open_:
            costs[layer.name] = measuring.costs(layer, [moments_of(layer, one[layer.name]) for one in known])
            advance()
    return [replace(row, **costs.get(row.name, {})) for row in rows]


def _statistics(subject: Subject, bench: Bench, layers: Iterable[Layer], machine: Machine, title: str) -> Statistics:
    wants = [Want(layer.name, layer.inputs <= LARGEST_INPUT, rows=False) for layer in layers]
    with subject.progress.step(title, len(bench.feeds)) as advance:
        limit, store = machine.memory_limit, statistics_store(machine)
        return measure_factors(bench, wants, advance=advance, memory_limit=limit, store=store)


def _order(row: Row) -> tuple[float, ...]:
    costs = (change.predicted for change in (row.rank_halved, row.channels_removed))
    return float(row.metric == INPUT_ONLY), *(1.0 if cost is None else -cost for cost in costs)


def _row(layer: Layer, factors: Factors, reason: Reason, analyses: Analyses, shapes: Shapes) -> Row:
    judged, moments = factors.gradient is not None, moments_of(layer, factors)
    return Row(
        name=layer.name,
        op=layer.op,
        shape=_shape(layer),
        parameters=layer.parameters,
        macs=_macs(layer, shapes),
        rank_halved=rank_halved(layer, moments).said,
        channels_removed=channels_removed(layer, moments, analyses).said,
        trace=factors.trace if judged else None,
        input_rank=None if factors.input is None else effective_rank(_centered(layer, factors)),
        gradient_rank=None if factors.gradient is None else effective_rank(factors.gradient),
        metric=factors.sharing if judged else INPUT_ONLY,
        reason="" if judged else reason[0],
        detail="" if judged else reason[1],
    )


def _macs(layer: Layer, shapes: Shapes) -> int | None:
    """Multiply-adds of one sample, none for rows that are looked up, or None inside of an operator."""
    if layer.op == "Gather":
        return 0
    inputs = [shapes.get(str(use.input.name)) for use in layer.uses]
    known = tuple(shape for shape in inputs if shape is not None)
    return round(Piece(structure_of(layer), known).cost().macs) if len(known) == len(inputs) else None


def _shape(layer: Layer) -> str:
    one = f"{layer.out} x {layer.inputs}"
    return one if layer.groups == 1 else f"{layer.groups} of {one}"


def effective_rank(matrices: np.ndarray) -> float:
    """(tr M)^2 / ||M||_F^2 of the block-diagonal M of `matrices` [groups, d, d], or of the diagonal [groups, d],
    positive semi-definite: how many equal eigenvalues would give the same; between 1 and groups * d, and 0 for zeros.

    Source: the effective rank R_0 of Bartlett, Long, Lugosi and Tsigler, 2020; the participation ratio of physics.
    """
    square = float(np.sum(matrices**2))
    total = float(matrices.sum() if matrices.ndim == 2 else np.trace(matrices, axis1=1, axis2=2).sum())
    return total**2 / square if square > 0 else 0.0


def _centered(layer: Layer, factors: Factors) -> np.ndarray:
    """A, about the mean where a bias can take that up; zeros where nothing but rounding is left, as of one sample."""
    assert factors.input is not None
    assert factors.mean is not None
    if not layer.absorbs:
        return factors.input
    covariance = factors.input - factors.mean[:, :, None] * factors.mean[:, None, :]
    left, whole = (np.trace(matrices, axis1=1, axis2=2).sum() for matrices in (covariance, factors.input))
    return covariance if left > ROUNDING * whole else np.zeros_like(covariance)
