"""What the number of rows follows from: operators that find, operators that are told, loops, bodies and functions."""

import onnx
import onnx_ir
import pytest
from kronnx.ir.inner_values import inferred, shown, stand_ins, without_shown
from kronnx.ir.model import signature
from kronnx.ir.row_counts import Origin, RowCounts
from networks import parsed

FIXED, GIVEN, COMPUTED = Origin

COUNTING = {
    "y = Relu(s)": FIXED,
    "k = NonZero(s) t = Transpose(k) y = GatherND(s, t)": COMPUTED,
    "b = Cast<to = 9>(n) f = Reshape(s, minus) y = Compress<axis = 0>(s, b)": GIVEN,
    "a = ReduceMax<keepdims = 0>(s) k = Cast<to = 7>(a) k1 = Reshape(k, minus) y, i = TopK<axis = 0>(s, k1)": COMPUTED,
    "y, i = TopK<axis = 0>(s, n)": GIVEN,
    "k = Shape(s) b = Cast<to = 1>(k) c = Cast<to = 7>(b) y = Expand(s, c)": FIXED,
    "k = NonZero(s) h = Shape(k) y = ConstantOfShape(h)": COMPUTED,
    "y = Loop(n, , s)<body = b (int64 i, bool c, float[m, 4] a) => (bool c, float[m, 4] z) { z = Relu(a) }>": GIVEN,
    "y = Loop(, true, s)<body = b (int64 i, bool c, float[m, 4] a) => (bool d, float[m, 4] z) "
    "{ z = Relu(a) q = ReduceMax<keepdims = 0>(z) d = Greater(q, zero) }>": COMPUTED,
    "y = If(true)<then_branch = t () => (float[m] u) { k = NonZero(s) g = Gather(k, zeroth) u = Cast<to = 1>(g) }, "
    "else_branch = e () => (float[m] v) { v = Reshape(s, minus) }>": COMPUTED,
}


def network(tail: str) -> onnx_ir.Model:
    text = f"""(float[m, 4] x, int64[1] n) => (float[k, 4] y) <float[4, 4] w, int64[1] minus = {{-1}},
    bool true = {{1}}, float zero = {{0}}, int64 zeroth = {{0}}> {{ s = MatMul(x, w) {tail} }}"""
    return inferred(parsed(text))


@pytest.mark.parametrize(("tail", "origin"), COUNTING.items())
def test_what_decides_how_much_comes_out_is_known(tail, origin):
    model = network(tail)
    assert RowCounts.of(model).sizes[model.graph.outputs[0]] == origin


def test_a_function_that_finds_counts_as_what_it_holds():
    text = """<ir_version: 10, opset_import: ["" : 20, "own" : 1]> net (float[m, 4] x) => (int64[r, k] y)
    { s = Relu(x) y = own.Find(s) }
    <domain: "own", opset_import: ["" : 20]> Find (a) => (b) { b = NonZero(a) }"""
    model = inferred(onnx_ir.from_proto(onnx.parser.parse_model(text)))
    assert RowCounts.of(model).sizes[model.graph.outputs[0]] == COMPUTED


DETECTOR = """(float[n, 8] x) => (int64[k, 3] y) <float[8, 12] w, int64[3] boxes_as = {1, 3, 4}, float[8, 6] v,
    int64[3] scores_as = {1, 2, 3}, int64[1] most = {5}, float[1] half = {0.5}>
    { a = MatMul(x, w) boxes = Reshape(a, boxes_as) b = MatMul(x, v) p = Sigmoid(b) scores = Reshape(p, scores_as)
      y = NonMaxSuppression(boxes, scores, most, half, half) }"""


def stand_ins_of(model: onnx_ir.Model, *known: str) -> tuple[str, ...]:
    return stand_ins(model.graph.outputs, RowCounts.of(model), known)


def test_the_nearest_values_of_fixed_number_stand_in_for_an_output():
    model = inferred(parsed(DETECTOR))
    assert stand_ins_of(model) == ("boxes", "scores")
    assert stand_ins_of(model, "boxes") == ("scores",)
    assert stand_ins_of(model, "a", "b") == ()


def test_a_value_that_follows_from_another_one_is_no_stand_in_beside_it():
    model = network(
        "f = Reshape(s, minus) a = Greater(s, zero) b = Cast<to = 7>(a) c = ReduceSum<keepdims = 0>(b) "
        "k = Reshape(c, minus) y, i = TopK(f, k)"
    )
    assert stand_ins_of(model) == ("s",)


def test_a_classifier_that_gives_labels_alone_has_its_scores_as_stand_in():
    text = "(float[m, 4] x) => (int64[m, 1] y) <float[4, 4] w> { s = MatMul(x, w) y = ArgMax<axis = 1>(s) }"
    assert stand_ins_of(inferred(parsed(text))) == ("s",)


CLASSIFIER = """<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml" : 3]>
net (float[n, 4] x) => (int64[n] label) <float[4, 3] w, int64[1] minus = {-1}, int64[3] classes = {5, 6, 7}> {
    a = ai.onnx.ml.Scaler<offset = [0.5], scale = [2.0]>(x) b = MatMul(a, w) scores = Softmax(b)
    c = ArgMax<axis = 1>(scores) d = ai.onnx.ml.ArrayFeatureExtractor(classes, c)
    e = Cast<to = 1>(d) f = Reshape(e, minus) label = Cast<to = 7>(f) }"""


def test_labels_in_floating_point_are_no_scores():
    """As skl2onnx writes a classifier."""
    proto = onnx.parser.parse_model(CLASSIFIER)
    proto.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 3], range(12)))
    proto.graph.value_info.remove(next(info for info in proto.graph.value_info if info.name == "w"))
    assert stand_ins_of(inferred(onnx_ir.from_proto(proto))) == ("scores",)


def test_what_was_shown_is_taken_away_with_what_it_alone_needed():
    model = parsed("(float[n, 4] x) => (float[n, 4] y) <float[4, 4] w> { s = MatMul(x, w) y = Relu(s) z = Exp(s) }")
    more = shown(model, ["s", "z", "y"])
    assert [v.name for v in more.graph.outputs] == ["y", "s", "z"]
    assert more.graph.outputs[1].shape == onnx_ir.Shape(["n", 4])
    less = without_shown(more, model)
    assert signature(less) == signature(model)
    assert [node.op_type for node in less.graph] == ["MatMul", "Relu"]
    assert len(model.graph) == 3


def test_a_file_whose_shapes_contradict_each_other_is_taken_as_it_is():
    model = parsed("(float[n, 4] x) => (float[n] y) <float[4, 4] w> { s = MatMul(x, w) y = Relu(s) }")
    assert signature(inferred(model)) == signature(model)
    assert [node.op_type for node in shown(model, ["s"]).graph] == ["MatMul", "Relu"]
