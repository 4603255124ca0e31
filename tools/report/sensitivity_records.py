"""What a look at the sensitivity of a model found, as frozen records; `-o` and `--json` write their plain form."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .records import DataRecord, json_text, write_atomically

INPUT_ONLY = "input-only"


@dataclass(frozen=True)
class StandardChange:
    """A standard change of one layer: which, and what it costs in nats per sample.

    `curvature` is what the curvature predicts. `predicted` is the figure to go by: the same, or how far the outputs
    moved with just that change, measured on `measured_on` samples that the curvature hasn't seen.
    Where the change can't be made or judged both are None; `reason` is the code for why, `detail` the sentence. With
    figures these say why it wasn't measured though it should have been.
    """

    form: str = ""
    predicted: float | None = None
    curvature: float | None = None
    measured_on: int = 0
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One layer. `shape` is out x in; `parameters` are without the bias, `macs` the multiply-adds of one sample.

    `trace` is that of the layer's block of the Gauss-Newton matrix, from a few random probes where it reads many
    inputs. The effective ranks are `effective_rank` of A, the second moment of the inputs, about their mean where a
    bias can take that up, and of G, that of the gradients.

    `metric` is `expand`, `reduce` or, where no gradient could be had (`reason` and `detail` say why), `input-only`:
    then what is predicted is half the squared relative error of the layer's own output, no nats of the model's.
    """

    name: str
    op: str
    shape: str
    parameters: int
    macs: int | None
    rank_halved: StandardChange
    channels_removed: StandardChange
    trace: float | None
    input_rank: float | None
    gradient_rank: float | None
    metric: str
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Left:
    """A linear node that is no layer, and why."""

    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Sensitivity:
    """All layers, the most sensitive first: by the cost of half the rank, then of the channels.

    Layers with the input-only metric come last, since their figures are no nats. `left` are the linear nodes that are
    no layers; `peak_memory` is in bytes.
    """

    input: str
    data: DataRecord
    temperature: float
    rows: tuple[Row, ...]
    left: tuple[Left, ...] = ()
    heads: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    peak_memory: int | None = None

    def to_json(self) -> str:
        return json_text(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_json` to `path` at once or not at all."""
        write_atomically(Path(path), self.to_json())
