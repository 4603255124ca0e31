"""Other tools' ways to a model in few bits: an entry of the zoo in, a file out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter

from ..zoo.entry import Entry
from ..zoo.scores import read_batches

CALIBRATION = 256  # samples
INT4_SINCE = 21  # opset


def dynamic(entry: Entry, out: Path, per_channel: bool) -> None:
    """ONNX Runtime's dynamic quantization, its defaults but for `per_channel`."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(_prepared(entry, out), out, per_channel=per_channel)


def static(entry: Entry, out: Path, per_channel: bool) -> None:
    """ONNX Runtime's static quantization, its defaults but for `per_channel`, calibrated on the entry's samples."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        """The entry's samples, one by one."""

        def __init__(self) -> None:
            self.left = _samples(entry)

        def get_next(self) -> Any:
            return next(self.left, None)

    quantize_static(_prepared(entry, out), out, Reader(), per_channel=per_channel)


def gptq(entry: Entry, out: Path) -> None:
    """onnxsim's weights of 4 bits in blocks of 32, rounded by GPTQ on the entry's samples; activations stay floats."""
    import onnxsim

    model = onnx.load(_prepared(entry, out))
    if model.opset_import[0].version < INT4_SINCE:
        model = onnx.version_converter.convert_version(model, INT4_SINCE)
    coded = onnxsim.quantize_weight_only_int4(model)
    onnx.save(onnxsim.apply_gptq(model, coded, list(_samples(entry))), out)


WAYS: dict[str, Callable[[Entry, Path], Any]] = {
    "ORT dynamic int8": lambda entry, out: dynamic(entry, out, per_channel=False),
    "ORT dynamic int8, per channel": lambda entry, out: dynamic(entry, out, per_channel=True),
    "ORT static int8": lambda entry, out: static(entry, out, per_channel=False),
    "ORT static int8, per channel": lambda entry, out: static(entry, out, per_channel=True),
    "onnxsim int4, GPTQ": gptq,
}


def _prepared(entry: Entry, out: Path) -> Path:
    """The model as ONNX Runtime's own guide has it prepared: shapes inferred, graph optimized."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(entry.model), str(prepared), skip_symbolic_shape=not importlib.util.find_spec("sympy"))
    return prepared


def _samples(entry: Entry) -> Iterator[dict[str, np.ndarray]]:
    names = {value.name for value in onnx.load(entry.model, load_external_data=False).graph.input}
    for number, feed in enumerate(read_batches(entry.calibration, 1)):
        if number * max(len(array) for array in feed.values()) >= CALIBRATION:
            return
        yield {name: array for name, array in feed.items() if name in names}
