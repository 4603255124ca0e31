"""Which samples serve which purpose: what the user gave in, disjoint sets for calibration, choosing and reporting
out."""

from dataclasses import dataclass, replace

import onnx_ir

from ...ir.errors import DataError, UsageError
from ...runtime.data.named_data import Dataset, read_data
from ...runtime.data.synthetic import synthesize
from ...runtime.data.trials import Run, reason_for_single
from .sources import LARGEST_CALIBRATION, Sources

EVALUATION_SHARE = 0.2
VALIDATION_SHARE = 0.3
HELD_OUT_SHARE = 0.1
LARGEST_VALIDATION = 4096  # these and those that are reported cost forward passes only
LARGEST_EVALUATION = 4096
HELD = 1 << 30  # bytes: outputs of the original and of a candidate are in memory at once
FEWEST = 64  # are judged, whatever their outputs take
LARGEST_HELD_OUT = 512
LARGEST_GIVEN = LARGEST_CALIBRATION + LARGEST_VALIDATION + LARGEST_EVALUATION  # taken from a function, without end
LARGEST_TRAINING = 100_000  # the same for recovery

HELD_OUT = ("are trained on", "say when to stop")


@dataclass(frozen=True)
class Purposes:
    """What samples have to serve beside guiding and checking: `by_accuracy` a limit on accuracy, `recovering` a
    training."""

    by_accuracy: bool = False
    recovering: bool = False


@dataclass(frozen=True)
class Samples:
    """`calibration` guides, `validation` chooses, which is `choosing` of the samples that were given, and `evaluation`
    is reported; no two share a sample.

    For recovery there are two more, else None: `training`, of which `calibration` is a part, and `held_out`, which says
    when training stops and which weights were best; none of the others has a sample of it. `single` says why the model
    takes one sample at a time, where its inputs would let it take more.
    """

    calibration: Dataset
    validation: Dataset
    evaluation: Dataset
    training: Dataset | None = None
    held_out: Dataset | None = None
    single: str | None = None
    choosing: float = VALIDATION_SHARE


def gather(sources: Sources, model: onnx_ir.Model, run: Run, purposes: Purposes) -> Samples:
    """Reads or makes the samples; `run` runs the model. With `by_accuracy` the labelled ones are halved: one half
    chooses, the other is reported. With `recovering` there are samples for training too, at most 100,000 of a
    function's, labelled where those of `data` are.

    What isn't needed to guide chooses. Raises DataError for what doesn't fit, and where there are too few samples to
    keep the purposes apart.
    """
    given, reported = _given(sources, model, run, purposes), _reported(sources, model)
    single = reason_for_single(given, run)
    if single is not None:
        given, reported = replace(given, fixed=1), None if reported is None else replace(reported, fixed=1)
    if purposes.by_accuracy and (given if reported is None else reported).labels is None:
        raise UsageError("a drop in accuracy can only be measured with --labels")
    if purposes.by_accuracy and reported is not None:
        validation, evaluation = reported.split(0.5, sources.seed)
        rest, choosing = given, 0.5
    else:
        _check_enough(given, _uses(reported is None, purposes.recovering))
        evaluation, rest = (reported, given) if reported is not None else _reported_part(given, sources.seed)
        spared = 0 if purposes.recovering else rest.samples - sources.calibration
        wanted = min(max(VALIDATION_SHARE * given.samples, spared), LARGEST_VALIDATION)
        validation, rest = rest.split(wanted / rest.samples, sources.seed)
        choosing = VALIDATION_SHARE
    if not purposes.recovering:
        return Samples(_limited(rest, sources.calibration), validation, evaluation, single=single, choosing=choosing)
    _check_enough(rest, HELD_OUT)
    share = min(HELD_OUT_SHARE * given.samples, LARGEST_HELD_OUT) / rest.samples
    held_out, training = rest.split(share, sources.seed + 1)
    calibration = _limited(training, sources.calibration)
    return Samples(calibration, validation, evaluation, training, held_out, single, choosing)


def affordable(samples: Samples, each: float, seed: int) -> Samples:
    """The samples, of those that choose and those that are reported so many, drawn at random, that their outputs of
    `each` bytes a sample take HELD bytes, but FEWEST at least."""
    most = max(FEWEST, int(HELD // max(each, 1)))
    parts = (
        data if data.samples <= most else data.split(most / data.samples, seed)[0]
        for data in (samples.validation, samples.evaluation)
    )
    validation, evaluation = parts
    return replace(samples, validation=validation, evaluation=evaluation)


def _given(sources: Sources, model: onnx_ir.Model, run: Run, purposes: Purposes) -> Dataset:
    data = synthesize(model, seed=sources.seed, run=run) if sources.data is None else sources.data
    return read_data(data, sources.labels_of_data, model, LARGEST_TRAINING if purposes.recovering else LARGEST_GIVEN)


def _reported(sources: Sources, model: onnx_ir.Model) -> Dataset | None:
    return None if sources.eval_data is None else read_data(sources.eval_data, sources.labels, model)


def _reported_part(given: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """The samples that are reported, and the others."""
    return given.split(min(EVALUATION_SHARE, LARGEST_EVALUATION / given.samples), seed + 2)


def _uses(reporting: bool, recovering: bool) -> tuple[str, ...]:
    """What the samples of `data` do."""
    guiding = HELD_OUT if recovering else ("guide the run",)
    return (*guiding, "choose", *(("check the result",) if reporting else ()))


def _limited(data: Dataset, most: int) -> Dataset:
    return replace(data.take(most), labels=None) if data.samples > most else data


def _check_enough(given: Dataset, uses: tuple[str, ...]) -> None:
    """Each use needs a sample, or a batch where that is fixed; says how many of the user's own or made-up ones lack."""
    wanted = len(uses) * (given.fixed or 1)
    if given.samples >= wanted:
        return
    if not given.batches or not given.batches[0]:
        raise DataError("the model has no inputs: its outputs are constants, and there is nothing to measure")
    why = f"some samples {', others '.join(uses[:-1])} and others {uses[-1]}, so give at least {wanted}"
    if given.synthetic:
        raise DataError(f"only {given.samples} sample(s) could be made up from the graph: {why}, with --data")
    raise DataError(f"{given.source} has {given.said_samples}: {why}")
