"""Everything that a run found, as frozen records; `report.json` is their plain form, with one layout for all runs."""

import json
import math
import os
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ...ir.atomic_files import replacing
from .visible_text import visible_json

SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Figures:
    """One model: `macs` are multiply-adds of one run at the report's batch, `bytes` the files on disk, `latency_us` the
    median of one run in microseconds and `latency_spread_us` half of its interquartile range."""

    parameters: int
    macs: int
    bytes: int
    latency_us: float | None = None
    latency_spread_us: float | None = None


Interval = tuple[float, float | None]


@dataclass(frozen=True)
class DivergenceFigures:
    """KL in nats of all outputs that are probabilities together, its 99th percentile, the share of equal answers (the
    first class, the side of one half), the relative error of values, 1 - the mean cosine similarity of values that are
    vectors, and the share of integers, truth values and strings that changed; of several outputs the worst. `rows` are
    the outputs that have other numbers of rows, and in how many batches; of these there is no other figure. An interval
    is the two-sided 95 % one of its figure, of several outputs the worst one's; without an upper end where there are
    too few samples for any."""

    kl_mean: float | None = None
    kl_p99: float | None = None
    agreement: float | None = None
    relative_error: float | None = None
    cosine_distance: float | None = None
    changed: float | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    kl_mean_interval: Interval | None = None
    agreement_interval: Interval | None = None
    relative_error_interval: Interval | None = None
    cosine_distance_interval: Interval | None = None
    changed_interval: Interval | None = None


@dataclass(frozen=True)
class AccuracyFigures:
    """Shares of 1. `low` to `high` is the 95 % interval of `after - before`, `p_value` that of the statistic which the
    interval inverts; `lost` samples only the original gets right, `won` ones only the result.

    `verdict` is 'fell' where the interval lies below 0, else 'kept' where `bound`, the upper end of a one-sided
    interval of `before - after` at `confidence`, is within `margin`, else 'cannot tell'; then `enough` samples with the
    shares of lost and won that were seen would tell, if any number would.
    """

    before: float
    after: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    samples: int = 0
    lost: int = 0
    won: int = 0
    verdict: str = ""
    bound: float | None = None
    margin: float | None = None
    confidence: float | None = None
    enough: int | None = None


@dataclass(frozen=True)
class Saving:
    """What one change takes away from the model; a negative number is a cost."""

    macs: int = 0
    parameters: int = 0
    bytes: int = 0
    microseconds: float | None = None


@dataclass(frozen=True)
class SiteRecord:
    """What one pass did at one site. `verdict` is passed, missed or analysis; `predicted` is nats per sample."""

    name: str
    pass_: str
    verdict: str
    reason: str
    detail: str = ""
    predicted: float | None = None
    saving: Saving | None = None
    form: str = ""


@dataclass(frozen=True)
class PieceRecord:
    """One operator that runs a layer or a part of it, by its name in the model.

    `shape` is that of the weight, [out, channels of a group, ...kernel] or a matrix, in the layout of the layer that
    the piece stands for: where that holds [in, out], so do its pieces. `matrix` is the vectorised form
    [groups, out, in], in = channels of a group times taps of the kernel: the matrix that is applied to each patch.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    matrix: tuple[int, int, int]


@dataclass(frozen=True)
class LayerRecord:
    """A linear layer of the cleaned original and what became of it; `shape` and `matrix` as in a piece.

    `after` are the pieces that run it now, in their order: the layer itself where it is unchanged, none where it is
    gone. A shared projection is a piece of each of its layers. `form` says what was done, in the words of the remarks,
    or `dense`.

    Parameters are weights and biases, counted as in `Figures`: a constant that several layers read counts for the
    first of them alone, one of a single element for none. `bytes` are those of these constants as they are stored, and
    of what picks the inputs of a stripe. `macs` are multiply-adds of one run at the report's batch, a piece that
    several layers share again for the first. `sensitivity` is the trace of the layer's block of the Gauss-Newton
    matrix, about the mean of the inputs where a bias can take that up; None where it was not measured.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    matrix: tuple[int, int, int]
    parameters: int
    macs: int
    after: tuple[PieceRecord, ...]
    after_parameters: int
    after_macs: int
    form: str = "dense"
    sensitivity: float | None = None
    bytes: int = 0
    after_bytes: int = 0

    @property
    def changed(self) -> bool:
        """Whether other operators than the layer itself, or a smaller one, run it now."""
        return [(piece.shape, piece.matrix) for piece in self.after] != [(self.shape, self.matrix)]


