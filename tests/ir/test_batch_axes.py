import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.batch_axes import batch_axes, named_batch


def taking(inputs: str) -> onnx_ir.Model:
    return parsed(f"g ({inputs}) => (float[M] y) {{ y = Identity(q) }}")


def parsed(text: str) -> onnx_ir.Model:
    return onnx_ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}'))


@pytest.mark.parametrize(
    ("inputs", "axes", "fixed"),
    [
        ("float[N, 4] x", {"x": 0}, None),
        ("float[batch, seq] a, float[batch, seq, 2] b", {"a": 0, "b": 0}, None),
        ("float[batch, 512] x, float[2, batch, 64] state, int64 sr", {"x": 0, "state": 1}, None),
        ("float[2, batch, 64] state, float[batch, 512] x", {"x": 0, "state": 1}, None),
        ("float[?, ?] x, float[2, ?, 64] state, int64 sr", {"x": 0, "state": 1}, None),
        ("float[2, ?, 64] state, float[?, ?] x", {"x": 0, "state": 1}, None),
        ("float[batch, 9] x, float[1, ?, 64] h", {"x": 0, "h": 1}, None),
        ("float[batch, 9] x, float[1, ?, ?, 64] h", {"x": 0}, None),
        ("float[batch, 9] x, float[4, 1, 64] h", {"x": 0}, None),
        ("float[1, 576] x, float[2, 1, 64] state", {"x": 0, "state": 1}, 1),
        ("float[2, 1, 64] state, float[1, 576] x", {"x": 0, "state": 1}, 1),
        ("float[8, 3, 9, 9] x, float[2, 8, 64] state", {"x": 0, "state": 1}, 8),
        ("float[seq, batch, 4] x, float[seq] t", {"x": 1}, None),
        ("float[?, 3] x, float[1, 2] scale", {"x": 0}, None),
        ("float[P, 3] x, float[Q, 3] z", {"x": 0, "z": 0}, None),
        ("float[P, Q] x, float[Q, 3] z", {"x": 0}, None),
        ("float[1, 3, 8, W] x, float[1, 2] z", {"x": 0, "z": 0}, 1),
        ("float[3, 4] x, float[5] z", {"x": 0}, 3),
        ("float[0, 4] x", {}, None),
        ("float x", {}, None),
        ("float[] x", {"x": 0}, None),  # the parser reads [] as an unknown rank
    ],
)
def test_the_batch_axis_is_found(inputs: str, axes: dict[str, int], fixed: int | None) -> None:
    found = batch_axes(taking(inputs))
    assert (dict(found.axes), found.fixed) == (axes, fixed)


def test_samples_are_counted_along_it() -> None:
    batch = batch_axes(taking("float[2, batch, 4] state, float[batch, 512] x"))
    assert batch.samples({"state": np.zeros((2, 7, 4)), "x": np.zeros((7, 512))}) == 7
    assert batch_axes(taking("float x")).samples({"x": np.zeros(())}) == 1


def test_an_unnamed_batch_gets_one_name_and_the_shapes_behind_it_have_it() -> None:
    given = parsed("g (float[?, 3] x, float[2, ?, 3] s) => (float[?, 3] y) { r = Exp(x)  t = Exp(s)  y = Neg(r) }")
    model = named_batch(given)
    names = [str(model.graph[0].outputs[0].shape[0]), str(model.graph[1].outputs[0].shape[1])]
    assert names == ["kronnx.batch", "kronnx.batch"]
    assert given.graph.inputs[0].shape == [None, 3]
    named = parsed("g (float[batch, 3] x) => (float[batch, 3] y) { y = Exp(x) }")
    assert named_batch(named) is named
