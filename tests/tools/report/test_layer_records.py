"""The layers of a report: closed-form shapes, parameters and multiply-adds before and after fixed passes."""

import json

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.coded_forms import Coded, Multiplied, coded
from kronnx.ir.forms import structure_of
from kronnx.ir.integers import Integers
from kronnx.ir.lineage import lineage
from kronnx.ir.model import clone
from kronnx.ir.model.weights import weight_bytes
from kronnx.ir.output_heads import find_heads
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.curvature import Bench, Curvature, measure
from kronnx.passes.planning.proposal import Pass
from kronnx.passes.planning.stages import Attempt, StageRunner, concrete_shapes
from kronnx.tools.job.optimize import optimize
from kronnx.tools.job.pipeline_text import parse
from kronnx.tools.job.sensitivity import sensitivity
from kronnx.tools.report.accounting import figures
from kronnx.tools.report.layer_records import Inventory
from kronnx.tools.report.records import LayerRecord, PieceRecord, Report
from networks import build, draw, execute
from own_structures import InBytes

CNN = """(float[N,1,12,12] x) => (float[N,10] logits)
    <float[16,1,5,5] k, float[16] kb, float[16,16,3,3] m, float[16] mb, float[576,40] w, float[40] wb, float[40,10] v,
     float[10] vb> {
        a = Conv(x, k, kb)  b = Relu(a)  c = Conv(b, m, mb)  d = Relu(c)  f = Flatten(d)
        g = MatMul(f, w)  h = Add(g, wb)  r = Relu(h)  logits = Gemm(r, v, vb)
    }"""
GROUPED = """(float[N,8,6,6] x) => (float[N,16,4,4] y) <float[8,1,3,3] k, float[16,4,3,3] m> {
        a = Conv<group = 8, pads = [1, 1, 1, 1]>(x, k)  b = Relu(a)  y = Conv<group = 2>(b, m)
    }"""
SHARED = """(float[N,12] x, float[N,12] z) => (float[N,16] y) <float[12,16] w, float[16] b>
    { f = Gemm(x, w, b)  g = Gemm(z, w, b)  y = Sub(f, g) }"""
READERS = """(float[N,16] x) => (float[N,12] q, float[N,12] k) <float[16,12] wq, float[16,12] wk>
    { q = MatMul(x, wq)  k = MatMul(x, wk) }"""
STRIPES = """(float[N,16] x) => (float[N,8] y) <float[16,32] w, float[32] b, float[32,8] v, float[8] c>
    { f = Gemm(x, w, b)  r = Relu(f)  g = MatMul(r, v)  y = Add(g, c) }"""
ONE_BIAS = """(float[N,6] x) => (float[N,1] y) <float[6,6] w, float[6,6] u, float[6] b, float[6,1] v, float[1] c>
    { f = Gemm(x, w, b)  r = Relu(f)  g = Gemm(r, u, b)  s = Relu(g)  y = Gemm(s, v, c) }"""

Rows = tuple[list[LayerRecord], onnx_ir.Model, onnx_ir.Model]


def attempted(model: onnx_ir.Model, passes: str | Pass) -> Attempt:
    """What fixed passes do, measured on made-up samples."""

    def moments(model, wants):
        return measure(
            Bench.surveyed(model, find_heads(model), [draw(model, 100)], execute, Curvature(4)), wants
        ).moments

    stages = parse(passes) if isinstance(passes, str) else (passes,)
    return StageRunner(model, stages, draw(model, 1), execute, None, lambda saving: 0.0, moments).attempt(0.0)


def shapes_of(model: onnx_ir.Model):
    return concrete_shapes(model, draw(model, 1), execute)


def records(text: str, passes: str | Pass) -> dict[str, LayerRecord]:
    """The records by name; their sums are what the figures of both models count."""
    model = build(text)
    attempt = attempted(model, passes)
    inventory = Inventory(model, shapes_of(model))
    found = inventory.records_after(attempt.model, shapes_of(attempt.model), attempt.lineage)
    before = figures(model, shapes_of(model), 0)
    after = figures(attempt.model, shapes_of(attempt.model), 0)
    assert (sum(x.parameters for x in found), sum(x.macs for x in found)) == (before.parameters, before.macs)
    assert (sum(x.after_parameters for x in found), sum(x.after_macs for x in found)) == (
        after.parameters,
        after.macs,
    )
    return {x.name: x for x in found}


def shapes(record: LayerRecord) -> list[tuple[int, ...]]:
    return [piece.shape for piece in record.after]


def matrices(record: LayerRecord) -> list[tuple[int, int, int]]:
    return [piece.matrix for piece in record.after]