@dataclass(frozen=True)
class GateRecord:
    """The limit that the result had to keep and what was measured, of several kinds of outputs that which came nearest
    to it (`metric` kl, rel, cos, changed or acc; None: no limit was set). Of cos all figures are distances, 1 - the
    cosine similarity, so that less is nearer as everywhere.

    `measured` is on the samples that are reported. `bound` is the most that it may be on all that the samples come
    from, by the `samples` that chose and with this `confidence`; None where that is 0. `enough` samples, of which so
    large a part chooses, would be as sure of the limit if they were like these; None where no number would do."""

    metric: str | None = None
    limit: float | None = None
    measured: float | None = None
    passed: bool = True
    bound: float | None = None
    confidence: float | None = None
    samples: int | None = None
    enough: int | None = None


@dataclass(frozen=True)
class TimingRecord:
    """Latency before / after with its 95 % interval; `verdict` is 'faster', 'slower' or 'cannot tell'."""

    ratio: float
    low: float
    high: float
    verdict: str
    target: str = "cpu"
    threads: int = 1
    batch: int = 1


@dataclass(frozen=True)
class OfferRecord:
    """The nearest result beyond the limit that saves something: `limit` is what `--max-drop` would have to be, `size`
    the share of the bytes that it leaves. `expected` where its drop is that after a recovery that was not made in
    full."""

    limit: str
    size: float
    timing: TimingRecord
    expected: bool = False


@dataclass(frozen=True)
class DataRecord:
    """Where the inputs came from, and how many samples each purpose had."""

    source: str
    synthetic: bool
    calibration: int
    validation: int
    evaluation: int


@dataclass(frozen=True)
class RecoveryRecord:
    """A retraining: `steps` in `seconds`, and the divergence on the reported samples, before and after it: mean KL in
    nats, and the squared relative error of heads without classes, or that error itself where all are; None where there
    are other numbers of rows. These samples neither were trained on nor chose the weights."""

    steps: int
    seconds: float
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Report:
    """One run. `heads` maps what was compared to kinds: outputs, or the inner values `judged` in their place; `verdict`
    is the one line that sums up, `warning` whether it is to be looked at: the outputs moved further than the default
    limit where no limit held them, or accuracy was lost beyond chance. `output` is None if no model was written;
    `peak_memory` is the most bytes that the process held in memory, None where the system doesn't say; `layers` are
    those of the cleaned original in the order of the graph, none of a model that was left alone; `recovery` is that at
    the end of the pipeline, if there was one; `offer` what a larger limit would bring, where nothing was taken."""

    input: str
    output: str | None
    pipeline: str
    before: Figures
    after: Figures
    gate: GateRecord
    data: DataRecord
    verdict: str
    warning: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    divergence: DivergenceFigures | None = None
    accuracy: AccuracyFigures | None = None
    timing: TimingRecord | None = None
    sites: tuple[SiteRecord, ...] = ()
    heads: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    peak_memory: int | None = None
    layers: tuple[LayerRecord, ...] = ()
    recovery: RecoveryRecord | None = None
    judged: tuple[str, ...] = ()
    offer: OfferRecord | None = None

    def to_json(self) -> str:
        return json_text(self)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report that `to_json` wrote. Raises ValueError for another schema."""
        plain = json.loads(text)
        if plain.pop("schema", None) != SCHEMA:
            raise ValueError(f"a report of another schema than {SCHEMA}")
        return _record(cls, plain)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_json` to `path` at once or not at all."""
        write_atomically(Path(path), self.to_json())


def json_text(record: Any) -> str:
    """A record as text: sorted keys, two spaces, finite numbers only (null for others), a newline at the end."""
    plain = {"schema": SCHEMA, **_plain(record)}
    return visible_json(json.dumps(plain, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` to `path`, at once or not at all."""
    with replacing(path) as stream:
        stream.write(text.encode())


def _plain(value: Any) -> Any:
    """A record, mapping, tuple or number as JSON's types; a float that isn't finite becomes None."""
    if value is None or isinstance(value, bool | str):
        return value
    if is_dataclass(value):
        return {_key(f.name): _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"{value!r} ({type(value).__name__}) has no place in a report")


def _record(kind: type[T], plain: Mapping[str, Any]) -> T:
    """The dataclass `kind` from what `_plain` made of one; keys it doesn't know are left out."""
    hints = get_type_hints(kind)
    names = [name for name in hints if _key(name) in plain]
    return kind(**{name: _typed(hints[name], plain[_key(name)]) for name in names})


def _typed(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if get_origin(hint) is types.UnionType:
        hint = next(arm for arm in get_args(hint) if arm is not types.NoneType)
    if get_origin(hint) is tuple:
        return tuple(_typed(get_args(hint)[0], item) for item in value)
    return _record(hint, value) if is_dataclass(hint) and isinstance(hint, type) else value


def _key(name: str) -> str:
    return name.rstrip("_")
