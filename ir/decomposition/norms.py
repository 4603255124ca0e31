"""Normalizations that ONNX Runtime fuses with the residual sum before them."""

import onnx_ir

from .registry import MICROSOFT, Outputs, decomposition
from .site import DecompositionSite

HALVES = (onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16)


@decomposition("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(site: DecompositionSite) -> Outputs:
    """Inputs x, skip, scale, bias, bias of the sum; the fourth output is the sum."""
    total = residual(site, 4)
    epsilon = site.attributes.get_float("epsilon", 1e-12)
    y = site.op("LayerNormalization", total, site.input(2), site.optional(3), axis=-1, epsilon=epsilon)
    return [y, None, None, total]


@decomposition("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_normalization(site: DecompositionSite) -> Outputs:
    """As SkipLayerNormalization, without a mean to subtract and a bias to add."""
    total = residual(site, 3)
    return [rms(site, total, site.input(2), [-1], site.attributes.get_float("epsilon", 1e-12)), None, None, total]


def residual(site: DecompositionSite, bias: int) -> onnx_ir.Value:
    total, added = site.op("Add", site.x, site.input(1)), site.optional(bias)
    return total if added is None else site.op("Add", total, added)


@decomposition("SimplifiedLayerNormalization")
def rms_normalization(site: DecompositionSite) -> Outputs:
    """ONNX Runtime's name in ONNX's own domain for what opset 23 calls RMSNormalization."""
    rank = len(site.dims(site.x))
    axes = list(range(site.attributes.get_int("axis", -1) % rank, rank))
    return [rms(site, site.x, site.input(1), axes, site.attributes.get_float("epsilon", 1e-5))]


def rms(
    site: DecompositionSite, x: onnx_ir.Value, scale: onnx_ir.Value, axes: list[int], epsilon: float
) -> onnx_ir.Value:
    """scale x / sqrt(mean(x^2) + epsilon), in single precision at least."""
    wide = site.op("Cast", x, to=onnx_ir.DataType.FLOAT.value) if site.dtype in HALVES else x
    mean = site.op("ReduceMean", site.op("Mul", wide, wide), axes, keepdims=1)
    small = site.small(epsilon, onnx_ir.DataType.FLOAT if wide is not x else site.dtype)
    z = site.op("Div", wide, site.op("Sqrt", site.op("Add", mean, small)))
    return site.op("Mul", site.op("CastLike", z, scale) if wide is not x else z, scale)
