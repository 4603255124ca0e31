import re

import numpy as np
import onnx
import pytest
from kronnx.ir.errors import InputError
from kronnx.ir.model import load
from onnx import TensorProto, numpy_helper

PLACES = {"offset": "-5", "length": "x"}


def spoilt(proto: onnx.ModelProto, text: str, folder) -> str:
    """A file with a byte that is no UTF-8 in the place of `text`."""
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString().replace(text.encode(), b"\xff" * len(text)))
    return str(path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.graph.node[0].output.__setitem__(0, "QQQ"), "NodeProto.output"),
        (lambda m: setattr(m.graph.node[0], "op_type", "QQQ"), "NodeProto.op_type"),
        (lambda m: setattr(m.graph.node[0], "name", "QQQ"), "NodeProto.name"),
        (lambda m: setattr(m.graph.initializer[0], "name", "QQQ"), "TensorProto.name"),
        (lambda m: setattr(m.graph.input[0], "name", "QQQ"), "ValueInfoProto.name"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "QQQ"), "Dimension.dim_param"),
        (lambda m: m.opset_import.add(domain="QQQ", version=1), "OperatorSetIdProto.domain"),
        (lambda m: m.graph.initializer.add(data_location=1).external_data.add(key="location", value="QQQ"), "value"),
    ],
)
def test_a_name_that_is_not_utf_8_is_refused(mlp: onnx.ModelProto, tmp_path, change, field: str) -> None:
    change(mlp)
    with pytest.raises(InputError, match=rf"'\\\\xff\\\\xff\\\\xff' \(a .*{re.escape(field)}\) isn't UTF-8"):
        load(spoilt(mlp, "QQQ", tmp_path))


def test_a_remark_that_is_not_utf_8_is_read_as_far_as_it_can_be(mlp: onnx.ModelProto, tmp_path) -> None:
    mlp.producer_name, mlp.graph.node[0].doc_string = "QQQ", "QQQ"
    mlp.metadata_props.add(key="author", value="QQQ")
    model = load(spoilt(mlp, "QQQ", tmp_path))
    assert [model.producer_name, model.graph[0].doc_string, model.metadata_props["author"]] == ["\ufffd" * 3] * 3


@pytest.mark.parametrize(("key", "value"), PLACES.items(), ids=PLACES)
def test_a_place_in_a_file_is_a_number(mlp: onnx.ModelProto, tmp_path, key: str, value: str) -> None:
    mlp.graph.initializer[0].data_location = TensorProto.EXTERNAL
    mlp.graph.initializer[0].external_data.add(key="location", value="w.data")
    mlp.graph.initializer[0].external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(mlp.SerializeToString())
    with pytest.raises(InputError, match=f"the weight 'w' has the {key} '{value}'"):
        load(tmp_path / "m.onnx")


def test_an_operator_set_has_one_version(mlp: onnx.ModelProto, tmp_path) -> None:
    mlp.opset_import.add(domain="", version=20)
    onnx.save(mlp, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx").opset_imports == {"": 20}
    mlp.opset_import.add(domain="", version=13)
    onnx.save(mlp, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="the versions 20 and 13 to the operator set ''"):
        load(tmp_path / "m.onnx")


def test_two_weights_of_one_name_are_refused_unless_they_are_one(mlp: onnx.ModelProto, tmp_path) -> None:
    mlp.graph.initializer.append(mlp.graph.initializer[0])
    onnx.save(mlp, tmp_path / "same.onnx")
    assert len(load(tmp_path / "same.onnx").graph.initializers) == 3
    mlp.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((8, 16), np.float32), "w"))
    onnx.save(mlp, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="two different weights are called 'w'"):
        load(tmp_path / "other.onnx")
