import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kronnx.ir.errors import InputError, KronnxError
from kronnx.ir.model import check_weights, clone, load, save, signature
from kronnx.ir.model.ir_version import needed_ir_version
from onnx import TensorProto, helper, numpy_helper


def identity_model(*initializers: onnx.TensorProto, nodes=(), **graph) -> onnx.ModelProto:
    made = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu"), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None, 3])],
        list(initializers),
        **graph,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def external(name: str, dims: list[int], location: str, offset: int = 0, length: int | None = None) -> onnx.TensorProto:
    tensor = TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": str(offset), **({} if length is None else {"length": str(length)})}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def stored(proto: onnx.ModelProto, folder: Path, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def big(tmp_path) -> Path:
    """A model whose weight w [100, 100] is kept in big.onnx.data."""
    w = numpy_helper.from_array(np.arange(1e4, dtype=np.float32).reshape(100, 100), "w")
    save(load(stored(identity_model(w), tmp_path)), tmp_path / "big.onnx", external_data=True)
    return tmp_path / "big.onnx"


def weight(model: onnx_ir.Model, name: str = "w") -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def test_the_signature_says_names_types_and_dimensions(tmp_path):
    assert signature(load(stored(identity_model(), tmp_path))) == (
        ("input", "x", "FLOAT", ("n", None, 3)),
        ("output", "y", "FLOAT", ("n", None, 3)),
    )


def test_an_input_with_a_value_in_the_file_is_a_default(tmp_path):
    proto = identity_model(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    model = load(stored(proto, tmp_path))
    save(model, tmp_path / "out.onnx")
    assert signature(load(tmp_path / "out.onnx"))[1] == ("default", "w", "FLOAT", (2,))


def test_a_clone_has_its_own_nodes_and_the_same_weights(mlp_path):
    model = load(mlp_path)
    other = clone(model)
    other.graph.remove(other.graph[-1])
    assert len(model.graph) == 4
    assert other.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no graph"),
        (b"hello, this is a text file, and no model\n" * 9, "is not an ONNX model"),
        (b"PK\x03\x04" + bytes(100), "is not an ONNX model"),
        (bytes(range(256)) * 4, "is not an ONNX model"),
    ],
)
def test_a_file_that_is_no_model_is_named(content, says, tmp_path):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match=says):
        load(tmp_path / "m.onnx")


def test_a_path_that_is_missing_or_a_folder_is_said(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)


def test_a_graph_without_outputs_is_refused(tmp_path):
    proto = identity_model()
    proto.graph.ClearField("output")
    with pytest.raises(InputError, match="no outputs"):
        load(stored(proto, tmp_path))


def test_a_value_that_nothing_makes_is_named(tmp_path):
    proto = identity_model(nodes=[helper.make_node("Add", ["y", "ghost"], ["z"], "add")])
    with pytest.raises(InputError, match=r"'add'.*'ghost'"):
        load(stored(proto, tmp_path))


def test_a_weight_with_too_few_bytes_is_named(tmp_path):
    tensor = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    tensor.raw_data = tensor.raw_data[:-1]
    with pytest.raises(InputError, match="'w' is damaged: 63 bytes held, 64 wanted"):
        load(stored(identity_model(tensor), tmp_path))


def test_a_model_cut_off_anywhere_is_an_input_error_or_a_model(mlp, tmp_path):
    content = mlp.SerializeToString()
    for size in range(len(content)):
        path = tmp_path / "cut.onnx"
        path.write_bytes(content[:size])
        try:
            load(path)
        except KronnxError:
            continue


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_byte_gives_an_input_error_or_a_model(mlp, tmp_path, data):
    content = bytearray(mlp.SerializeToString())
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.onnx").write_bytes(bytes(content))
    try:
        signature(load(tmp_path / "m.onnx"))
    except KronnxError:
        return


def test_external_data_is_mapped_and_read(big):
    assert big.with_name("big.onnx.data").stat().st_size == 40_000
    assert weight(load(big))[3, 7] == 307


def test_external_data_that_is_missing_is_named(big):
    big.with_name("big.onnx.data").unlink()
    with pytest.raises(InputError, match=r"'w' is kept in .*big\.onnx\.data, which is missing"):
        load(big)


def test_external_data_that_is_cut_off_is_named(big):
    os.truncate(big.with_name("big.onnx.data"), 39_999)
    with pytest.raises(InputError, match=r"'w' wants bytes 0 to 40000 of .*has 39999"):
        load(big)


