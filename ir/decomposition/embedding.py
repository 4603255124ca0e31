"""EmbedLayerNormalization: the sum of two or three embeddings, normalized, as BERT begins."""

import onnx_ir

from .registry import MICROSOFT, Outputs, decomposition
from .site import DecompositionSite


@decomposition("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(site: DecompositionSite) -> Outputs:
    """Inputs: ids and segments [n, S], the tables of words, positions and segments, scale, bias, mask [n, S], places.
    Outputs: the normalized sum, the length of each row by its mask, the sum.
    """
    site.require(site.attributes.get_int("mask_index_type", 0) == 0, "the mask is of another kind")
    words = site.op("Gather", site.input(2), site.x)
    total = site.op("Add", words, site.op("Gather", site.input(3), positions(site)))
    segments = site.optional(1)
    if segments is not None:
        total = site.op("Add", total, site.op("Gather", site.input(4), segments))
    epsilon = site.attributes.get_float("epsilon", 1e-12)
    y = site.op("LayerNormalization", total, site.input(5), site.optional(6), axis=-1, epsilon=epsilon)
    return [y, lengths(site) if site.wants(1) else None, total]


def positions(site: DecompositionSite) -> onnx_ir.Value:
    """Input 8, or 0, 1, 2, ..."""
    given = site.optional(8)
    if given is not None:
        return given
    size = site.op("Squeeze", site.op("Shape", site.x, start=1, end=2), [0])
    return site.op("Range", site.integer(0), size, site.integer(1))


def lengths(site: DecompositionSite) -> onnx_ir.Value:
    """[n] in int32: how many of a row the mask lets through; 0 without a mask."""
    mask = site.optional(7)
    if mask is None:
        return site.op("Expand", site.small(0, onnx_ir.DataType.INT32), site.op("Shape", site.x, start=0, end=1))
    return site.op("Cast", site.op("ReduceSum", mask, [1], keepdims=0), to=onnx_ir.DataType.INT32.value)
