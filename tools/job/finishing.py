"""The result of a job as it is written, and the proof by ONNX Runtime that it is the same."""

from dataclasses import dataclass, replace

import onnx_ir

from ...ir.cleanup.normalize import normalize
from ...ir.writing.finish import Finished, finished
from ...passes.curvature import Feed
from ...runtime.sessions import Session
from .repeatability import difference
from .subject import Subject


@dataclass(frozen=True)
class Finishing:
    """Writes models in the operator set of the original of `subject` or the lowest above it, or in `opset`; proved on
    the feed `sample`."""

    subject: Subject
    sample: Feed
    opset: int | None

    def finished(self, model: onnx_ir.Model) -> Finished:
        """`model`, which was made of the original, as it is written. Raises UsageError if `opset` can't be had."""
        reference = [Session(model, self.subject.wide).run(self.sample)]

        def proof(other: onnx_ir.Model) -> str | None:
            found = difference(reference, [Session(other, self.subject.wide).run(self.sample)], self.subject.heads)
            return None if found is None else f"there ONNX Runtime's outputs would be {found} apart"

        with self.subject.progress.step("write in the original's opset"):
            return finished(model, self.subject.original, self.opset, proof)

    def unchanged(self) -> Finished | None:
        """The original in the operator set that is asked for, None where it is in that."""
        original = self.subject.original
        if self.opset in (None, original.opset_imports.get("")):
            return None
        written = self.finished(normalize(self.subject.compared))
        return replace(written, model=self.subject.delivered(written.model))