def test_external_data_of_a_wrong_length_is_named(tmp_path):
    (tmp_path / "d").write_bytes(bytes(64))
    with pytest.raises(InputError, match=r"has 60 bytes.*want 64"):
        load(stored(identity_model(external("w", [16], "d", length=60)), tmp_path))


OUTSIDE = ["../secret", "/etc/hostname", "a/../../secret", "..\\secret", "C:\\secret", "", "link"]


@pytest.mark.parametrize("location", OUTSIDE)
def test_external_data_outside_of_the_folder_is_not_read(location, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="outside the model's folder"):
        load(stored(identity_model(external("w", [16], location)), tmp_path / "in"))


@pytest.mark.parametrize("location", ["a\0b", "a" * 5000, "/".join(["a" * 200] * 40)], ids=["NUL", "long", "deep"])
def test_external_data_in_what_can_be_no_file_is_refused(location, tmp_path):
    proto = identity_model(external("w", [4], location))
    with pytest.raises(InputError, match=r"the weight 'w' is kept in '[^']{3,80}', which is no name of a file: [^/]*$"):
        load(stored(proto, tmp_path))


def test_other_models_with_such_places_hinder_no_writing(tmp_path, mlp_path):
    stored(identity_model(external("w", [4], "out.onnx.data/" + "a" * 5000)), tmp_path, "other.onnx")
    save(load(mlp_path), tmp_path / "out.onnx", external_data=True)
    (tmp_path / "out.onnx").unlink()
    save(load(mlp_path), tmp_path / "out.onnx", external_data=True)


def test_a_cache_of_links_to_model_and_data_is_read(big, tmp_path):
    (tmp_path / "snapshot").mkdir()
    for file in (big, big.with_name("big.onnx.data")):
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert weight(load(tmp_path / "snapshot" / "big.onnx"))[0, 1] == 1


def test_a_model_can_be_saved_over_the_files_it_is_mapped_from(big):
    model = load(big)
    model.graph.initializers["w"].const_value = onnx_ir.tensor(weight(model) + 1)
    model.graph.register_initializer(
        onnx_ir.Value(name="v", const_value=onnx_ir.tensor(np.zeros(99, np.float32), name="v"))
    )
    unchanged = load(big)
    save(model, big, external_data=True)
    assert weight(load(big))[3, 7] == 308
    assert weight(unchanged)[3, 7] == 307


def test_a_mapped_model_is_saved_whole_without_external_data(big, tmp_path):
    save(load(big), tmp_path / "one.onnx")
    big.with_name("big.onnx.data").unlink()
    assert weight(load(tmp_path / "one.onnx"))[3, 7] == 307


def test_packed_and_half_weights_survive_external_data(tmp_path):
    arrays = {
        "w": np.arange(-300, 300).astype(ml_dtypes.bfloat16),
        "q": np.resize(np.arange(-8, 8), 601).astype(ml_dtypes.int4),
    }
    proto = identity_model(*(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()))
    save(load(stored(proto, tmp_path)), tmp_path / "e.onnx", external_data=True)
    for name, array in arrays.items():
        np.testing.assert_array_equal(weight(load(tmp_path / "e.onnx"), name).astype(float), array.astype(float))


def test_saving_what_was_loaded_keeps_the_graph(mlp, mlp_path, tmp_path):
    save(load(mlp_path), tmp_path / "out.onnx")
    saved = onnx.load(tmp_path / "out.onnx")
    assert [node.name for node in saved.graph.node] == [node.name for node in mlp.graph.node]
    assert (saved.ir_version, saved.opset_import[0].version) == (10, 20)


