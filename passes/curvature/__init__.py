"""Curvature of a model's layers: K-FAC factors of the true Fisher information, computed on the ONNX graph."""

from .eigen import Eigenbasis, eigenbases
from .factors import Factors
from .measuring import Measured, Statistics, measure, measure_factors
from .scoring import LayerChange, score
from .settings import Curvature, Execute, Feed, Runner
from .store import Store

__all__ = [
    "Curvature",
    "Eigenbasis",
    "Execute",
    "Factors",
    "Feed",
    "LayerChange",
    "Measured",
    "Runner",
    "Statistics",
    "Store",
    "eigenbases",
    "measure",
    "measure_factors",
    "score",
]