def test_an_unchanged_model_has_its_layers_before_and_after():
    model = build(CNN)
    found = Inventory(model, shapes_of(model), {"Gemm_0": 0.5}).records()
    assert [x.name for x in found] == ["Conv_0", "Conv_1", "MatMul_0", "Gemm_0"]
    assert [x.shape for x in found] == [(16, 1, 5, 5), (16, 16, 3, 3), (576, 40), (40, 10)]
    assert [x.matrix for x in found] == [(1, 16, 25), (1, 16, 144), (1, 40, 576), (1, 10, 40)]
    assert [x.parameters for x in found] == [416, 2320, 23080, 410]
    assert [x.macs for x in found] == [64 * 400, 36 * 2304, 23040, 400]
    assert [x.sensitivity for x in found] == [None, None, None, 0.5]
    for x in found:
        assert x.after == (PieceRecord(x.name, x.op, x.shape, x.matrix),)
        assert (x.after_parameters, x.after_macs, x.form, x.changed) == (x.parameters, x.macs, "dense", False)


def test_a_fixed_rank_makes_two_pieces_in_the_order_in_which_they_run():
    found = records(CNN, "svd{rank=8}")
    assert shapes(found["Conv_0"]) == [(8, 1, 5, 5), (16, 8, 1, 1)]
    assert matrices(found["Conv_1"]) == [(1, 8, 144), (1, 16, 8)]
    assert shapes(found["MatMul_0"]) == [(576, 8), (8, 40)]
    assert [p.name for p in found["MatMul_0"].after] == ["MatMul_0.0", "MatMul_0.1"]
    assert found["MatMul_0"].after_parameters == 8 * (576 + 40) + 40
    assert found["Conv_1"].after_macs == 36 * (8 * 144 + 16 * 8)
    assert [x.form for x in found.values()] == ["low rank 8"] * 3 + ["dense"]
    assert [x.changed for x in found.values()] == [True] * 3 + [False]


def test_a_fixed_sparsity_makes_layers_and_their_readers_smaller():
    found = records(CNN, "prune{sparsity=0.5}")
    after = [[(8, 1, 5, 5)], [(8, 8, 3, 3)], [(288, 20)], [(20, 10)]]
    assert [shapes(x) for x in found.values()] == after
    assert [x.after_parameters for x in found.values()] == [208, 584, 5780, 210]
    assert [x.form for x in found.values()] == ["8 of 16 channels"] * 2 + ["20 of 40 channels", "dense"]
    assert all(x.changed for x in found.values())


def test_rank_and_channels_together():
    found = records(CNN, "svd{rank=8},prune{sparsity=0.5}")
    assert shapes(found["Conv_0"]) == [(4, 1, 5, 5), (8, 4, 1, 1)]
    assert shapes(found["Conv_1"]) == [(4, 8, 3, 3), (8, 4, 1, 1)]
    assert shapes(found["MatMul_0"]) == [(288, 4), (4, 20)]
    assert shapes(found["Gemm_0"]) == [(20, 10)]
    assert found["MatMul_0"].form == "low rank 8, 4 of 8 channels, 20 of 40 channels"


def test_a_clean_up_in_between_loses_no_layer():
    found = records(CNN, "svd{rank=8},cleanup,prune{sparsity=0.5}")
    assert shapes(found["Conv_0"]) == [(4, 1, 5, 5), (8, 4, 1, 1)]
    assert all(x.after for x in found.values())


def test_groups_of_a_convolution_are_blocks_of_its_matrix():
    found = records(GROUPED, "svd{rank=4}")
    depthwise, grouped = found.values()
    assert (depthwise.shape, depthwise.matrix, depthwise.changed) == ((8, 1, 3, 3), (8, 1, 9), False)
    assert (grouped.shape, grouped.matrix) == ((16, 4, 3, 3), (2, 8, 36))
    assert (shapes(grouped), matrices(grouped)) == ([(8, 4, 3, 3), (16, 4, 1, 1)], [(2, 4, 36), (2, 8, 4)])
    assert (grouped.after_parameters, grouped.after_macs) == (352 + 16, 16 * 352)  # and a bias for the mean


def test_a_layer_of_two_uses_is_one_record_whose_runs_both_count():
    (shared,) = records(SHARED, "svd{rank=4}").values()
    assert (shared.parameters, shared.macs) == (192 + 16, 2 * 192)
    assert shapes(shared) == [(12, 4), (4, 16)]
    assert (shared.after_parameters, shared.after_macs) == (4 * 28 + 16, 2 * 4 * 28)


def test_a_shared_projection_is_a_piece_of_each_reader_and_counts_for_the_first():
    q, k = records(READERS, "project{rank=4}").values()
    assert shapes(q) == shapes(k) == [(16, 4), (4, 12)]
    assert q.after[0] == k.after[0]
    assert (q.after_parameters, k.after_parameters) == (64 + 48, 48)
    assert q.form == k.form == "projection 4 of 16"


