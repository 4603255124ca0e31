"""Every VJP rule against central differences."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.autodiff import VJPS


@dataclass(frozen=True)
class Case:
    """One node. A tuple among the inputs is the shape of a random float input, an array with a dtype of integers or
    booleans a constant, None a missing input. `exact` runs in float64 in the reference evaluator, else ONNX Runtime and
    float32 are used (for operators that are linear in each input, so that large steps are no approximation).
    """

    inputs: Sequence[tuple[int, ...] | np.ndarray | None]
    attributes: dict = field(default_factory=dict)
    opset: int = 20
    outputs: int = 1
    exact: bool = True
    low: float = -2.0
    high: float = 2.0
    checked: Sequence[int] | None = None  # the inputs to differentiate by; all floating ones by default


def case(
    *inputs, opset: int = 20, outputs: int = 1, exact: bool = True, low=-2.0, high=2.0, checked=None, **attributes
):
    return Case(inputs, attributes, opset, outputs, exact, low, high, checked)


def single_node(op_type: str, case: Case, dims: str) -> tuple[onnx_ir.Model, dict[str, np.ndarray]]:
    """The model of one node and its feeds. `dims` says what is known: 'static' sizes, 'dynamic' for the ranks alone."""
    rng = np.random.default_rng(len(op_type))
    dtype = np.float64 if case.exact else np.float32
    values, feeds, constants = [], {}, []
    for i, entry in enumerate(case.inputs):
        if entry is None:
            values.append(None)
        elif isinstance(entry, np.ndarray):
            array = entry.astype(dtype) if entry.dtype == np.float64 else entry
            constants.append(onnx_ir.val(f"x{i}", const_value=onnx_ir.tensor(array, name=f"x{i}")))
            values.append(constants[-1])
        else:
            feeds[f"x{i}"] = spread_out(rng, entry, case.low, case.high).astype(dtype)
            shape = entry if dims == "static" else [f"x{i}_{a}" for a in range(len(entry))]
            values.append(onnx_ir.val(f"x{i}", onnx_ir.DataType.from_numpy(np.dtype(dtype)), shape))
    attributes = onnx_ir.convenience.convert_attributes(case.attributes)
    node = onnx_ir.Node("", op_type, values, attributes, num_outputs=case.outputs, name="node")
    for i, value in enumerate(node.outputs):
        value.name = f"y{i}"
    inputs = [v for v in values if v is not None and v.name in feeds]
    graph = onnx_ir.Graph(
        inputs, node.outputs, nodes=[node], initializers=constants, opset_imports={"": case.opset}, name="g"
    )
    return onnx_ir.from_proto(
        onnx.shape_inference.infer_shapes(onnx_ir.to_proto(onnx_ir.Model(graph, ir_version=10)))
    ), feeds


def spread_out(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Random numbers no two of which are close, so that no maximum changes hands within a step."""
    size = int(np.prod(shape))
    grid = np.linspace(low, high, size) if size > 1 else np.array([0.7 * high])
    return rng.permutation(grid + rng.uniform(-0.1, 0.1) * (high - low) / max(size, 2)).reshape(shape)


INDICES = np.array([[2, 0], [-1, 2]])
SCALES = np.array([1, 1, 2, 1.5], np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def convolution(x: tuple, weight: tuple, *bias: tuple, **attributes) -> Case:
    return case(x, weight, *bias, exact=False, kernel_shape=weight[2:], **attributes)


def unary(low: float = -2.0, high: float = 2.0, **attributes) -> list[Case]:
    return [case((3, 4), low=low, high=high, **attributes)]


def broadcasts(low: float = -2.0, high: float = 2.0, exact: bool = True) -> list[Case]:
    shapes = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 3), (4, 1)), ((), (2,)), ((1, 3), (2, 3))]
    return [case(a, b, low=low, high=high, exact=exact) for a, b in shapes]


def reductions(low: float = -2.0, high: float = 2.0) -> list[Case]:
    return [
        case((2, 3, 4), low=low, high=high),
        case((2, 3, 4), low=low, high=high, keepdims=0),
        case((2, 3, 4), ints(1), low=low, high=high),
        case((2, 3, 4), ints(0, -1), low=low, high=high, keepdims=0),
        case((2, 3), ints(), low=low, high=high, keepdims=0),
    ]


