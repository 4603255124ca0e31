"""Tables of embeddings in rows of 8 bits: both ways against numpy, what is predicted, and which stay as they are."""

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.forms import Form
from kronnx.ir.layers import find_embeddings, tied_embeddings
from kronnx.ir.model import clone, signature
from kronnx.ir.rewriter import Rewriter
from kronnx.ir.tables import CodedTable, Table, coded_rows
from kronnx.passes.quantize import Quantize
from onnx.reference import ReferenceEvaluator

TOKENS = """(int64[N,T] tokens) => (float[N,T,5] y)
    <float[40,16] table, float[16] s, float[16] b, float[16,16] w, float[16,16] u, float[16,5] v>
    { e = Gather<axis=0>(table, tokens) n = LayerNormalization<axis=-1>(e, s, b) q = MatMul(n, w)
      t = Transpose<perm=[0,2,1]>(n) a = MatMul(q, t) p = Softmax<axis=-1>(a) c = MatMul(p, n) d = MatMul(c, u)
      r = Add(d, e) z = MatMul(r, v) y = Softmax<axis=-1>(z) }"""


def tokens(samples: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Common ones more often than others, a few never."""
    drawn = np.random.default_rng(seed).geometric(0.1, size=(samples, 6))
    return {"tokens": np.minimum(drawn, 35).astype(np.int64)}


def draw(model: onnx_ir.Model, samples: int = 3, seed: int = 1, **sizes: int) -> dict[str, np.ndarray]:
    return tokens(samples, seed)


@pytest.fixture(autouse=True)
def _tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "draw", draw)


@pytest.mark.parametrize("kind", ["float", "float16", "double"])
def test_rows_are_their_codes_times_their_scale(kind: str) -> None:
    model = networks.build(
        f"(int64[N,T] tokens) => ({kind}[N,T,16] y) <{kind}[40,16] table> {{ y = Gather(table, tokens) }}"
    )
    (layer,) = find_embeddings(model).values()
    codes, scales = coded_rows(layer.matrix(), layer.dtype.numpy())
    rewriter = Rewriter(clone(model))
    form = Form(CodedTable(40, 16), (codes, scales))
    rewriter.replace(find_embeddings(rewriter.model)[layer.name], form)
    assert signature(rewriter.model) == signature(model)
    assert networks.ops(rewriter.model) == "Gather Gather Cast Mul"
    wanted = (codes * scales)[0].T[tokens(3)["tokens"]]
    np.testing.assert_allclose(networks.run(rewriter.model, tokens(3))["y"], wanted, rtol=1e-3, atol=1e-6)
    (referred,) = ReferenceEvaluator(onnx_ir.to_proto(rewriter.model)).run(None, tokens(3))
    np.testing.assert_allclose(referred, wanted, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(form.dense(), codes * scales)
    table = layer.matrix()
    assert (np.abs(form.dense() - table) <= 0.51 * np.abs(table).max(axis=1, keepdims=True) / 127).all()
    held = sum(v.const_value.nbytes for v in rewriter.model.graph.initializers.values())
    assert held == form.structure.bytes(layer.dtype.itemsize)


def test_rows_of_zeros_are_held_as_zeros() -> None:
    codes, scales = coded_rows(np.zeros((1, 4, 3)), np.dtype(np.float32))
    assert not codes.any()
    assert np.isfinite(scales).all()


@pytest.mark.parametrize("structure", [Table(40, 16), CodedTable(40, 16)])
def test_a_table_can_be_timed(structure: Table | CodedTable) -> None:
    made = networks.run(structure.alone((2, 7)), {"x": np.zeros((2, 7), np.int64)})["y"]
    assert made.shape == (2, 7, 16)
    assert structure.macs((2, 7)) == 0


def candidates(stage: Quantize, text: str = TOKENS) -> tuple:
    model = networks.build(text)
    context = networks.context_of(model, stage, samples=400)
    return model, context, stage.propose(context)


def test_what_a_table_costs_is_predicted() -> None:
    stage = Quantize(bits=8, layers="Gather*")
    model, context, proposal = candidates(stage)
    (candidate,) = proposal.candidates
    assert candidate.label == "int8 rows"
    assert (candidate.before[0].cost().bytes, candidate.after[0].cost().bytes) == (40 * 16 * 4, 40 * (16 + 4))
    made = networks.applied(model, stage, context, candidate)
    measured = networks.kl(model, made, tokens(1000, seed=5))
    assert measured == pytest.approx(candidate.predicted, rel=0.5)


def test_tables_are_quantized_beside_the_layers() -> None:
    stage = Quantize(bits=8)
    model, context, proposal = candidates(stage)
    made = networks.applied(model, stage, context, *proposal.candidates)
    assert signature(made) == signature(model)
    assert {c.site for c in proposal.candidates} == {"Gather_0", "MatMul_0", "MatMul_3", "MatMul_4"}
    assert networks.kl(model, made, tokens(100)) < 1e-2


def test_a_table_that_is_read_elsewhere_stays_with_a_remark() -> None:
    tied = TOKENS.replace("z = MatMul(r, v)", "tt = Transpose<perm=[1,0]>(table) z = MatMul(r, tt)").replace(
        "T,5]", "T,40]"
    )
    model = networks.build(tied)
    assert list(tied_embeddings(model)) == ["Gather_0"]
    _, _, proposal = candidates(Quantize(bits=8), tied)
    assert "Gather_0" not in {c.site for c in proposal.candidates}
    assert any(r.site == "Gather_0" and r.reason == "tied-weight" for r in proposal.remarks)


def test_tables_have_no_form_of_fewer_bits() -> None:
    _, _, proposal = candidates(Quantize(bits=4, layers="Gather*"))
    assert proposal.candidates == ()
    assert [(r.site, r.reason) for r in proposal.remarks] == [("Gather_0", "no-form")]
