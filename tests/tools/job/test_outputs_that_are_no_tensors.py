"""Sequences, maps and optional values among the outputs, and texts among the constants, from load to verdict."""

import numpy as np
import onnx
import pytest
from kronnx.ir.errors import DataError
from kronnx.ir.model import signature
from kronnx.ir.model.protobuf import from_proto
from kronnx.runtime.sessions import Session
from recorded import optimize

HEADER = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> net '
BODY = "h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) "
KINDS = {
    "seq(float[n, 4]) s": "s = SequenceConstruct(y, y)",
    "optional(float[n, 4]) s": "s = Optional(y)",
    "seq(map(int64, float)) s": "s = ai.onnx.ml.ZipMap<classlabels_int64s = [1, 2, 3, 4]>(y)",
}


def network(outputs: str, nodes: str, inputs: str = "float[n, 8] x") -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f"{HEADER} ({inputs}) => ({outputs}) {{ {nodes} }}")
    random = np.random.default_rng(0)
    for name, shape in {"w": (8, 32), "v": (32, 4)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=shape).astype("f"), name))
    return proto


@pytest.mark.parametrize("kind", KINDS)
def test_beside_a_tensor_they_are_kept_and_a_note_says_that_they_were_not_compared(kind, tmp_path):
    proto = network(f"float[n, 4] y, {kind}", BODY + KINDS[kind])
    result = optimize(proto, "svd{rank=0.5}", cache_dir=tmp_path)
    assert list(result.report.heads) == ["y"]
    assert any("'s' is" in note and "not compared" in note for note in result.report.notes)
    assert signature(result.model) == signature(from_proto(proto))
    assert result.report.after.parameters < result.report.before.parameters


@pytest.mark.parametrize("kind", KINDS)
def test_alone_they_leave_the_model_as_it_is(kind, tmp_path):
    result = optimize(network(kind, BODY + KINDS[kind]), cache_dir=tmp_path)
    assert result.report.sites[0].reason == "no-head"
    assert "--judge y" in result.report.verdict
    assert ("zipmap=False" in result.report.verdict) == ("map(" in kind)


def test_a_classifier_of_scikit_learn_is_compressed_by_the_scores_behind_its_maps(tmp_path):
    nodes = (
        "a = ai.onnx.ml.Scaler<offset = [0.5], scale = [2.0]>(x) h = MatMul(a, w) r = Relu(h) y = MatMul(r, v) "
        "p = Softmax(y) s = ai.onnx.ml.ZipMap<classlabels_int64s = [1, 2, 3, 4]>(p) "
        "i = ArgMax<axis = 1>(p) c = Cast<to = 1>(i) label = Cast<to = 7>(c)"
    )
    proto = network("int64[n, 1] label, seq(map(int64, float)) s", nodes)
    assert optimize(proto, cache_dir=tmp_path).report.verdict.endswith("say --judge p (or export it with zipmap=False)")
    result = optimize(proto, "svd{rank=0.5}", judge="p", cache_dir=tmp_path)
    assert result.report.heads == {"p": "categorical"}
    assert result.report.after.parameters < result.report.before.parameters
    assert signature(result.model) == signature(from_proto(proto))


@pytest.mark.parametrize(
    ("given", "node"),
    [
        ("seq(float[n, 8]) s", "x = ConcatFromSequence<axis = 0>(s) "),
        ("optional(float[n, 8]) s", "x = OptionalGetElement(s) "),
        ("map(int64, float) s", "x = ai.onnx.ml.DictVectorizer<int64_vocabulary = [0, 1, 2, 3, 4, 5, 6, 7]>(s) "),
    ],
)
def test_as_inputs_they_are_refused(given, node, tmp_path):
    with pytest.raises(DataError, match=r"the input 's' is .*only models whose inputs are tensors can be fed"):
        optimize(network("float[n, 4] y", node + BODY, given), cache_dir=tmp_path)


def test_a_session_gives_its_tensors_and_runs_without_any():
    feed = {"x": np.ones((2, 8), np.float32)}
    both = Session(from_proto(network("float[n, 4] y, seq(float[n, 4]) s", BODY + "s = SequenceConstruct(y)")))
    assert list(both.run(feed)) == ["y"]
    both.runner(feed)()
    none = Session(from_proto(network("seq(float[n, 4]) s", BODY + "s = SequenceConstruct(y)")))
    assert none.run(feed) == {}
    none.runner(feed)()


def test_texts_among_the_constants_are_no_hindrance(tmp_path):
    proto = network("float[n, 4] y, string[n] label", BODY + "i = ArgMax<axis=1, keepdims=0>(y) label = Gather(t, i)")
    proto.graph.initializer.append(onnx.helper.make_tensor("t", onnx.TensorProto.STRING, [4], list("abcd")))
    result = optimize(proto, "svd{rank=0.5},prune", cache_dir=tmp_path)
    label = Session(result.model).run({"x": np.ones((1, 8), np.float32)})["label"]
    assert label[0] in list("abcd")
