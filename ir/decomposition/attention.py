"""com.microsoft's Attention and MultiHeadAttention as products of matrices and a softmax between them."""

import numpy as np
import onnx_ir

from ..dimensions import static
from .registry import MICROSOFT, Outputs, decomposition
from .site import DecompositionSite, NotDecomposed


@decomposition("Attention", domain=MICROSOFT)
def attention(site: DecompositionSite) -> Outputs:
    """Inputs: x [n, S, in], weight [in, q + k + v], bias, mask, past, bias of the scores."""
    site.require(site.optional(4) is None, "there is a past")
    site.require(site.attributes.get_int("do_rotary", 0) == 0, "there is a rotary embedding")
    product = site.op("MatMul", site.x, site.input(1), name=site.node.name)
    bias = site.optional(2)
    packed = product if bias is None else site.op("Add", product, bias)
    sizes = site.attributes.get_ints("qkv_hidden_sizes", None)
    parts, equal = (None, 3) if sizes is None else (list(sizes), None)
    q, k, v = (by_head(site, part) for part in site.ops("Split", packed, parts, outputs=3, axis=-1, num_outputs=equal))
    return [attended(site, q, k, v, site.optional(3), site.optional(5))]


@decomposition("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(site: DecompositionSite) -> Outputs:
    """Inputs: query [n, S, d], key and value [n, L, d] or [n, heads, L, d], bias of the three, mask, bias of the
    scores, past key and value [n, heads, L, d]. Outputs: the result, and key and value with the past, by head.
    """
    site.require(all(site.optional(i) is None for i in range(8, 10)), "the past is a buffer")
    q, k, v = (by_head(site, value) for value in biased(site))
    if site.optional(6) is not None:
        k, v = (site.op("Concat", site.input(i), new, axis=2) for i, new in ((6, k), (7, v)))
    return [attended(site, q, k, v, site.optional(4), site.optional(5)), k, v]


def biased(site: DecompositionSite) -> list[onnx_ir.Value]:
    """Query, key and value, each with its part of the bias."""
    values = [site.input(i) for i in range(3)]
    bias = site.optional(3)
    site.require(len(site.dims(values[0])) == 3, "the query is packed")
    if bias is None:
        return values
    sizes = static(tuple(site.dims(value)[-1] for value in values))
    if sizes is None or any(len(site.dims(value)) != 3 for value in values):
        raise NotDecomposed("the parts of the bias are not known")
    parts = site.ops("Split", bias, list(sizes), outputs=3, axis=0)
    return [site.op("Add", value, part) for value, part in zip(values, parts, strict=True)]


def by_head(site: DecompositionSite, value: onnx_ir.Value) -> onnx_ir.Value:
    """[n, L, heads * d] as [n, heads, L, d]; a value that is already so stays."""
    producer = value.producer()
    rank = 3 if producer in site.nodes else len(site.dims(value))
    site.require(rank in (3, 4), "key and value are packed")
    if rank == 4:
        return value
    heads = site.attributes.get_int("num_heads", 0)
    return site.op("Transpose", site.op("Reshape", value, [0, 0, heads, -1]), perm=[0, 2, 1, 3])


def attended(
    site: DecompositionSite,
    q: onnx_ir.Value,
    k: onnx_ir.Value,
    v: onnx_ir.Value,
    mask: onnx_ir.Value | None,
    bias: onnx_ir.Value | None,
) -> onnx_ir.Value:
    """softmax(scale q k^T + bias + mask) v [n, S, heads * d]."""
    scores = site.op("MatMul", q, site.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = site.op("Mul", scores, scale(site, q))
    for added in (bias, None if mask is None else masked(site, mask, scores)):
        scores = scores if added is None else site.op("Add", scores, added)
    if site.attributes.get_int("unidirectional", 0):
        scores = causal(site, scores)
    mixed = site.op("MatMul", site.op("Softmax", scores, axis=-1), v)
    return site.op("Reshape", site.op("Transpose", mixed, perm=[0, 2, 1, 3]), [0, 0, -1])


def scale(site: DecompositionSite, q: onnx_ir.Value) -> onnx_ir.Value:
    """The attribute, or 1 / sqrt(d)."""
    given = site.attributes.get_float("scale", 0.0)
    if given:
        return site.small(given, site.dtype)
    size = site.op("CastLike", site.op("Shape", q, start=3, end=4), q)
    return site.op("Reciprocal", site.op("Sqrt", size))


def masked(site: DecompositionSite, mask: onnx_ir.Value, scores: onnx_ir.Value) -> onnx_ir.Value:
    """What is added to the scores [n, heads, S, L]: 0 where the mask [n, L] or [n, S, L] is positive, or where the
    position is below the length that a mask [n] gives.
    """
    sizes, batch = site.dims(mask), site.dims(site.x)[0]
    filter_value = site.attributes.get_float("mask_filter_value", -10000.0)
    if len(sizes) == 1:
        site.require(sizes[0] is not None and sizes[0] == batch, "the mask holds more than lengths")
        size = site.op("Squeeze", site.op("Shape", scores, start=3, end=4), [0])
        places = site.op("CastLike", site.op("Range", site.integer(0), size, site.integer(1)), mask)
        seen = site.op("Less", places, site.op("Unsqueeze", mask, [1, 2, 3]))
    else:
        site.require(len(sizes) in (2, 3), "the mask has another form")
        zero = site.small(0, mask.dtype or onnx_ir.DataType.INT32)
        seen = site.op("Unsqueeze", site.op("Greater", mask, zero), [1, 2] if len(sizes) == 2 else [1])
    return site.op("Where", seen, 0.0, filter_value)


def causal(site: DecompositionSite, scores: onnx_ir.Value) -> onnx_ir.Value:
    """The scores with those of later positions at the lowest number; the last row sees all."""
    shape = site.op("Shape", scores, start=2, end=4)
    rows, columns = (site.op("Gather", shape, site.integer(i)) for i in (0, 1))
    seen = site.op("Trilu", site.op("Expand", 1.0, shape), site.op("Sub", columns, rows), upper=0)
    return site.op("Where", site.op("Cast", seen, to=onnx_ir.DataType.BOOL.value), scores, -np.inf)
