"""com.microsoft operators that are a matrix product, a convolution or an activation with something around it."""

import onnx_ir

from .activations import fused, gelu, tanh_gelu
from .registry import MICROSOFT, Outputs, decomposition
from .site import DecompositionSite


@decomposition("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(site: DecompositionSite) -> Outputs:
    """alpha A B, either of them with its last two axes exchanged before."""
    a = site.attributes
    site.require(not a.get_int("transBatchA", 0) and not a.get_int("transBatchB", 0), "a batch axis is moved")
    left, right = (operand(site, i, a.get_int(f"trans{'AB'[i]}", 0) == 1) for i in (0, 1))
    alpha = a.get_float("alpha", 1.0)
    y = site.op("MatMul", left, right, name=site.node.name)
    return [y if alpha == 1 else site.op("Mul", y, alpha)]


def operand(site: DecompositionSite, i: int, transposed: bool) -> onnx_ir.Value:
    value = site.input(i)
    if not transposed:
        return value
    rank = len(site.dims(value))
    site.require(rank >= 2, "a vector is transposed")
    return site.op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


@decomposition("FusedGemm", domain=MICROSOFT)
def fused_gemm(site: DecompositionSite) -> Outputs:
    own = {k: a.value for k, a in site.attributes.items() if k in ("alpha", "beta", "transA", "transB")}
    return [fused(site, site.op("Gemm", *site.node.inputs, name=site.node.name, **own))]


@decomposition("FusedConv", domain=MICROSOFT)
def fused_conv(site: DecompositionSite) -> Outputs:
    """Activation(Conv(x, w, b) + z)."""
    own = {k: a.value for k, a in site.attributes.items() if not k.startswith("activation")}
    y = site.op("Conv", site.x, site.input(1), site.optional(2), name=site.node.name, **own)
    z = site.optional(3)
    return [fused(site, y if z is None else site.op("Add", y, z))]


@decomposition("Gelu", domain=MICROSOFT)
def plain_gelu(site: DecompositionSite) -> Outputs:
    return [gelu(site, site.x)]


@decomposition("BiasGelu", domain=MICROSOFT)
def bias_gelu(site: DecompositionSite) -> Outputs:
    return [gelu(site, site.op("Add", site.x, site.input(1)))]


@decomposition("FastGelu", domain=MICROSOFT)
def fast_gelu(site: DecompositionSite) -> Outputs:
    bias = site.optional(1)
    return [tanh_gelu(site, site.x if bias is None else site.op("Add", site.x, bias))]


@decomposition("QuickGelu", domain=MICROSOFT)
def quick_gelu(site: DecompositionSite) -> Outputs:
    """x sigmoid(alpha x)."""
    gate = site.op("Sigmoid", site.op("Mul", site.x, site.attributes.get_float("alpha", 1.702)))
    return [site.op("Mul", site.x, gate)]
