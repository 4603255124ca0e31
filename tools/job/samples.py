"""Which samples serve which purpose: what the user gave in, disjoint sets for calibration, choosing and reporting
out."""

from dataclasses import dataclass, replace

import onnx_ir

from ...ir.errors import DataError, UsageError
from ...runtime.data.named_data import MAX_SAMPLES, Dataset, read_data
from ...runtime.data.synthetic import synthesize
from ...runtime.data.trials import Run, reason_for_single
from .sources import Sources

VALIDATION_SHARE = 0.25
HELD_OUT_SHARE = 0.1
LARGEST_VALIDATION = 512
LARGEST_HELD_OUT = 512
LARGEST_TRAINING = 100_000  # taken from a function, which may never end

CHECKED = ("guide the run", "check it")
HELD_OUT = ("are trained on", "say when to stop")
TRAINED_ON = (*HELD_OUT, "check the result")


@dataclass(frozen=True)
class Purposes:
    """What samples have to serve beside guiding and checking: `by_accuracy` a limit on accuracy, `recovering` a
    training."""

    by_accuracy: bool = False
    recovering: bool = False


@dataclass(frozen=True)
class Samples:
    """`calibration` guides, `validation` chooses, `evaluation` is reported; no two share a sample, but `evaluation` is
    `validation` where no data was given for it.

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

    @property
    def separate(self) -> bool:
        return self.evaluation is not self.validation


def gather(sources: Sources, model: onnx_ir.Model, run: Run, purposes: Purposes) -> Samples:
    """Reads or makes the samples; `run` runs the model. With `by_accuracy` the labelled ones are halved: one half
    chooses, the other is reported. With `recovering` there are samples for training too, at most 100,000 of a
    function's, labelled where those of `data` are.

    Raises DataError for what doesn't fit, and where there are too few samples to keep the purposes apart.
    """
    given, reported = _given(sources, model, run, purposes), _reported(sources, model)
    single = reason_for_single(given, run)
    if single is not None:
        given, reported = replace(given, fixed=1), None if reported is None else replace(reported, fixed=1)
    if purposes.by_accuracy and (given if reported is None else reported).labels is None:
        raise UsageError("a drop in accuracy can only be measured with --labels")
    if purposes.by_accuracy and reported is not None:
        validation, evaluation = reported.split(0.5, sources.seed)
        rest = given
    else:
        _check_enough(given, TRAINED_ON if purposes.recovering else CHECKED)
        validation, rest = given.split(min(VALIDATION_SHARE, LARGEST_VALIDATION / given.samples), sources.seed)
        evaluation = validation if reported is None else reported
    if not purposes.recovering:
        return Samples(_limited(rest, sources.calibration), validation, evaluation, single=single)
    _check_enough(rest, HELD_OUT)
    share = min(HELD_OUT_SHARE * given.samples, LARGEST_HELD_OUT) / rest.samples
    held_out, training = rest.split(share, sources.seed + 1)
    return Samples(_limited(training, sources.calibration), validation, evaluation, training, held_out, single)


def _given(sources: Sources, model: onnx_ir.Model, run: Run, purposes: Purposes) -> Dataset:
    data = synthesize(model, seed=sources.seed, run=run) if sources.data is None else sources.data
    return read_data(data, sources.labels_of_data, model, LARGEST_TRAINING if purposes.recovering else MAX_SAMPLES)


def _reported(sources: Sources, model: onnx_ir.Model) -> Dataset | None:
    return None if sources.eval_data is None else read_data(sources.eval_data, sources.labels, model)


def _limited(data: Dataset, most: int) -> Dataset:
    return replace(data.take(most), labels=None) if data.samples > most else data


def _check_enough(given: Dataset, uses: tuple[str, ...]) -> None:
    """Each use needs a sample, or a batch where that is fixed; says how many of the user's own or made-up ones lack."""
    wanted = len(uses) * (given.fixed or 1)
    if given.samples >= wanted:
        return
    if not given.batches or not given.batches[0]:
        raise DataError("the model has no inputs: its outputs are constants, and there is nothing to measure")
    why = f"some samples {' and others '.join(uses)}, so give at least {wanted}"
    if given.synthetic:
        raise DataError(f"only {given.samples} sample(s) could be made up from the graph: {why}, with --data")
    raise DataError(f"{given.source} has {given.samples} sample(s): {why}")
