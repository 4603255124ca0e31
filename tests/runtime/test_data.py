from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.errors import DataError
from kronnx.runtime.data import MAX_SAMPLES, dataset_of, load_data, load_labels
from kronnx.runtime.sessions import Session

NODE_TESTS = Path(onnx.__file__).parent / "backend/test/data"
LOADERS = """
from itertools import count
import numpy as np
from beside import ONE

def one(): return {"x": ONE}
def some(): return [{"x": np.full((2, 4), i, np.float32)} for i in range(3)]
def endless():
    for i in count(): yield {"x": np.full((1000, 4), i, np.float32)}
def broken():
    yield {"x": ONE}
    raise KeyError("oops")
def wrong(): return [1, 2]
def nothing(): return None
"""


@pytest.fixture
def loader(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("import numpy as np\nONE = np.ones((1, 4), np.float32)\n")
    (tmp_path / "my_data.py").write_text(LOADERS)
    return tmp_path / "my_data.py"


def test_an_npz_has_its_samples_first(relu, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones((5, 4), np.float32))
    data = load_data(str(tmp_path / "d.npz"), relu)
    assert (data.samples, data.synthetic, data.source) == (5, False, str(tmp_path / "d.npz"))


def test_a_model_with_a_fixed_batch_gets_it(parsed, tmp_path):
    model = parsed("g (float[2, 4] x) => (float[2, 4] y) { y = Relu(x) }")
    np.savez(tmp_path / "d.npz", x=np.arange(20, dtype=np.float32).reshape(5, 4))
    np.save(tmp_path / "l.npy", np.arange(5))
    data = load_labels(str(tmp_path / "l.npy"), load_data(str(tmp_path / "d.npz"), model))
    assert data.sizes == (2, 2)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 3]
    assert [Session(model).run(b)["y"].shape for b in data.rebatch(8).batches] == [(2, 4), (2, 4)]


def test_a_folder_of_npz_may_mix_shapes(parsed, tmp_path):
    model = parsed("g (float[N, W] x) => (float[N, W] y) { y = Relu(x) }")
    for number, width in ((1, 3), (2, 3), (10, 7)):
        np.savez(tmp_path / f"part_{number}.npz", x=np.full((2, width), number, np.float32))
    data = load_data(str(tmp_path), model)
    assert [b["x"].shape for b in data.batches] == [(2, 3), (2, 3), (2, 7)]
    assert data.rebatch(4).sizes == (4, 2)


def test_a_folder_of_npy_is_one_input_each_or_one_sample_each(relu, parsed, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4), np.float32))
    np.save(tmp_path / "b.npy", np.ones(4, np.float32))
    assert load_data(str(tmp_path), relu).sizes == (3, 1)
    two = parsed("g (float[N, 4] a, float[4] b) => (float[N, 4] y) { y = Add(a, b) }")
    assert load_data(str(tmp_path), two).samples == 3


def test_a_single_npy_feeds_a_model_with_one_input(relu, parsed, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4), np.float32))
    assert load_data(str(tmp_path / "a.npy"), relu).samples == 3
    with pytest.raises(DataError, match="one array, the model has 2 inputs"):
        load_data(str(tmp_path / "a.npy"), parsed("g (float[N] p, float[N] q) => (float[N] y) { y = Add(p, q) }"))


CASES = ["simple/test_shrink", "pytorch-operator/test_operator_conv", "pytorch-converted/test_Conv2d"]


@pytest.mark.parametrize("case", CASES)
def test_test_data_sets_run(case):
    model = onnx_ir.load(NODE_TESTS / case / "model.onnx")
    whole, one = load_data(str(NODE_TESTS / case), model), load_data(str(NODE_TESTS / case / "test_data_set_0"), model)
    outputs = Session(model).run(whole.batches[0])
    expected = onnx.TensorProto.FromString((NODE_TESTS / case / "test_data_set_0/output_0.pb").read_bytes())
    np.testing.assert_allclose(
        *outputs.values(), onnx.numpy_helper.to_array(expected), rtol=1e-4
    )  # float32, sums near 0
    assert one.samples == whole.samples


