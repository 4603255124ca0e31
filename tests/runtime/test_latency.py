import json

import onnx_ir
import pytest
from kronnx.ir.errors import DataError
from kronnx.runtime.fingerprints import fingerprint
from kronnx.runtime.latency import LatencyTable
from kronnx.runtime.sessions import Target

SHAPES = {"x": (3, 2)}
PLACE = ("cpu", "1")


@pytest.fixture
def layer(parsed):
    def make(weight: str = "1, 2, 3, 4", x: str = "x", op: str = "MatMul", shape: str = "2, 2") -> onnx_ir.Model:
        return parsed(
            f"g (float[N, 2] {x}) => (float[N, M] y) <float[{shape}] w = {{{weight}}}> {{ y = {op}({x}, w) }}"
        )

    return make


def test_a_fragment_is_measured_once(layer):
    table = LatencyTable(Target())
    first = table.microseconds(layer(), SHAPES)
    assert first > 0
    assert table.microseconds(layer("5, 6, 7, 8"), SHAPES) == first
    assert table.measured == 1


def test_a_second_table_reads_the_identical_number(layer, tmp_path):
    with LatencyTable(Target(), tmp_path) as table:
        first = table.microseconds(layer(), SHAPES)
    again = LatencyTable(Target(), tmp_path)
    assert again.microseconds(layer(), SHAPES) == first
    assert again.measured == 0


def test_shapes_threads_and_operators_are_told_apart(layer, tmp_path):
    with LatencyTable(Target(), tmp_path) as table:
        table.microseconds(layer(), SHAPES)
        table.microseconds(layer(), {"x": (5, 2)})
        table.microseconds(layer(op="Add"), {"x": (2, 2)})
    assert table.measured == 3
    other = LatencyTable(Target(threads=2), tmp_path)
    other.microseconds(layer(), SHAPES)
    assert other.measured == 1


@pytest.mark.parametrize("content", ["", "{ not json", "[1]", '{"a": "b"}', "\x00\xff"])
def test_a_damaged_cache_is_ignored_and_written_anew(layer, tmp_path, content):
    (tmp_path / "latency.json").write_text(content)
    with LatencyTable(Target(), tmp_path) as table:
        found = table.microseconds(layer(), SHAPES)
    assert list(json.loads((tmp_path / "latency.json").read_text()).values()) == [found]
    assert [f.name for f in tmp_path.iterdir()] == ["latency.json"]


def test_flush_keeps_what_others_have_written(layer, tmp_path):
    one, other = LatencyTable(Target(), tmp_path / "deep"), LatencyTable(Target(), tmp_path / "deep")
    one.microseconds(layer(), SHAPES)
    other.microseconds(layer(op="Add"), {"x": (2, 2)})
    one.flush()
    other.flush()
    assert len(json.loads((tmp_path / "deep/latency.json").read_text())) == 2


def test_a_folder_that_can_not_be_written_is_no_error(layer, tmp_path):
    (tmp_path / "file").touch()
    with LatencyTable(Target(), tmp_path / "file") as table:
        assert table.microseconds(layer(), SHAPES) > 0


def test_an_input_without_a_shape_is_an_error(layer):
    with pytest.raises(DataError, match=r"no shape for the fragment's input x float\[N, 2\]"):
        LatencyTable(Target()).microseconds(layer(), {})


def test_integers_and_half_precision_are_fed(parsed):
    model = parsed("g (float16[N, 2] x, int64[N, 1] i) => (float16[N, 1] y) { y = GatherElements <axis = 1> (x, i) }")
    assert LatencyTable(Target()).microseconds(model, {"x": (3, 2), "i": (3, 1)}) > 0


def test_the_fingerprint_forgets_names_and_weights_only(layer):
    same = fingerprint(layer(), SHAPES, PLACE)
    assert fingerprint(layer("9, 9, 9, 9"), SHAPES, PLACE) == same
    assert fingerprint(layer(x="other"), {"other": (3, 2)}, PLACE) == same
    different = [layer(op="Add"), layer("1, 2, 3, 4, 5, 6", shape="2, 3")]
    assert same not in [fingerprint(m, SHAPES, PLACE) for m in different]
    assert fingerprint(layer(), SHAPES, ("cuda", "1")) != same


def test_small_integers_count_with_their_values(parsed):
    def reshape(size: int) -> str:
        text = f"g (float[N] x) => (float[A, B] y) <int64[2] s = {{-1, {size}}}> {{ y = Reshape(x, s) }}"
        return fingerprint(parsed(text), {"x": (12,)}, PLACE)

    assert reshape(2) != reshape(3)
