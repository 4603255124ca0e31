"""Curvature of a model's layers: K-FAC factors of the true Fisher information, computed on the ONNX graph."""

from .backward import open_to_gradients
from .bench import Bench
from .eigen import Eigenbasis, eigenbases
from .factors import Factors, moments_of
from .measuring import Measured, Statistics, measure, measure_factors
from .scoring import LayerChange, score
from .settings import Curvature, Execute, Feed, Runner
from .store import Store
from .work import measurable

__all__ = [
    "Bench",
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
    "measurable",
    "measure",
    "measure_factors",
    "moments_of",
    "open_to_gradients",
    "score",
]
