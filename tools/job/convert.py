"""Lowering by itself: a model of a framework in, an ONNX model that was compared with it out."""

from collections.abc import Sequence

from ..report.progress import Progress, Silent
from .model_sources import Source, read
from .sources import Sources


def convert(
    source: object,
    example_inputs: object = None,
    inputs: Sequence[str] | str | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Source:
    """The model `source` as ONNX, with `model`, `notes` and `save(path)`; arguments are those of `optimize`.

    Its outputs were compared with those of the original on the example inputs, or on random ones. Raises the errors of
    `kronnx.ir.errors`: VerifyError, with the first layer that differs, for a model that was lowered wrongly.
    """
    return read(Sources(source, example_inputs, inputs, seed=seed), progress or Silent())