MATMULS = [
    ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 4, 5)),
    ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4,)), ((4,), (2, 4, 5)), ((1, 3, 4), (2, 4, 5)),
]  # fmt: skip
CONVOLUTIONS = [
    convolution((2, 3, 7), (4, 3, 3), (4,)),
    convolution((2, 3, 7, 8), (4, 3, 3, 2), (4,), pads=[1, 0, 1, 0], strides=[2, 3]),
    convolution((2, 4, 8, 9), (6, 2, 3, 3), group=2, pads=[1, 1, 1, 1], strides=[2, 2]),
    convolution((1, 4, 9, 9), (4, 1, 3, 3), group=4, dilations=[2, 1], pads=[2, 1, 2, 1]),
    convolution((1, 2, 8, 7), (3, 2, 3, 2), pads=[0, 1, 2, 0], strides=[2, 2]),
    convolution((2, 4, 6, 5), (6, 2, 3, 2), group=2, pads=[0, 1, 2, 0]),
    convolution((2, 2, 5), (3, 2, 2), pads=[3, 2]),
    convolution((2, 2, 7, 8), (3, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    convolution((2, 2, 7, 8), (3, 2, 2, 3), auto_pad="SAME_LOWER", strides=[2, 3]),
    convolution((2, 2, 7, 8), (3, 2, 2, 3), auto_pad="SAME_UPPER"),
    convolution((2, 2, 7, 8), (3, 2, 1, 1), auto_pad="SAME_UPPER", strides=[2, 2]),
    convolution((2, 2, 7, 8), (3, 2, 2, 3), auto_pad="VALID", strides=[2, 2]),
    convolution((1, 2, 5, 4, 6), (2, 1, 2, 2, 3), (2,), group=2, strides=[2, 1, 2]),
]
POOLS = [
    case((2, 3, 8), kernel_shape=[2], strides=[2], exact=False),
    case((1, 2, 7, 8), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0], exact=False),
    case((1, 2, 6, 7), kernel_shape=[3, 3], strides=[1, 2], pads=[1, 1, 0, 1], exact=False),
    case((1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, exact=False),
    case((1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", exact=False),
]

CASES: dict[str, list[Case]] = {
    "Abs": unary(),
    "Add": broadcasts(),
    "Atan": unary(),
    "AveragePool": [
        *POOLS,
        case((1, 2, 7, 8), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0], count_include_pad=1, exact=False),
        case((1, 2, 7, 7), kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, exact=False),
        case((1, 2, 7), kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1, count_include_pad=1, exact=False),
        case((1, 2, 4, 5, 4), kernel_shape=[2, 2, 2], exact=False),
    ],
    "BatchNormalization": [
        case((3, 4), (4,), (4,), (4,), (4,), low=0.5, epsilon=1e-3),
        case((2, 3, 4, 5), (3,), (3,), (3,), (3,), low=0.5),
    ],
    "Cast": [case((3, 4), to=11)],
    "CastLike": [case((3, 4), np.array([1.0]))],
    "Celu": [case((3, 4), alpha=0.7, exact=False)],
    "Clip": [
        case((3, 4), np.array(-0.8), np.array(0.9)),
        case((3, 4), None, np.array(0.5)),
        case((3, 4), (), None),
        case((3, 4), None, ()),
    ],
    "Concat": [case((2, 3), (2, 1), (2, 4), axis=1), case((2, 3), (1, 3), axis=-2), case((2, 3), axis=0)],
    "Conv": CONVOLUTIONS,
    "ConvTranspose": [
        convolution((2, 4, 5), (4, 3, 3), (3,)),
        convolution((2, 4, 4, 5), (4, 2, 3, 2), (4,), group=2, strides=[2, 3], pads=[1, 0, 1, 0]),
        convolution((1, 2, 4, 5), (2, 3, 2, 3), strides=[2, 2], output_padding=[1, 0], pads=[0, 1, 1, 0]),
        convolution((1, 2, 4), (2, 3, 3), dilations=[2]),
    ],
    "Cos": unary(),
    "Cosh": unary(),
    "CumSum": [
        case((3, 4), np.array(1)),
        case((3, 4), np.array(-2), reverse=1),
        case((3, 4), np.array(0), exclusive=1),
    ],
    "DepthToSpace": [case((2, 8, 3, 2), blocksize=2), case((2, 8, 3, 2), blocksize=2, mode="CRD")],
    "Div": broadcasts(low=0.5),
    "Dropout": [case((3, 4)), case((3, 4), np.array(0.5), np.array(False))],
    "Einsum": [
        case((2, 3), (3, 4), equation="ij,jk->ik"),
        case((2, 3, 4), (2, 5, 4), equation="bij,bkj->bik"),
        case((2, 3), (3, 2), equation="ij,jk"),
        case((2, 3), equation="ij->j"),
        case((2, 3), (2,), (4,), equation="ij,i,k->k"),
    ],
    "Elu": unary(alpha=0.6),
    "Erf": unary(),
    "Exp": unary(),
    "Expand": [case((3, 1), ints(2, 3, 4)), case((3,), ints(3)), case((2, 3, 1), ints(1, 4))],
    "Flatten": [case((2, 3, 4), axis=2)],
    "Gather": [
        case((5, 3), INDICES),
        case((2, 4, 3), INDICES, axis=1),
        case((2, 3, 4), np.array(1), axis=2),
        case((2, 3, 4), np.array(0)),
        case((6,), INDICES.astype(np.int32)),
    ],
    "GatherElements": [case((2, 3), INDICES, axis=1)],
    "GatherND": [case((3, 3, 2), np.array([[0, 1], [2, 2], [0, 1]]))],
    "Gelu": [case((3, 4), exact=False), case((3, 4), approximate="tanh")],
    "Gemm": [
        case((3, 4), (4, 5), (5,)),
        case((4, 3), (4, 5), (1, 1), transA=1, alpha=0.5, beta=2.0),
        case((3, 4), (5, 4), (3, 1), transB=1, alpha=1.5),
        case((4, 3), (5, 4), (3, 5), transA=1, transB=1),
        case((3, 4), (4, 5)),
    ],
    "GlobalAveragePool": [case((2, 3, 4, 5)), case((2, 3, 4))],
    "GlobalMaxPool": [case((2, 3, 4, 5))],
    "GroupNormalization": [
        case((2, 4, 3, 2), (2,), (2,), num_groups=2, opset=18),
        case((2, 4, 3), (4,), (4,), num_groups=2, opset=21, exact=False),
    ],
    "HardSigmoid": unary(low=-5, high=5),
    "HardSwish": unary(low=-5, high=5),
    "Identity": unary(),
    "InstanceNormalization": [case((2, 3, 4, 2), (3,), (3,)), case((2, 3, 5), (3,), (3,), epsilon=0.1)],
    "LayerNormalization": [
        case((2, 3, 5), (5,), (5,)),
        case((2, 3, 4), (3, 4), (3, 4), axis=1),
        case((2, 3, 4), (4,), axis=-1, epsilon=0.1),
    ],
    "LeakyRelu": unary(alpha=0.3),
    "Log": unary(low=0.5),
    "LogSoftmax": [case((3, 4)), case((2, 3, 4), axis=1)],
    "MatMul": [case(a, b) for a, b in MATMULS],
    "Max": [*broadcasts(), case((2, 3), (3,), ()), case((2,))],
    "MaxPool": [*POOLS, case((1, 2, 9, 8), kernel_shape=[3, 2], dilations=[2, 1], exact=False)],
    "Mean": [*broadcasts(exact=False), case((2, 3), (3,), (1,), exact=False)],
    "Min": [*broadcasts(), case((2, 3), (3,), ())],
    "Mish": unary(),
    "Mul": broadcasts(),
    "Neg": unary(),
    "PRelu": [case((2, 3, 4), (3, 1)), case((2, 3), (2, 3)), case((2, 3), (1,))],
    "Pad": [
        case((2, 3), ints(1, 0, 2, 1), (), exact=False),
        case((2, 3, 4), ints(2, -1), None, ints(2), exact=False),
        case((3, 4), ints(1, 2, 0, 1), exact=False, mode="reflect"),
        case((3, 4), ints(1, 2, 0, 1), exact=False, mode="edge"),
    ],
    "Pow": [
        *broadcasts(low=0.5),
        case((3, 4), np.array(2.0)),
        case((3, 4), ints(3)),
        case((3, 2), np.array([2.0, 1.0])),
    ],
    "RMSNormalization": [case((2, 3, 5), (5,), opset=23), case((2, 3, 4), (3, 4), opset=23, axis=1, epsilon=0.1)],
    "Reciprocal": unary(low=0.5),
    "ReduceL1": reductions(),
    "ReduceL2": reductions(),
    "ReduceLogSumExp": reductions(),
    "ReduceMax": reductions(),
    "ReduceMean": reductions(),
    "ReduceMin": reductions(),
    "ReduceSum": reductions(),
    "ReduceSumSquare": reductions(),
    "Relu": unary(),
    "Reshape": [case((2, 6), ints(3, -1)), case((2, 3, 4), ints(0, 12))],
    "Resize": [
        case((1, 2, 3, 4), None, SCALES, exact=False),
        case((1, 2, 3, 4), None, SCALES, exact=False, mode="linear"),
        case(
            (1, 2, 4, 4),
            None,
            None,
            ints(1, 2, 7, 3),
            exact=False,
            mode="linear",
            coordinate_transformation_mode="align_corners",
        ),
        case(
            (1, 2, 4, 4),
            None,
            None,
            ints(1, 2, 8, 6),
            exact=False,
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        case((1, 1, 4, 4), None, SCALES, exact=False, mode="cubic"),
    ],
    "ScatterElements": [
        case((2, 3), np.array([[0, 2], [1, 0]]), (2, 2), axis=1),
        case((3, 2), INDICES, (2, 2), reduction="add"),
    ],
    "ScatterND": [
        case((4, 3), np.array([[2], [0]]), (2, 3)),
        case((4, 3), np.array([[2], [2]]), (2, 3), reduction="add"),
    ],
    "Selu": unary(),
    "Sigmoid": unary(),
    "Sin": unary(),
    "Sinh": unary(),
    "Slice": [
        case((4, 5), ints(1), ints(3)),
        case((4, 5), ints(0, 2), ints(99, -1), ints(0, 1)),
        case((4, 5), ints(-3), ints(99), ints(-1)),
        case((4, 5), ints(4, 0), ints(-99, 5), ints(1, 0), ints(-2, 3)),
        case((4, 5), ints(9), ints(12), ints(0)),
    ],
    "Softmax": [case((3, 4)), case((2, 3, 4), axis=1)],
    "Softplus": unary(),
    "Softsign": unary(),
    "SpaceToDepth": [case((2, 2, 4, 6), blocksize=2)],
    "Split": [
        case((2, 6), axis=1, num_outputs=2, outputs=2),
        case((5, 2), ints(2, 3), outputs=2),
        case((2, 7), axis=-1, num_outputs=3, outputs=3),
    ],
    "Sqrt": unary(low=0.5),
    "Squeeze": [case((1, 3, 1), ints(0)), case((1, 3, 1))],
    "Sub": broadcasts(),
    "Sum": [*broadcasts(), case((2, 3), (3,), (), (2, 1))],
    "Swish": [case((3, 4), alpha=1.5, opset=24)],
    "Tan": unary(low=-1, high=1),
    "Tanh": unary(),
    "ThresholdedRelu": unary(alpha=0.4),
    "Tile": [case((2, 3), ints(2, 2)), case((2,), ints(3))],
    "TopK": [case((3, 4), ints(2), outputs=2), case((3, 4), ints(2), outputs=2, axis=0, largest=0)],
    "Transpose": [case((2, 3, 4)), case((2, 3, 4), perm=[1, 2, 0])],
    "Trilu": [case((3, 4)), case((2, 3, 4), np.array(1), upper=0)],
    "Unsqueeze": [case((3, 4), ints(0, -1))],
    "Where": [case(np.array([True, False, True]), a, b) for a, b in (((3,), (3,)), ((2, 3), (1,)), ((2, 1), (3,)))],
}


def test_every_rule_has_a_case():
    assert set(CASES) == set(VJPS)


@pytest.mark.parametrize("dims", ["static", "dynamic"])
@pytest.mark.parametrize(("op_type", "index"), [(op, i) for op, cases in CASES.items() for i in range(len(cases))])
def test_rule_is_the_adjoint(op_type, index, dims, adjoint):
    case = CASES[op_type][index]
    model, feeds = single_node(op_type, case, dims)
    wrt = list(feeds) if case.checked is None else [f"x{i}" for i in case.checked]
    adjoint(model, feeds, ["y0"], wrt, case.exact)
