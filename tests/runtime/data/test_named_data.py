import re
import tracemalloc
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir import memory_maps as mapped
from kronnx.ir.errors import DataError
from kronnx.ir.memory_maps import map_of
from kronnx.runtime.data import file_feeds
from kronnx.runtime.data.named_data import MAX_SAMPLES, dataset_of, load_data, load_labels
from kronnx.runtime.data.shuffling import shuffled
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


def test_a_function_gives_as_many_samples_as_are_asked_for(relu, loader):
    assert load_data(f"{loader}:endless", relu, most=5500).samples == 5500


def test_samples_of_a_function_beyond_the_memory_go_to_files(relu, loader):
    data = load_data(f"{loader}:endless", relu, most=5500, memory=2 * 1000 * 4 * 4)
    sources = [piece.feed["x"] for pieces in data.parts for piece in pieces]
    assert [map_of(source) is not None for source in sources] == [False] * 2 + [True] * 4
    assert [feed["x"].mean() for feed in data.batches] == [0, 1, 2, 3, 4, 5]
    assert data.sizes == (1000,) * 5 + (500,)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_data_larger_than_memory_are_never_held(parsed, tmp_path, suffix, axis):
    """16 MB of samples in blocks of 4 MB, of which some are needed at a time."""
    shape = (4000, 1000) if axis == 0 else (1000, 4000)
    x = np.arange(4000, dtype=np.float32).reshape((-1, 1) if axis == 0 else (1, -1)) + np.zeros(shape, np.float32)
    np.savez(tmp_path / "x.npz", x=x) if suffix == "npz" else np.save(tmp_path / "x.npy", x)
    model = parsed(f"g (float[{'N, 1000' if axis == 0 else '1000, N'}] x) => (float[N, M] y) {{ y = Relu(x) }}")
    tracemalloc.start()
    try:
        data = load_data(str(tmp_path / f"x.{suffix}"), model, memory=1 << 20)
        parts = data.split(0.25, 0)
        found = [np.unique(feed["x"].take(0, 1 - axis)) for part in parts for feed, _ in shuffled(part, 64, 0, 0)]
        found += [feed["x"].take(0, 1 - axis) for feed in data.rebatch(64).batches]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sorted(np.concatenate(found).tolist()) == sorted(2 * list(range(4000)))
    assert peak < x.nbytes / 2
    assert all(Session(model).run(feed)["y"].size == 5000 for feed in data.rebatch(5).take(10).batches)


def test_arrays_of_another_type_are_converted_into_files(relu, tmp_path, rng):
    x = rng.normal(size=(500_000, 4))
    np.save(tmp_path / "x.npy", x)
    tracemalloc.start()
    try:
        data = load_data(str(tmp_path / "x.npy"), relu, memory=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    converted = data.batches[0]["x"]
    assert map_of(converted) is not None
    np.testing.assert_array_equal(converted, x.astype(np.float32))
    x[400_000, 1] = 1e300
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match=r"'x' is float64 from -.* to 1e\+300; too wide"):
        load_data(str(tmp_path / "x.npy"), relu, memory=1000)
    assert peak < x.nbytes


def test_the_first_of_many_values_that_are_not_finite_is_named(relu, tmp_path):
    x = np.ones((500_000, 4), np.float32)
    x[400_000:400_002, 3] = np.nan, np.inf
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match=re.escape("2 NaN or infinite value(s), the first at [400000, 3]")):
        load_data(str(tmp_path / "x.npy"), relu, memory=1000)


def test_the_pages_of_files_do_not_pile_up(parsed, tmp_path, monkeypatch):
    if "RssFile" not in (status := Path("/proc/self/status")).read_text():
        pytest.skip("only Linux says how much of its files a process holds in memory")

    def held() -> int:
        found = re.search(r"^RssFile:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        assert found
        return 1024 * int(found[1])

    monkeypatch.setattr(mapped, "RESIDENT", 1 << 24)
    x = np.zeros((50_000, 1000), np.float32)
    np.save(tmp_path / "x.npy", x)
    model = parsed("g (float[N, 1000] x) => (float[N, 1000] y) { y = Relu(x) }")
    before = held()
    data = load_data(str(tmp_path / "x.npy"), model)
    most = max([held(), *(held() for _ in shuffled(data, 500, 0, 0))])
    assert most - before < x.nbytes / 2
    assert held() - before < 1 << 23


def test_of_a_folder_only_the_largest_files_are_mapped(relu, tmp_path, monkeypatch):
    monkeypatch.setattr(file_feeds, "MAPPED_FILES", 2)
    for number, size in enumerate((1, 300, 200, 100, 100)):
        np.save(tmp_path / f"{number}.npy", np.full((size, 4), number, np.float32))
    data = load_data(str(tmp_path), relu, memory=64 * 1000)
    assert [map_of(feed["x"]) is not None for feed in data.batches] == [False, True, True, False, False]
    assert [feed["x"].mean() for feed in data.batches] == [0, 1, 2, 3, 4]


def test_an_input_each_may_be_mapped(parsed, tmp_path):
    model = parsed("g (float[N, 4] a, float[4] b) => (float[N, 4] y) { y = Add(a, b) }")
    np.save(tmp_path / "a.npy", np.ones((30, 4), np.float32))
    np.save(tmp_path / "b.npy", np.ones(4, np.float32))
    data = load_data(str(tmp_path), model, memory=0)
    assert [map_of(v) is not None for v in data.batches[0].values()] == [True, True]
    assert all((Session(model).run(feed)["y"] == 2).all() for feed in data.rebatch(8).batches)
    np.save(tmp_path / "labels.npy", np.arange(30))
    assert load_labels(str(tmp_path / "labels.npy"), data).samples == 30
