"""What `optimize` gives back: a model, its report, and the way to a file."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx_ir

from ...ir.errors import InputError
from ...ir.model import save
from ..report.records import Report


@dataclass(frozen=True)
class Result:
    """`model` is the changed model, or the original where `unchanged` names its file."""

    model: onnx_ir.Model
    report: Report
    unchanged: Path | None = None

    def save(self, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
        """Writes the model to `path` at once or not at all; an unchanged one as the very bytes of its file.

        Weights go to a file of their own above 2 GB or if `external_data` says so. Raises InputError if the folder
        can't be written.
        """
        self_contained = not any(
            isinstance(v.const_value, onnx_ir.ExternalTensor) for v in self.model.graph.initializers.values()
        )
        if self.unchanged is not None and self_contained and not external_data:
            _copy(self.unchanged, Path(path))
        else:
            save(self.model, Path(path), external_data)


def _copy(source: Path, path: Path) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            shutil.copyfile(source, name)
            shutil.copymode(source, name)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as e:
        raise InputError(f"can't write {path}: {e.strerror}") from e
