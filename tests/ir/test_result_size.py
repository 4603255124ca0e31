"""Much that is made of little is foreseen, operator by operator, as large as numpy and ONNX make it."""

import tracemalloc

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.result_size import result_size
from networks import parsed


def node(op: str, *arrays: np.ndarray, **attributes: int) -> onnx_ir.Node:
    values = [onnx_ir.Value(name=f"v{i}", const_value=onnx_ir.tensor(array)) for i, array in enumerate(arrays)]
    return onnx_ir.node(op, values, attributes)


def sizes(*dims: int) -> np.ndarray:
    return np.array(dims, np.int64)


CASES = [
    (node("ConstantOfShape", sizes(1 << 20, 1 << 20)), 1 << 40),
    (node("Expand", np.zeros((3, 1)), sizes(1 << 20, 1, 5)), (1 << 20) * 15),
    (node("Tile", np.zeros((2, 3)), sizes(4, 5)), 120),
    (node("Add", np.zeros((4000, 1)), np.zeros((1, 5000))), 20_000_000),
    (node("Where", np.zeros((2, 1), bool), np.zeros((1, 7)), np.zeros(())), 14),
    (node("Range", np.array(3), np.array(1 << 40), np.array(2)), ((1 << 40) - 3 + 1) // 2),
    (node("Range", np.array(3), np.array(0), np.array(2)), 0),
    (node("Gather", np.zeros((6, 5, 4)), np.zeros((2, 3), np.int64), axis=1), 6 * 6 * 4),
    (node("Concat", np.zeros(3), np.zeros(4), axis=0), 0),
]


@pytest.mark.parametrize(("given", "wanted"), CASES, ids=lambda x: x.op_type if isinstance(x, onnx_ir.Node) else "")
def test_the_size_is_foreseen(given: onnx_ir.Node, wanted: int) -> None:
    assert result_size(given) == wanted


def test_what_hangs_on_the_input_is_not_foreseen() -> None:
    assert result_size(onnx_ir.node("Tile", [onnx_ir.Value(name="x"), node("Tile", sizes(9)).inputs[0]])) == 0


BOMBS = {
    "ConstantOfShape": "big = ConstantOfShape(shape)",
    "Expand": "big = Expand(one, shape)",
    "Tile": "big = Tile(one, shape)",
    "Range": "big = Range(zero, count, step)",
}


@pytest.mark.parametrize("op", BOMBS)
def test_the_clean_up_makes_no_gigabyte_of_bytes(op: str) -> None:
    """What is large stays to be made when the model runs."""
    model = parsed(f"""(float[2] x) => (float[2] y)
        <int64[1] shape = {{134217728}}, float[1] one = {{1}}, int64 zero = {{0}}, int64 count = {{134217728}},
         int64 step = {{1}}, int64[1] first = {{0}}> {{
            {BOMBS[op]}
            taken = Gather(big, first)
            cast = Cast<to = 1>(taken)
            y = Add(x, cast)
        }}""")
    tracemalloc.start()
    clean = normalize(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26
    assert op in {n.op_type for n in clean.graph}
