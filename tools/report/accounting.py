"""Models, attempts and measurements as the records of a report."""

from collections.abc import Iterable
from pathlib import Path
from typing import assert_never

import numpy as np
import onnx_ir

from ...ir.cost import macs, parameters
from ...ir.model.external_data import external_files
from ...ir.model.protobuf import to_proto
from ...ir.model.saving import EXTERNAL_ABOVE, written_form
from ...ir.model.weights import replace_weights, weight_bytes
from ...ir.remarks import PASSED, Remark
from ...passes.planning.stages import AppliedCandidate, AppliedRetraining, Attempt, Shapes, Step
from .records import Figures, Saving, SiteRecord

EMPTY = np.empty(0, np.float32)


def figures(model: onnx_ir.Model, shapes: Shapes, size: int) -> Figures:
    """Parameters, multiply-adds on values of `shapes`, and `size` in bytes."""
    return Figures(parameters(model), macs(model, shapes), size)


def file_size(path: Path, model: onnx_ir.Model) -> int:
    """Bytes of the file of `model` and of all data files that it refers to."""
    return path.stat().st_size + sum(file.stat().st_size for file in external_files(model))


def serialized_size(model: onnx_ir.Model) -> int:
    """Bytes that `model` takes on disk: exact for one file; above what that can hold, the weights and, within some
    bytes for each of them, the graph."""
    copy, weights = written_form(model), weight_bytes(model)
    if weights <= EXTERNAL_ABOVE:
        return to_proto(copy).ByteSize()
    replace_weights(copy, lambda name, _: onnx_ir.tensor(EMPTY, name=name))
    return weights + to_proto(copy).ByteSize()


def sites(attempt: Attempt | None, remarks: Iterable[Remark]) -> tuple[SiteRecord, ...]:
    """One record for each change, then one for each remark, the first for a site and pass only."""
    done = [_step(step) for step in attempt.steps] if attempt is not None else []
    seen = {(record.name, record.pass_) for record in done}
    records = list(done)
    for remark in (*(attempt.remarks if attempt is not None else ()), *remarks):
        if (remark.site, remark.by) not in seen:
            seen.add((remark.site, remark.by))
            records.append(SiteRecord(remark.site, remark.by, remark.verdict, remark.reason, remark.detail))
    return tuple(records)


def _step(step: Step) -> SiteRecord:
    match step:
        case AppliedCandidate():
            return _candidate(step)
        case AppliedRetraining():
            nothing = Saving(0, 0, 0, 0.0)
            return SiteRecord("model", step.by, PASSED, "applied", "recovered", 0.0, nothing, "recovered")
        case _:
            assert_never(step)


def _candidate(step: AppliedCandidate) -> SiteRecord:
    candidate, saving = step.option.candidate, step.option.saving
    saved = Saving(round(saving.macs), round(saving.parameters), round(saving.bytes), saving.microseconds)
    return SiteRecord(
        candidate.site, step.by, PASSED, "applied", candidate.label, candidate.predicted, saved, candidate.label
    )