@pytest.mark.parametrize("block", ["4x4", "4x8"])
def test_stripes_count_with_the_bias_behind_them(block):
    first, second = records(STRIPES, f"prune{{sparsity=0.5 block={block} layers=MatMul_0}}").values()
    assert not first.changed
    assert {piece.op for piece in second.after} == {"MatMul"}
    assert sum(np.prod(piece.shape) for piece in second.after) + 8 == second.after_parameters == 128 + 8
    assert second.form == "block-sparse 0.50"
    assert second.after_bytes == 4 * second.after_parameters + 8 * sum(piece.shape[0] for piece in second.after)


def test_a_constant_of_several_layers_counts_once_and_one_of_a_single_element_never():
    model = build(ONE_BIAS)
    found = Inventory(model, shapes_of(model)).records()
    assert [x.parameters for x in found] == [42, 36, 6]
    assert sum(x.parameters for x in found) == figures(model, shapes_of(model), 0).parameters


def test_a_layer_that_is_gone_has_no_pieces():
    model, smaller = build(STRIPES), build("(float[N,16] x) => (float[N,16] y) { y = Relu(x) }")
    lineage = attempted(model, "svd{rank=1.0}").lineage
    found = Inventory(model, shapes_of(model)).records_after(smaller, {}, lineage)
    assert [(x.after, x.after_parameters, x.after_macs, x.form) for x in found] == [((), 0, 0, "removed")] * 2
    assert all(x.changed for x in found)


@pytest.fixture(scope="module")
def report(planted) -> Report:
    return optimize(planted.model, "svd{rank=8}", data=planted.data, cache_dir=planted.cache).report


def test_the_report_of_a_run_has_its_layers(report):
    assert [x.shape for x in report.layers] == [(64, 128), (128, 128), (128, 10)]
    assert shapes(report.layers[0]) == [(64, 8), (8, 128)]
    assert sum(x.after_parameters for x in report.layers) == report.after.parameters
    assert sum(x.after_macs for x in report.layers) == report.after.macs


def test_the_sensitivity_is_the_trace_that_the_command_shows(planted, report):
    shown = sensitivity(planted.model, data=planted.data, cache_dir=planted.cache).rows
    assert {x.name: x.sensitivity for x in report.layers} == {row.name: pytest.approx(row.trace) for row in shown}


def test_layers_come_back_from_json(report):
    again = Report.from_json(report.to_json())
    assert again.layers == report.layers
    plain = json.loads(report.to_json())
    assert plain["layers"][0]["after"][0]["matrix"] == [1, 8, 64]
    del plain["layers"]
    assert Report.from_json(json.dumps(plain)).layers == ()


def test_a_model_that_comes_back_unchanged_has_the_same_layers_before_and_after(planted):
    found = optimize(planted.model, "svd{rank=1.0}", data=planted.data, cache_dir=planted.cache).report.layers
    assert [x.changed for x in found] == [False] * 3
    assert all((x.after_parameters, x.after_macs) == (x.parameters, x.macs) for x in found)


def test_what_runs_as_another_packages_structure_is_counted_as_it_stands_in_the_graph():
    found = records(READERS, InBytes(fixed=True))
    assert [(x.form, x.after_parameters, x.after_macs, x.after) for x in found.values()] == [("own", 192, 192, ())] * 2
    assert [(x.bytes, x.after_bytes) for x in found.values()] == [(4 * 192, 192 + 4)] * 2


@pytest.mark.parametrize(("made", "bits"), [(Multiplied, 8), (Coded, 8), (Coded, 4)])
def test_integers_are_counted_with_their_scales_and_the_bias(made, bits):
    """In bytes, or in halves of them."""
    model = build(STRIPES)
    rewriter, integers = Rewriter(clone(model)), Integers(bits)
    for name in ("Gemm_0", "MatMul_0"):
        layer = rewriter.analyses.layer(name)
        codes, scales = np.ones((1, layer.out, layer.inputs)), np.ones((1, layer.out, 1))
        rewriter.replace(layer, coded(made(structure_of(layer), integers), [(codes, scales)]))
    became = lineage(["Gemm_0", "MatMul_0"], rewriter.log)
    found = Inventory(model, shapes_of(model)).records_after(rewriter.model, {}, became)
    assert [x.after_bytes for x in found] == [n * bits / 8 + 8 * out for n, out in ((16 * 32, 32), (32 * 8, 8))]
    assert sum(x.after_bytes for x in found) == weight_bytes(rewriter.model)


def test_bytes_are_counted_as_they_are_stored():
    model = build(CNN)
    for name in ("w", "wb"):
        value = model.graph.initializers[name]
        value.const_value = onnx_ir.tensor(value.const_value.numpy().astype(np.float16), name=name)
        value.dtype = onnx_ir.DataType.FLOAT16
    found = {x.name: x for x in Inventory(model, shapes_of(build(CNN))).records()}
    assert (found["MatMul_0"].bytes, found["Gemm_0"].bytes) == (2 * 23080, 4 * 410)
    assert all(x.after_bytes == x.bytes for x in found.values())