def test_tensors_of_a_test_set_are_matched_by_position_if_unnamed(relu, tmp_path):
    tensor = onnx.numpy_helper.from_array(np.ones((2, 4), np.float32))
    (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
    assert load_data(str(tmp_path), relu).samples == 2
    (tmp_path / "input_1.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match=r"2 input_\*\.pb; wanted x float\[N, 4\]"):
        load_data(str(tmp_path), relu)


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b""])
def test_a_pb_that_is_no_tensor_is_an_error(relu, tmp_path, content):
    (tmp_path / "input_0.pb").write_bytes(content)
    with pytest.raises(DataError, match="not an ONNX tensor"):
        load_data(str(tmp_path), relu)


def test_a_tensor_never_reads_another_file(relu, tmp_path):
    tensor = onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "x")
    onnx.external_data_helper.set_external_data(tensor, "/etc/hostname")
    tensor.ClearField("raw_data")
    (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match="in another file"):
        load_data(str(tmp_path), relu)


@pytest.mark.parametrize(("function", "samples"), [("one", 1), ("some", 6), ("endless", MAX_SAMPLES)])
def test_a_function_of_a_file_gives_feeds(relu, loader, function, samples):
    assert load_data(f"{loader}:{function}", relu).samples == samples


def test_a_function_of_a_module_gives_feeds(relu, loader, monkeypatch):
    monkeypatch.chdir(loader.parent)
    assert load_data("my_data:some", relu).samples == 6


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", r"failed at my_data.py:\d+: KeyError: 'oops'"),
        ("wrong", "gives a int; wanted dicts"),
        ("nothing", "returned NoneType; wanted dicts"),
        ("absent", "no function 'absent'; it has .*some"),
    ],
)
def test_a_function_that_gives_no_feeds_is_an_error(relu, loader, function, message):
    with pytest.raises(DataError, match=message):
        load_data(f"{loader}:{function}", relu)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent.npz", "no such data: absent.npz; wanted an .npz"),
        ("absent.py:load", "no such file: absent.py"),
        ("absent_module:load", "no module 'absent_module'"),
    ],
)
def test_data_that_is_not_there_is_an_error(relu, spec, message):
    with pytest.raises(DataError, match=message):
        load_data(spec, relu)


def test_a_python_file_without_a_function_is_an_error(relu, loader):
    with pytest.raises(DataError, match=r"name a function in it: .*my_data.py:load_data"):
        load_data(str(loader), relu)


def test_pickles_are_never_read(relu, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{}], object))
    with pytest.raises(DataError, match="pickled Python objects, which are never loaded"):
        load_data(str(tmp_path / "d.npz"), relu)


def test_a_damaged_file_and_an_empty_folder_are_errors(relu, tmp_path):
    with pytest.raises(DataError, match="holds no"):
        load_data(str(tmp_path), relu)
    np.savez(tmp_path / "d.npz", x=np.ones((5, 4), np.float32))
    whole = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"d\.npz (can't be read|holds)"):
        load_data(str(tmp_path / "d.npz"), relu)


def test_a_feed_of_a_series_is_named_by_its_number(relu):
    feeds = [{"x": np.ones((1, 4), np.float32)}, {"x": np.ones((1, 5), np.float32)}]
    with pytest.raises(DataError, match="memory, feed 1: 'x' has the shape"):
        dataset_of(feeds, relu)


def test_an_endless_series_stops_at_the_cap(relu):
    assert dataset_of(({"x": np.ones((7, 4), np.float32)} for _ in count()), relu).samples == MAX_SAMPLES


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(2), "2 labels for 3 samples"),
        (np.zeros(3), r"labels are float64\[3\]; wanted one integer a sample"),
        (np.zeros((3, 2), int), r"labels are int64\[3, 2\]"),
    ],
)
def test_labels_that_do_not_fit_are_errors(relu, tmp_path, labels, message):
    np.save(tmp_path / "l.npy", labels)
    with pytest.raises(DataError, match=message):
        load_labels(str(tmp_path / "l.npy"), dataset_of([{"x": np.ones((3, 4), np.float32)}], relu))


def test_labels_come_from_an_npz_with_one_array(relu, tmp_path):
    data = dataset_of([{"x": np.ones((3, 4), np.float32)}], relu)
    np.savez(tmp_path / "l.npz", y=np.arange(3, dtype=np.uint8)[:, None])
    labels = load_labels(str(tmp_path / "l.npz"), data).labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 2]
    np.savez(tmp_path / "l.npz", y=np.arange(3), z=np.arange(3))
    with pytest.raises(DataError, match=r"holds \['y', 'z'\]; wanted one array"):
        load_labels(str(tmp_path / "l.npz"), data)
