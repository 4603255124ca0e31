"""Gradients of convolutions whose weight has known sizes, with the sizes of x known or open, against central
differences: the ways to compute them that `test_rules` doesn't take, where either all sizes are known or none."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir
import pytest
from adjoint import check_adjoint, differentiated


@dataclass(frozen=True)
class Convolution:
    """x [n, k, D...], a weight and the attributes of the operator `op`."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    attributes: dict = field(default_factory=dict)
    op: str = "Conv"


CONVOLUTIONS = {
    "plain": Convolution((2, 3, 7, 8), (4, 3, 3, 2), {"pads": [1, 0, 1, 0]}),
    "strided, all of the padding read": Convolution((2, 3, 7, 9), (4, 3, 3, 3), {"strides": [2, 2], "pads": [1] * 4}),
    "strided, an end not read": Convolution((2, 3, 8, 8), (4, 3, 3, 3), {"strides": [2, 2], "pads": [1] * 4}),
    "strided, more not read than is padded": Convolution((2, 3, 9, 9), (4, 3, 2, 2), {"strides": [3, 2]}),
    "dilated rows": Convolution((2, 3, 9, 7), (4, 3, 3, 3), {"dilations": [2, 1]}),
    "dilated columns": Convolution((2, 3, 7, 9), (4, 3, 3, 3), {"dilations": [1, 2]}),
    "dilated and strided rows": Convolution((2, 3, 12, 7), (4, 3, 3, 3), {"dilations": [2, 1], "strides": [3, 2]}),
    "groups": Convolution((2, 6, 7, 8), (4, 3, 3, 3), {"group": 2, "pads": [1] * 4, "strides": [2, 1]}),
    "one channel in each group": Convolution((2, 3, 7, 8), (3, 1, 3, 3), {"group": 3, "strides": [2, 2]}),
    "two outputs for each channel": Convolution((2, 3, 7, 8), (6, 1, 3, 2), {"group": 3, "dilations": [2, 3]}),
    "one tap": Convolution((2, 3, 7, 8), (4, 3, 1, 1)),
    "one tap, strided": Convolution((2, 3, 7, 8), (4, 3, 1, 1), {"strides": [2, 3]}),
    "one tap, padded": Convolution((2, 3, 7, 8), (4, 3, 1, 1), {"pads": [1, 0, 0, 2]}),
    "one tap, groups": Convolution((2, 4, 7, 8), (6, 2, 1, 1), {"group": 2}),
    "one axis": Convolution((2, 3, 9), (4, 3, 4), {"pads": [2, 1], "strides": [2]}),
    "one axis, groups": Convolution((2, 4, 9), (6, 2, 3), {"group": 2, "pads": [1, 1]}),
    "three axes": Convolution((2, 2, 5, 4, 6), (3, 2, 2, 2, 3), {"strides": [2, 1, 2], "pads": [0, 1, 0, 1, 0, 1]}),
    "three axes, groups": Convolution((1, 4, 5, 4, 6), (4, 2, 2, 2, 3), {"group": 2}),
    "as large as it was": Convolution((2, 3, 7, 8), (4, 3, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "groups, as large as it was": Convolution((2, 4, 7, 8), (4, 2, 3, 3), {"auto_pad": "SAME_LOWER", "group": 2}),
    "transposed": Convolution((2, 4, 4, 5), (4, 3, 3, 2), {"strides": [2, 2], "pads": [1, 0, 1, 0]}, "ConvTranspose"),
    "transposed, one tap": Convolution((2, 4, 4, 5), (4, 3, 1, 1), {"strides": [2, 2]}, "ConvTranspose"),
    "transposed, groups": Convolution((2, 4, 4, 5), (4, 3, 3, 3), {"group": 2, "strides": [2, 1]}, "ConvTranspose"),
    "transposed, one channel in each": Convolution((2, 4, 4, 5), (4, 1, 3, 3), {"group": 4}, "ConvTranspose"),
}


def graph(case: Convolution, known: bool, constant: bool) -> tuple[onnx_ir.Model, dict[str, np.ndarray]]:
    """y = op(x, w), x with `known` sizes or open ones but for the channels, w an input or a `constant`; and a feed."""
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal(s).astype(np.float32) for name, s in (("x", case.x), ("w", case.weight))}
    sizes = [d if known or axis == 1 else f"d{axis}" for axis, d in enumerate(case.x)]
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, sizes)
    w = onnx_ir.val("w", onnx_ir.DataType.FLOAT, case.weight)
    if constant:
        w.const_value = onnx_ir.tensor(arrays.pop("w"), name="w")
    attributes = onnx_ir.convenience.convert_attributes(case.attributes)
    node = onnx_ir.Node("", case.op, [x, w], attributes, num_outputs=1, name="node")
    node.outputs[0].name = "y"
    inputs, initializers = ([x], [w]) if constant else ([x, w], [])
    made = onnx_ir.Graph(
        inputs, node.outputs, nodes=[node], initializers=initializers, opset_imports={"": 20}, name="g"
    )
    proto = onnx_ir.to_proto(onnx_ir.Model(made, ir_version=10))
    return onnx_ir.from_proto(onnx.shape_inference.infer_shapes(proto)), arrays


def emitted(case: Convolution, constant: bool, wrt: tuple[str, ...]) -> list[str]:
    model, _ = graph(case, known=True, constant=constant)
    differentiated(model, ["y"], wrt)
    return [node.op_type for node in model.graph][1:]


@pytest.mark.parametrize("known", [True, False], ids=["known sizes", "open sizes"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_of_a_weight_and_of_what_it_reads_are_the_adjoint(name, known):
    model, feeds = graph(CONVOLUTIONS[name], known, constant=False)
    check_adjoint(model, feeds, ["y"], ["x", "w"], exact=False)


@pytest.mark.parametrize("known", [True, False], ids=["known sizes", "open sizes"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_gradient_before_a_constant_weight_is_the_adjoint(name, known):
    model, feeds = graph(CONVOLUTIONS[name], known, constant=True)
    check_adjoint(model, feeds, ["y"], ["x"], exact=False)


def test_a_constant_kernel_is_mirrored_and_one_that_varies_is_not():
    assert "ConvTranspose" not in emitted(CONVOLUTIONS["plain"], constant=True, wrt=("x",))
    assert "ConvTranspose" in emitted(CONVOLUTIONS["plain"], constant=False, wrt=("x", "w"))


def test_the_gradient_of_one_tap_is_one_matrix_product():
    assert {"Conv", "ConvTranspose"}.isdisjoint(emitted(CONVOLUTIONS["one tap, strided"], constant=False, wrt=("w",)))


def test_no_padding_is_multiplied_that_no_window_reads():
    """The convolution gives the taps and nothing to cut off."""
    assert "Slice" not in emitted(CONVOLUTIONS["strided, an end not read"], constant=False, wrt=("w",))
