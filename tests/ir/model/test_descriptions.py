"""Docs and metadata stay with what they stand on, or go to what takes its place."""

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.forms import Form, low_rank
from kronnx.ir.model import load, save
from kronnx.ir.rewriter import Rewriter

PICTURE = """<ir_version: 10, opset_import: ["": %d]> net (float[N,3,8,8] x) => (float[N,5] y)
    <float[4,3,3,3] k, float[4] s, float[4] b, float[4] m, float[4] v, float[5,4] w, float[5] d, float[N,4,8,8] c>
    { c = Conv<pads=[1,1,1,1]>(x, k) n = BatchNormalization(c, s, b, m, v) r = Relu(n) g = GlobalAveragePool(r)
      f = Flatten(g) t = Transpose<perm=[1,0]>(w) p = MatMul(f, t) a = Add(p, d) y = Identity(a) }"""
KEPT = {"c": "Conv", "r": "Relu", "p": "MatMul"}


def described(opset: int) -> onnx.ModelProto:
    """A model in which everything has a doc and metadata: its own name."""
    proto, random = onnx.parser.parse_model(PICTURE % opset), np.random.default_rng(0)
    made = {name for node in proto.graph.node for name in node.output}
    for info in [info for info in proto.graph.value_info if info.name not in made]:
        array = np.abs(random.normal(size=[d.dim_value for d in info.type.tensor_type.shape.dim]))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), info.name))
        proto.graph.value_info.remove(info)
    for node in proto.graph.node:
        node.name = f"node {node.output[0]}"
    graph = proto.graph
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info, graph, proto):
        text = getattr(part, "name", "model")
        part.doc_string = text
        part.metadata_props.add(key="is", value=text)
    graph.output[0].type.denotation = "TENSOR"
    proto.producer_name = "somebody"
    return proto


def said(part) -> tuple[str, str]:
    metadata = {entry.key: entry.value for entry in part.metadata_props}
    assert set(metadata) <= {"is"}
    return part.doc_string, metadata.get("is", "")


@pytest.fixture(params=[9, 18])
def cleaned(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return onnx_ir.to_proto(clean(normalize(onnx_ir.from_proto(described(request.param)))))


def test_the_clean_up_keeps_what_is_said_of_outputs_nodes_and_weights(cleaned: onnx.ModelProto) -> None:
    graph = cleaned.graph
    assert said(graph.input[0]) == ("x", "x")
    assert said(graph.output[0]) == ("y", "y")
    assert graph.output[0].type.denotation == "TENSOR"
    named = {node.op_type: node for node in graph.node}
    assert all(said(named[op]) == (f"node {y}", f"node {y}") for y, op in KEPT.items())
    assert {tensor.name: said(tensor) for tensor in graph.initializer if tensor.doc_string} == {
        **{name: (name, name) for name in ("k", "d")},
        "t": ("w", "w"),
    }


def test_the_clean_up_keeps_what_is_said_of_the_model(cleaned: onnx.ModelProto) -> None:
    assert said(cleaned) == ("model", "model")
    assert said(cleaned.graph) == ("net", "net")
    assert cleaned.producer_name == "somebody"


def test_nodes_without_names_keep_their_docs_in_a_newer_opset() -> None:
    proto = described(9)
    for node in proto.graph.node:
        node.name = ""
    given = onnx_ir.to_proto(normalize(onnx_ir.from_proto(proto)))
    assert [said(node)[1] for node in given.graph.node if node.op_type in KEPT.values()] == [
        "node c",
        "node r",
        "node p",
    ]


def test_what_a_layer_becomes_is_described_as_the_layer() -> None:
    model = normalize(onnx_ir.from_proto(described(18)))
    rewriter = Rewriter(model)
    layer = rewriter.analyses.layers.found["node p"]
    random = np.random.default_rng(0)
    form = Form(low_rank(layer, 2), (random.normal(size=(1, 2, 4)), random.normal(size=(1, 5, 2))))
    rewriter.replace(layer, form, bias=np.ones(5))
    graph = onnx_ir.to_proto(rewriter.model).graph
    assert [said(node) for node in graph.node if node.op_type == "MatMul"] == [("node p", "node p"), ("", "")]
    weights = {tensor.name: said(tensor) for tensor in graph.initializer}
    assert {name: text for name, text in weights.items() if name[:2] in ("t.", "d.")} == {
        **{f"t.{k}": ("w", "w") for k in (0, 1)},
        "d.shifted": ("d", "d"),
    }


def test_tuned_and_shortened_weights_are_described_as_before() -> None:
    rewriter = Rewriter(clean(normalize(onnx_ir.from_proto(described(18)))))
    rewriter.tune({"d": np.zeros(5)})
    group = next(group for group in rewriter.analyses.groups.found.values() if group.channels == 4)
    rewriter.remove(group, np.array([0, 2]), {})
    docs = {tensor.name: said(tensor) for tensor in onnx_ir.to_proto(rewriter.model).graph.initializer}
    assert docs["d"] == ("d", "d")
    assert docs["k.kept"] == ("k", "k")
    assert docs["t.kept"] == ("w", "w")


def test_docs_of_weights_in_files_of_their_own_are_kept(tmp_path) -> None:
    proto = described(18)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    save(load(tmp_path / "m.onnx"), tmp_path / "n.onnx", external_data=True)
    graph = onnx.load(tmp_path / "n.onnx").graph
    assert {tensor.name: said(tensor) for tensor in graph.initializer}["k"] == ("k", "k")
