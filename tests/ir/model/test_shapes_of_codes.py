"""What is inferred of operators on codes, against what ONNX Runtime gives."""

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.model.shape_inference import infer_shapes
from kronnx.runtime.sessions import Session

CONSTANTS = {
    "s": np.float32(0.1), "z": np.uint8(9), "wide": np.uint16(9), "w": np.ones((4, 6), np.int8),
    "u": np.ones((4, 6), np.uint8), "c": np.full(6, 0.1, np.float32), "v": np.ones(4, np.uint8),
    "packed": np.ones((6, 1, 8), np.uint8), "m": np.ones((6, 3), np.float32),
}  # fmt: skip
CODES = "q = ms.QuantizeLinear(x, s, z) "
CASES = {
    "codes": CODES,
    "wide codes": "q = ms.QuantizeLinear(x, s, wide)",
    "numbers": CODES + "d = ms.DequantizeLinear(q, s, z)",
    "a sum": CODES + "a = ms.QLinearAdd(q, s, z, q, s, z, s, z)",
    "a sum with a vector": CODES + "a = ms.QLinearAdd(q, s, z, v, s, z, s, z)",
    "a function": CODES + "a = ms.QLinearSigmoid(q, s, z, s, z)",
    "a dynamic product": "p = ms.DynamicQuantizeMatMul(x, w, s)",
    "a product": CODES + "p = ms.MatMulIntegerToFloat(q, u, s, s, z)",
    "a packed product": "p = ms.MatMulNBits<K=4, N=6, bits=4, block_size=16>(x, packed, c) y = MatMul(p, m)",
    "one behind another": "p = ms.DynamicQuantizeMatMul(x, w, s) n = Neg(p) q = ms.QuantizeLinear(n, s, z)",
}


@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_shapes_and_types_are_those_of_the_runtime(body: str) -> None:
    text = f"net (float[N,T,4] x) => () {{ {body} }}".replace("ms.", "com.microsoft.")
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in CONSTANTS.items())
    model = infer_shapes(onnx_ir.from_proto(proto))
    values = [value for node in model.graph for value in node.outputs]
    model.graph.outputs.extend(values)
    found = Session(model).run({"x": np.ones((2, 3, 4), np.float32)})
    sizes = {"N": 2, "T": 3}
    for value in values:
        assert value.shape is not None
        assert value.dtype is not None
        inferred = tuple(d if isinstance(d, int) else sizes[str(d.value)] for d in value.shape)
        assert (inferred, value.dtype.numpy()) == (found[str(value.name)].shape, found[str(value.name)].dtype)
