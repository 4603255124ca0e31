"""Activation functions as nodes: those of recurrent and of fused operators."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir

from ..autodiff.registry import VJPS
from .site import DecompositionSite, NotDecomposed

Activation = Callable[[onnx_ir.Value], onnx_ir.Value]

PLAIN = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softsign": "Softsign", "softplus": "Softplus"}
ONE_PARAMETER = {
    "leakyrelu": ("LeakyRelu", 0.01),
    "thresholdedrelu": ("ThresholdedRelu", 1.0),
    "elu": ("Elu", 1.0),
}


def recurrent(site: DecompositionSite, name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    """The activation function that an LSTM, GRU or RNN calls by `name`; it takes its parameters from the next ones."""
    key = name.lower()
    if key in PLAIN:
        return lambda x: site.op(PLAIN[key], x)
    if key in ONE_PARAMETER:
        op_type, default = ONE_PARAMETER[key]
        slope = next(alphas, default)
        return lambda x: site.op(op_type, x, alpha=slope)
    if key == "hardsigmoid":
        slope, offset = next(alphas, 0.2), next(betas, 0.5)
        return lambda x: site.op("HardSigmoid", x, alpha=slope, beta=offset)
    if key not in ("affine", "scaledtanh"):
        raise NotDecomposed(f"no activation {name}")
    alpha, beta = next(alphas, 1.0), next(betas, 0.0 if key == "affine" else 1.0)
    if key == "affine":
        return lambda x: site.op("Add", site.op("Mul", x, alpha), beta)
    return lambda x: site.op("Mul", site.op("Tanh", site.op("Mul", x, beta)), alpha)


def fused(site: DecompositionSite, x: onnx_ir.Value) -> onnx_ir.Value:
    """`x` after the activation that the attributes of a FusedConv or FusedGemm name, if any."""
    name = site.attributes.get_string("activation", "")
    if not name:
        return x
    if name == "Clip":
        low, high = parameters(site, 2)
        return site.op("Clip", x, low, high)
    if name not in VJPS:
        raise NotDecomposed(f"no activation {name}")
    return site.op(name, x, **attributes(site, name))


def attributes(site: DecompositionSite, name: str) -> dict[str, Any]:
    """Those of the activation: a FusedConv lists their numbers, a FusedGemm has them under longer names."""
    if "activation_params" in site.attributes:
        wanted = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(name, ())
        return dict(zip(wanted, parameters(site, len(wanted)), strict=True))
    prefix = "activation_"
    return {k.removeprefix(prefix): a.value for k, a in site.attributes.items() if k.startswith(prefix)}


def parameters(site: DecompositionSite, count: int) -> tuple[float, ...]:
    given = tuple(site.attributes.get_floats("activation_params", ()))
    site.require(len(given) == count, "the activation's parameters don't fit it")
    return given


def gelu(site: DecompositionSite, x: onnx_ir.Value) -> onnx_ir.Value:
    """x Phi(x)."""
    if site.opset >= 20:
        return site.op("Gelu", x)
    distribution = site.op("Add", site.op("Erf", site.op("Mul", x, math.sqrt(0.5))), 1.0)
    return site.op("Mul", site.op("Mul", x, 0.5), distribution)


def tanh_gelu(site: DecompositionSite, x: onnx_ir.Value) -> onnx_ir.Value:
    """x (1 + tanh(sqrt(2 / pi) (x + .044715 x^3))) / 2."""
    if site.opset >= 20:
        return site.op("Gelu", x, approximate="tanh")
    inner = site.op("Add", site.op("Mul", site.op("Mul", x, x), 0.044715), 1.0)
    t = site.op("Tanh", site.op("Mul", site.op("Mul", x, math.sqrt(2 / math.pi)), inner))
    return site.op("Mul", site.op("Mul", x, 0.5), site.op("Add", t, 1.0))
