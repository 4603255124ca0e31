"""Models as onnxruntime.quantization makes them, and what ONNX Runtime fuses in a model."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

BATCH = 16


class Samples(CalibrationDataReader):
    """Arrays by the names of the inputs, a batch at a time."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        size = min(len(array) for array in arrays.values())
        self.batches: Iterator = iter(
            [{name: array[i : i + BATCH] for name, array in arrays.items()} for i in range(0, size - BATCH + 1, BATCH)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def static(source: Path, path: Path, arrays: Mapping[str, np.ndarray], operators: bool = False, **options) -> Path:
    """Quantized with ranges of activations: as QuantizeLinear and DequantizeLinear, or with `operators` on codes."""
    form = QuantFormat.QOperator if operators else QuantFormat.QDQ
    quantize_static(source, path, Samples(arrays), quant_format=form, **options)
    return path


def dynamic(source: Path, path: Path, **options) -> Path:
    quantize_dynamic(source, path, **options)
    return path


def packed(source: Path, path: Path, excluded: Sequence[str] = (), qdq: bool = False, block: int = 32) -> Path:
    """With weights of 4 bits in blocks: as MatMulNBits, or as DequantizeLinear with `qdq`."""
    form = QuantFormat.QDQ if qdq else QuantFormat.QOperator
    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, quant_format=form)
    made = MatMulNBitsQuantizer(onnx.load(source), nodes_to_exclude=list(excluded), algo_config=config)
    made.process()
    made.model.save_model_to_file(str(path))
    return path


def fused(model: onnx_ir.Model | Path, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime runs, and how many of each."""
    path = model if isinstance(model, Path) else folder / "model.onnx"
    if not isinstance(model, Path):
        onnx_ir.save(model, path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "fused.onnx").graph.node)


__all__ = ["QuantType", "dynamic", "fused", "packed", "static"]
