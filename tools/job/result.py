"""What `optimize` gives back: a model, its report, and the way to a file."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx_ir

from ...ir.atomic_files import replacing
from ...ir.errors import InputError
from ...ir.model.external_data import external_files
from ..report.records import Report
from .read_files import ReadFile
from .written_files import check_written, model_files, save_beside


@dataclass(frozen=True)
class Result:
    """`model` is the changed model, or the original where `unchanged` names its file; `reads` are the files that the
    run has read, which are never written over."""

    model: onnx_ir.Model
    report: Report
    unchanged: Path | None = None
    reads: tuple[ReadFile, ...] = ()

    def save(self, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
        """Writes the model to `path` at once or not at all; an unchanged one that is a single file as its very bytes.

        Weights go to a file of their own above 2 GB or if `external_data` says so. Raises InputError if the folder
        can't be written, and UsageError if a file that was read is there.
        """
        target = Path(path)
        if self.unchanged is None or external_data or external_files(self.model):
            save_beside(self.model, target, external_data, self.reads)
            return
        check_written(model_files(target, external=False), self.reads)
        _copy(self.unchanged, target)


def _copy(source: Path, path: Path) -> None:
    try:
        with source.open("rb") as original, replacing(path) as stream:
            shutil.copyfileobj(original, stream)
    except OSError as e:
        raise InputError(f"can't write {path}: {e.strerror}") from e
