"""Models whose outputs are maps, which onnx_ir has no type for."""

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.model import load, save, signature
from kronnx.ir.model.protobuf import from_proto, is_map, to_proto
from networks import parsed

ZIPPED = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
net (float[n, 4] x) => (float[n, 2] p, seq(map(int64, float)) z)
<float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
  y = MatMul(x, w)
  p = Softmax(y)
  z = ai.onnx.ml.ZipMap<classlabels_int64s = [7, 9]>(p)
}"""


@pytest.fixture
def zipped() -> onnx.ModelProto:
    return onnx.parser.parse_model(ZIPPED)


def test_a_map_keeps_its_type_and_the_message_that_was_given_is_untouched(zipped):
    before = zipped.SerializeToString()
    model = from_proto(zipped)
    assert [is_map(value) for value in model.graph.outputs] == [False, True]
    assert to_proto(model).graph.output == zipped.graph.output
    assert zipped.SerializeToString() == before


def test_a_map_is_part_of_the_signature_through_clean_up_and_file(zipped, tmp_path):
    onnx.save(zipped, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    save(clean(normalize(model)), tmp_path / "clean.onnx")
    assert signature(load(tmp_path / "clean.onnx")) == signature(model)
    onnx.checker.check_model(str(tmp_path / "clean.onnx"), full_check=True)


def test_what_zipmap_gives_is_the_same_after_the_clean_up(zipped):
    feed = {"x": np.array([[1, 0, 0, 0], [0, 0.1, 0, 0]], np.float32)}
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(["z"], feed)[0]
        for m in (zipped, to_proto(clean(normalize(from_proto(zipped)))))
    )
    assert [list(row) for row in after] == [[7, 9], [7, 9]]
    np.testing.assert_allclose([list(r.values()) for r in after], [list(r.values()) for r in before], rtol=1e-6)


def test_a_map_inside_a_branch_is_no_hindrance():
    branch = "(seq(map(int64, float)) {0}) {{ {0} = ai.onnx.ml.ZipMap<classlabels_int64s = [1, 2]>(p) }}"
    text = ZIPPED.replace(
        "z = ai.onnx.ml.ZipMap<classlabels_int64s = [7, 9]>(p)",
        f"c = Constant<value = bool {{1}}>() "
        f"z = If(c)<then_branch = one () => {branch.format('s')}, else_branch = two () => {branch.format('t')}>",
    )
    proto = onnx.parser.parse_model(text)
    assert to_proto(from_proto(proto)).graph.output == proto.graph.output


def test_a_model_without_maps_is_what_onnx_ir_makes_of_it():
    model = parsed("(float[n] x) => (seq(float[n]) s, float[n] y) { y = Relu(x) s = SequenceConstruct(x, y) }")
    assert to_proto(model) == onnx_ir.to_proto(model)
    assert to_proto(from_proto(to_proto(model))) == onnx_ir.to_proto(model)
