"""What the outputs of two models say, computed from ONNX Runtime's own and nothing of Kronnx."""

from collections.abc import Mapping

import numpy as np
import onnxruntime
from onnx import ModelProto

Arrays = Mapping[str, np.ndarray]


def outputs(model: ModelProto, given: Arrays, batch: int) -> dict[str, np.ndarray]:
    """Those of all samples, `batch` at a time, unoptimized."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    samples = len(next(iter(given.values())))
    parts = [session.run(names, {k: v[i : i + batch] for k, v in given.items()}) for i in range(0, samples, batch)]
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}


def kl(before: np.ndarray, after: np.ndarray, scale: str) -> float:
    """The mean over samples and positions of sum p (log p - log q), in nats."""
    p, q = (_log_probabilities(x.astype(np.float64), scale) for x in (before, after))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def relative_error(before: np.ndarray, after: np.ndarray) -> float:
    a, b = before.astype(np.float64), after.astype(np.float64)
    return float(np.linalg.norm(b - a) / np.linalg.norm(a))


def agreement(before: np.ndarray, after: np.ndarray) -> float:
    return float((before.argmax(-1) == after.argmax(-1)).mean())


def _log_probabilities(x: np.ndarray, scale: str) -> np.ndarray:
    if scale == "probabilities":
        return np.log(np.maximum(x, np.finfo(np.float32).tiny) / x.sum(-1, keepdims=True))
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