def test_the_ir_version_of_a_file_is_kept(tmp_path):
    proto = identity_model()
    proto.opset_import[0].version, proto.ir_version = 21, 9
    save(load(stored(proto, tmp_path)), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").ir_version == 9


@pytest.mark.parametrize(("opset", "ir"), [(9, 8), (18, 8), (20, 9), (21, 10), (23, 11), (25, 13)])
def test_the_ir_version_that_is_needed_is_that_of_the_opset_and_not_below_the_own(opset, ir):
    proto = identity_model()
    proto.opset_import[0].version, proto.ir_version = opset, 8
    assert needed_ir_version(onnx_ir.from_proto(proto)) == ir


def test_nothing_is_left_when_saving_fails(mlp_path, tmp_path, monkeypatch):
    model = load(mlp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.onnx").write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        save(model, tmp_path / "out" / "m.onnx", external_data=True)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["m.onnx"]
    assert (tmp_path / "out" / "m.onnx").read_bytes() == b"old"


def test_a_place_that_can_not_be_written_is_said(mlp_path, tmp_path):
    with pytest.raises(InputError, match="can't write"):
        save(load(mlp_path), tmp_path / "missing" / "m.onnx")
    with pytest.raises(InputError, match="is a folder"):
        save(load(mlp_path), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said(mlp_path, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(InputError, match="Permission denied"):
        save(load(mlp_path), closed / "m.onnx")


def test_more_than_2_gb_in_one_file_is_refused(big, tmp_path, monkeypatch):
    monkeypatch.setattr("kronnx.ir.model.saving.EXTERNAL_ABOVE", 1000)
    with pytest.raises(InputError, match="don't fit into one file"):
        save(load(big), tmp_path / "one.onnx", external_data=False)
    save(load(big), tmp_path / "two.onnx")
    assert (tmp_path / "two.onnx.data").stat().st_size == 40_000


def test_nan_weights_are_found_in_every_float_type(tmp_path):
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        proto = identity_model(numpy_helper.from_array(np.array([1, np.nan, np.inf]).astype(dtype), "w"))
        with pytest.raises(InputError, match="'w' holds 1 NaN of 3 values"):
            check_weights(load(stored(proto, tmp_path)))


def test_infinite_and_integer_weights_are_fine(tmp_path):
    arrays = {"m": np.array([-np.inf, 0], np.float32), "i": np.arange(3), "z": np.zeros((0, 3), np.float32)}
    check_weights(load(stored(identity_model(*(numpy_helper.from_array(a, n) for n, a in arrays.items())), tmp_path)))


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializers_become_dense(flat, tmp_path):
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "w")
    where = np.array([1, 5]) if flat else np.array([[0, 1], [1, 2]])
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(where.astype(np.int64), "where"), [2, 3])
    proto = identity_model()
    proto.graph.sparse_initializer.append(sparse)
    assert weight(load(stored(proto, tmp_path))).tolist() == [[0, 5, 0], [0, 0, 7]]


def test_sparse_weights_that_are_gigabytes_as_dense_ones_are_refused(tmp_path):
    proto = identity_model()
    for number in range(12):
        values = numpy_helper.from_array(np.array([5], np.float32), f"w{number}")
        where = numpy_helper.from_array(np.array([7], np.int64), "where")
        proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [9000, 9000]))
    with pytest.raises(InputError, match=r"12 sparse weight\(s\), held in \d+ bytes, are 3888000000 bytes .* 'w0'"):
        load(stored(proto, tmp_path))


def test_strings_and_empty_tensors_survive(tmp_path):
    proto = identity_model(
        numpy_helper.from_array(np.array(["a", "bé"], object), "s"),
        numpy_helper.from_array(np.zeros((0, 4), np.float32), "w"),
    )
    for flag in (False, True):
        save(load(stored(proto, tmp_path)), tmp_path / "o.onnx", external_data=flag)
        again = load(tmp_path / "o.onnx")
        assert weight(again, "s").tolist() == [b"a", "bé".encode()]
        assert weight(again).shape == (0, 4)


HUGE = """
import resource, sys
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.model import check_weights, load, save, signature
resource.setrlimit(resource.RLIMIT_DATA, (900 << 20,) * 2)  # what is allocated; mapped files don't count
model = load(sys.argv[1])
check_weights(model)
tidy = clean(normalize(model))
assert signature(tidy) == signature(model)
save(tidy, sys.argv[2])
"""


@pytest.mark.slow
def test_a_model_above_2_gb_is_handled_in_less_memory_than_one_layer(tmp_path):
    rows, layers = 16_384, 3
    nodes = [helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"], f"mm{i}") for i in range(layers)]
    size = rows * rows * 4
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, ["n", rows])],
        [external(f"w{i}", [rows, rows], "w.bin", i * size, size) for i in range(layers)],
    )
    source = stored(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(layers * size)  # 3.2 GB that take no space on the disk
        for i in range(layers):
            file.seek(i * size)
            file.write(bytes([i]) * 4)
    if shutil.disk_usage(tmp_path).free < 5 * layers * size:
        pytest.skip("too little space")
    done = subprocess.run([sys.executable, "-c", HUGE, source, tmp_path / "o.onnx"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.onnx.data").stat().st_size == layers * size
