"""Tables of embeddings in 8 bits: a layer of rows in, a candidate with its cost in nats out."""

from dataclasses import dataclass

import numpy as np

from ...ir.cost import Piece
from ...ir.forms import Form
from ...ir.layers import Layer, find_embeddings
from ...ir.rewriter import Rewriter
from ...ir.tables import CodedTable, Table, coded_rows
from ..curvature.moments import Moments
from ..planning.proposal import Candidate, Context

BLOCK = 4096  # rows whose change is weighed at a time


@dataclass(frozen=True)
class Rows:
    """The table is held in rows of 8 bits."""

    def apply(self, name: str, rewriter: Rewriter) -> None:
        layer = find_embeddings(rewriter.model)[name]
        structure = CodedTable(layer.inputs, layer.out)
        rewriter.replace(layer, Form(structure, _coded(layer)))


def of_table(layer: Layer, context: Context) -> Candidate:
    """The candidate that each row of a table becomes integers with a scale."""
    assert layer.dtype is not None
    shapes, itemsize = context.inputs(layer), layer.dtype.itemsize
    structure = CodedTable(layer.inputs, layer.out)
    before, after = (Piece(s, shapes, itemsize) for s in (Table(layer.inputs, layer.out), structure))
    moments = context.moments[layer.name]
    loss = context.remembered(("rows", layer.name), [layer.name], lambda: _loss(layer, moments))
    return Candidate(layer.name, structure.label, loss, (before,), (after,), frozenset((layer.name,)), Rows())


def _coded(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    assert layer.dtype is not None
    return coded_rows(layer.matrix(), layer.dtype.numpy())


def _loss(layer: Layer, moments: Moments) -> float:
    """1/2 tr(G D A D^T), where A is diagonal: how often each row was taken."""
    assert moments.taken is not None
    codes, scales = _coded(layer)
    change, gradient = (codes * scales - layer.matrix())[0], moments.gradient[0]
    parts = (slice(start, start + BLOCK) for start in range(0, layer.inputs, BLOCK))
    costs = (np.einsum("or,or,r->", gradient @ change[:, p], change[:, p], moments.taken[p]) for p in parts)
    return 0.5 * float(sum(costs))
