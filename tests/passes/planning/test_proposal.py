"""What a candidate takes away, in bytes as they are stored."""

import networks
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.forms import Structure, low_rank, structure_of
from kronnx.passes.planning.proposal import Context
from own_structures import Bytes


@pytest.mark.parametrize(
    ("made", "smaller"),
    [
        (structure_of, False),
        (lambda layer: low_rank(layer, 5), True),
        (lambda layer: low_rank(layer, 6), False),
        (lambda layer: Bytes(layer.out, layer.inputs), True),  # as many elements, in one byte each
    ],
)
def test_a_candidate_is_smaller_in_bytes_or_in_multiply_adds(made, smaller):
    model = networks.build("(float[N,12] x) => (float[N,12] y) <float[12,12] w> { y = MatMul(x, w) }")
    context = Context(Analyses(model), {"x": (1, 12)}, {})
    layer = context.analyses.layer("MatMul_0")
    structure: Structure = made(layer)
    assert context.replacement(layer, structure, 0.0, None).is_smaller is smaller
