"""Every VJP rule against central differences."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir
import pytest
from adjoint import check_adjoint, differentiated
from kronnx.ir.autodiff import VJPS


@dataclass(frozen=True)
class Case:
    """One node. A tuple among the inputs is the shape of a random float input, an array with a dtype of integers or
    booleans a constant, None a missing input. `exact` runs in float64 in the reference evaluator, else ONNX Runtime and
    float32 are used (for operators that are linear in each input, so that large steps are no approximation, or that the
    reference gets wrong: LRN, LpNormalization with p = 1, pooling with ceil_mode).
    """

    inputs: Sequence[tuple[int, ...] | np.ndarray | None]
    attributes: dict = field(default_factory=dict)
    opset: int = 20
    outputs: int = 1
    exact: bool = True
    low: float = -2.0
    high: float = 2.0


def case(*inputs, opset: int = 20, outputs: int = 1, exact: bool = True, low=-2.0, high=2.0, **attributes) -> Case:
    return Case(inputs, attributes, opset, outputs, exact, low, high)


def single_node(op_type: str, case: Case, dims: str, dtype: type) -> tuple[onnx_ir.Model, dict[str, np.ndarray]]:
    """The model of one node and its feeds. `dims` says what is known: 'static' sizes, 'dynamic' for the ranks alone."""
    rng = np.random.default_rng(len(op_type))
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
    "Acos": unary(low=-0.9, high=0.9),
    "Acosh": unary(low=1.2, high=3),
    "Add": broadcasts(),
    "Asin": unary(low=-0.9, high=0.9),
    "Asinh": unary(),
    "Atan": unary(),
    "Atanh": unary(low=-0.8, high=0.8),
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
    "Compress": [
        case((3, 4), np.array([True, False, True]), axis=0),
        case((3, 2), np.array([False, True, True, False, True])),
    ],
    "Concat": [case((2, 3), (2, 1), (2, 4), axis=1), case((2, 3), (1, 3), axis=-2), case((2, 3), axis=0)],
    "Conv": CONVOLUTIONS,
    "ConvTranspose": [
        convolution((2, 4, 5), (4, 3, 3), (3,)),
        convolution((2, 4, 4, 5), (4, 2, 3, 2), (4,), group=2, strides=[2, 3], pads=[1, 0, 1, 0]),
        convolution((1, 2, 4, 5), (2, 3, 2, 3), strides=[2, 2], output_padding=[1, 0], pads=[0, 1, 1, 0]),
        convolution((1, 2, 4), (2, 3, 3), dilations=[2]),
        convolution((1, 2, 4, 5), (2, 3, 3, 2), strides=[2, 2], auto_pad="SAME_UPPER"),
        convolution((1, 2, 4, 5), (2, 3, 4, 3), strides=[2, 1], auto_pad="SAME_LOWER"),
        convolution((1, 2, 4, 5), (2, 3, 3, 3), strides=[2, 2], output_shape=[8, 10]),
        convolution((1, 4, 5), (4, 1, 3), (2,), group=2, strides=[2], output_shape=[9], auto_pad="SAME_UPPER"),
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
        case((2, 3, 4), (4, 5), equation="...j,jk->...k"),
        case((2, 3, 4), (3, 4), equation="...ij,...ij->...i"),
        case((3, 1, 2), (4, 2), equation="...i,...i"),
        case((3,), (2, 4), (3,), equation="i,...j,i->...j"),
        case((2, 3, 4), (4, 5), equation="...ij,jk->...k"),
        case((3, 3), equation="ii->i"),
        case((3, 3), (3,), equation="ii,i->"),
        case((2, 3, 3), equation="...ii->...i"),
        case((3, 2, 3), (2, 3), equation="iji,ji->j"),
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
    "GatherND": [
        case((3, 3, 2), np.array([[0, 1], [2, 2], [0, 1]])),
        case((2, 3, 2), np.array([[0], [-1]]), batch_dims=1),
        case((2, 2, 3), np.array([[[0], [0]], [[1], [2]]]), batch_dims=2),
    ],
    "Gelu": [case((3, 4)), case((3, 4), approximate="tanh")],
    "Gemm": [
        case((3, 4), (4, 5), (5,)),
        case((4, 3), (4, 5), (1, 1), transA=1, alpha=0.5, beta=2.0),
        case((3, 4), (5, 4), (3, 1), transB=1, alpha=1.5),
        case((4, 3), (5, 4), (3, 5), transA=1, transB=1),
        case((3, 4), (4, 5)),
    ],
    "GlobalAveragePool": [case((2, 3, 4, 5)), case((2, 3, 4))],
    "GlobalLpPool": [case((2, 3, 4), exact=False), case((2, 3, 4, 2), exact=False, p=3, low=0.5)],
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
    "LRN": [
        case((2, 5, 3, 2), size=3, alpha=0.5, exact=False),
        case((2, 6, 2, 2), size=5, beta=0.5, bias=1.5, alpha=0.8, exact=False),
        # Even sizes, one more behind than in front: ONNX Runtime refuses them, and the reference is right about them
        # where there are as many samples as channels, for it takes the one for the other.
        case((4, 4, 2, 2), size=2, alpha=0.5),
        case((5, 5, 2, 1), size=4, beta=0.5, alpha=0.8),
    ],
    "LeakyRelu": unary(alpha=0.3),
    "Log": unary(low=0.5),
    "LogSoftmax": [case((3, 4)), case((2, 3, 4), axis=1)],
    "LpNormalization": [
        case((2, 3, 4)),
        case((2, 3, 4), axis=1, p=1, exact=False),
        case((3, 2), axis=0, p=2),
    ],
    "LpPool": [
        *(case(c.inputs[0], exact=False, low=0.5, **c.attributes) for c in POOLS),
        case((1, 2, 7), kernel_shape=[3], p=1, exact=False),
        case((1, 2, 7), kernel_shape=[3], p=3, low=0.5, exact=False),
        case((1, 1, 7, 6), kernel_shape=[2, 2], dilations=[2, 1], low=0.5, exact=False),
    ],
    "MatMul": [case(a, b) for a, b in MATMULS],
    "Max": [*broadcasts(), case((2, 3), (3,), ()), case((2,))],
    "MaxPool": [*POOLS, case((1, 2, 9, 8), kernel_shape=[3, 2], dilations=[2, 1], exact=False)],
    "Mean": [*broadcasts(exact=False), case((2, 3), (3,), (1,), exact=False)],
    "Min": [*broadcasts(), case((2, 3), (3,), ())],
    "Mish": unary(),
    "Mod": [case((2, 3), (3,), fmod=1, low=0.5, high=3), case((3, 4), (4,), fmod=1)],
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
    "ReduceLogSum": reductions(low=0.5),
    "ReduceLogSumExp": reductions(),
    "ReduceMax": reductions(),
    "ReduceMean": reductions(),
    "ReduceMin": reductions(),
    "ReduceProd": [*reductions(), case((2, 3), noop_with_empty_axes=1)],
    "ReduceSum": reductions(),
    "ReduceSumSquare": reductions(),
    "Relu": unary(),
    "Reshape": [case((2, 6), ints(3, -1)), case((2, 3, 4), ints(0, 12))],
    "ReverseSequence": [
        case((4, 3, 2), ints(4, 1, 3)),
        case((3, 4), ints(1, 2, 4), batch_axis=0, time_axis=1),
    ],
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
        *(case((3, 2), INDICES, (2, 2), reduction=r) for r in ("mul", "min", "max")),
        case((2, 3), np.array([[0, 0], [1, 0]]), (2, 2), axis=1, reduction="mul"),
        case((2, 3), np.array([[0, 0], [1, 0]]), (2, 2), axis=1, reduction="max"),
    ],
    "ScatterND": [
        case((4, 3), np.array([[2], [0]]), (2, 3)),
        case((4, 3), np.array([[2], [2]]), (2, 3), reduction="add"),
        *(case((4, 3), np.array([[2], [2]]), (2, 3), reduction=r) for r in ("mul", "min", "max")),
    ],
    "Selu": unary(),
    "Shrink": unary(lambd=0.4, bias=0.1),
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


NO_VALUES = {
    "CastLike": {"target_type"},  # only its type is read
    "Dropout": {"ratio"},  # read in training alone
    "Resize": {"roi", "scales"},  # they say which elements are read; piecewise constant in the sizes
}
"""Inputs that may be floating, but that no result varies smoothly with."""


NEEDED = """
    MatMul Gemm Conv ConvTranspose BatchNormalization LayerNormalization InstanceNormalization GroupNormalization
    RMSNormalization Softmax LogSoftmax Relu LeakyRelu PRelu Elu Selu Celu Gelu Erf Tanh Sigmoid HardSigmoid HardSwish
    Swish Mish Softplus Softsign Clip Abs Neg Exp Log Sqrt Reciprocal Pow Sin Cos Add Sub Mul Div Min Max Mean Sum Where
    ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceLogSumExp ReduceProd MaxPool AveragePool LpPool
    GlobalAveragePool GlobalMaxPool Concat Split Slice Gather GatherElements GatherND ScatterElements ScatterND Reshape
    Flatten Transpose Squeeze Unsqueeze Expand Tile Pad Resize DepthToSpace SpaceToDepth Cast Identity Dropout Einsum
    CumSum"""
"""What published networks are made of; Attention, LSTM, GRU and RNN are decomposed."""


def test_the_operators_of_published_networks_have_rules():
    assert set(NEEDED.split()) <= set(VJPS)


STRAIGHT_THROUGH = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
"""Their differences are those of rounded numbers: see test_quantization."""


def test_every_rule_has_a_case():
    assert set(CASES) | STRAIGHT_THROUGH == set(VJPS)


@pytest.mark.parametrize("op_type", CASES)
def test_every_floating_input_of_every_rule_is_checked(op_type):
    version = max(c.opset for c in CASES[op_type])
    schema = onnx.defs.get_schema(op_type, version, "")
    floating = {x.name for x in schema.inputs if any("float" in kind or "double" in kind for kind in x.types)}
    checked = {
        schema.inputs[min(i, len(schema.inputs) - 1)].name
        for c in CASES[op_type]
        for i, entry in enumerate(c.inputs)
        if isinstance(entry, tuple)
    }
    assert floating - NO_VALUES.get(op_type, set()) == checked


@pytest.mark.parametrize("dims", ["static", "dynamic"])
@pytest.mark.parametrize(("op_type", "index"), [(op, i) for op, cases in CASES.items() for i in range(len(cases))])
def test_rule_is_the_adjoint(op_type, index, dims):
    case = CASES[op_type][index]
    model, feeds = single_node(op_type, case, dims, np.float64 if case.exact else np.float32)
    check_adjoint(model, feeds, ["y0"], list(feeds), case.exact)


NO_HALF = {"Celu", "Einsum"}  # single precision only before opset 27; onnx's inference fails on repeated letters


@pytest.mark.parametrize("op_type", sorted(CASES.keys() - NO_HALF))
def test_rules_keep_half_precision(op_type):
    for case in CASES[op_type]:
        model, feeds = single_node(op_type, case, "dynamic", np.float16)
        result = differentiated(model, ["y0"], list(feeds))
        proto = onnx.shape_inference.infer_shapes(onnx_ir.to_proto(model), check_type=True, strict_mode=True)
        types = {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.value_info, *proto.graph.input)}
        assert {types[str(g.name)] for g in result.values.values()} == {onnx.TensorProto.FLOAT16}
