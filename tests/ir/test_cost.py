import networks
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.cost import Cost, Piece, macs, parameters, piece_of
from kronnx.ir.forms import Striped, Structure, low_rank, structure_of
from kronnx.ir.layers import find_layers
from kronnx.passes.planning.stages import concrete_shapes
from own_structures import Bytes

CASES = {
    "matmul": ("(float[2,5,6] x) => (float[2,5,3] y) <float[6,3] w> { y = MatMul(x, w) }", 2 * 5 * 6 * 3),
    "gemm": ("(float[4,6] x) => (float[4,3] y) <float[3,6] w> { y = Gemm<transB=1>(x, w) }", 4 * 6 * 3),
    "gemm of columns": ("(float[6,4] x) => (float[4,3] y) <float[6,3] w> { y = Gemm<transA=1>(x, w) }", 4 * 6 * 3),
    "grouped convolution": (
        "(float[2,4,7,7] x) => (float[2,6,3,3] y) <float[6,2,3,3] w> { y = Conv<group=2, strides=[2,2]>(x, w) }",
        2 * 6 * 9 * (2 * 9),
    ),
    "transposed convolution": (
        "(float[1,4,3,3] x) => (float[1,5,4,4] y) <float[4,5,2,2] w> { y = ConvTranspose(x, w) }",
        4 * 9 * (5 * 4),
    ),
    "attention": (
        "(float[2,5,4] x) => (float[2,5,5] y) { t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t) }",
        2 * 5 * 5 * 4,
    ),
    "dequantized": (
        """(float[2,5,6] x) => (float[2,5,3] y) <int8[6,3] w, float s = {0.1}>
            { d = DequantizeLinear(w, s) y = MatMul(x, d) }""",
        2 * 5 * 6 * 3,
    ),
    "product of codes": (
        """(float[2,5,6] x) => (int32[2,5,3] y) <int8[6,3] w>
            { q, s, z = DynamicQuantizeLinear(x) y = MatMulInteger(q, w, z) }""",
        2 * 5 * 6 * 3,
    ),
    "rounded product": (
        """(float[4,6] x) => (uint8[4,3] y) <int8[6,3] w, float s = {0.1}, uint8 z = {3}, int8 c = {0}>
            { q = QuantizeLinear(x, s, z) y = QLinearMatMul(q, s, z, w, s, c, s, z) }""",
        4 * 6 * 3,
    ),
    "rounded convolution": (
        """(float[2,4,7,7] x) => (uint8[2,6,3,3] y) <int8[6,2,3,3] w, float s = {0.1}, uint8 z = {3}, int8 c = {0}>
            { q = QuantizeLinear(x, s, z) y = QLinearConv<group=2, strides=[2,2]>(q, s, z, w, s, c, s, z) }""",
        2 * 6 * 9 * (2 * 9),
    ),
    "none": ("(float[4,6] x) => (float[4,6] y) { y = Relu(x) }", 0),
}


@pytest.mark.parametrize(("text", "count"), CASES.values(), ids=CASES)
def test_multiply_adds_are_those_counted_by_hand(text: str, count: int) -> None:
    model = networks.build(text)
    assert macs(model, concrete_shapes(model, networks.draw(model), networks.execute)) == count


PACKED = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> net (float[2,5,48] x) => (float[2,5,3] y)
    <uint8[3,2,16] w, float[6] s> { y = com.microsoft.MatMulNBits<K=48, N=3, bits=4, block_size=32>(x, w, s) }"""


def test_weights_that_are_packed_count_each() -> None:
    proto = onnx.parser.parse_model(PACKED)
    arrays = {"w": np.ones((3, 2, 16), np.uint8), "s": np.ones(6, np.float32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    del proto.graph.value_info[:]
    model = onnx_ir.from_proto(proto)
    assert [remark.reason for remark in find_layers(model).left] == ["quantized"]
    assert parameters(model) == 3 * 2 * 32 + 6
    assert macs(model, concrete_shapes(model, networks.draw(model), networks.execute)) == 2 * 5 * 48 * 3


def test_unknown_shapes_count_as_zero(mlp: onnx.ModelProto) -> None:
    assert macs(onnx_ir.from_proto(mlp), {}) == 0


def test_the_pieces_of_a_model_sum_to_its_cost(mlp: onnx.ModelProto) -> None:
    model = onnx_ir.from_proto(mlp)
    shapes = concrete_shapes(model, networks.draw(model, 7), networks.execute)
    layers = find_layers(model).found.values()
    pieces = [Piece(structure_of(x), tuple(shapes[str(u.input.name)] for u in x.uses)) for x in layers]
    total = sum((p.cost() for p in pieces), Cost())
    assert total.macs == macs(model, shapes) == 7 * (8 * 16 + 16 * 4)
    assert total.parameters + 16 == parameters(model)  # the bias


def test_a_piece_that_is_used_twice_runs_twice_and_is_held_once() -> None:
    model = networks.build("""(float[N,3] x, float[N,3] z) => (float[N,8] y) <float[3,8] w>
        { f = MatMul(x, w) g = MatMul(z, w) y = Add(f, g) }""")
    structure = structure_of(find_layers(model).found["MatMul_0"])
    seen: list[tuple[Structure, tuple[int, ...]]] = []

    def timer(structure: Structure, shape: tuple[int, ...]) -> float:
        seen.append((structure, shape))
        return 1.5 * len(seen)

    assert Piece(structure, ((5, 3), (7, 3))).cost(timer) == Cost(12 * 24, 24, 1.5 + 3.0, 4 * 24)
    assert seen == [(structure, (5, 3)), (structure, (7, 3))]


def test_costs_add_and_subtract_by_component() -> None:
    a, b = Cost(5, 3, 2, 8), Cost(1, 2, 4, 2)
    assert (a + b, a - b, a + b - b) == (Cost(6, 5, 6, 10), Cost(4, 1, -2, 6), a)


def test_parameters_count_quantized_weights_but_no_shapes_and_no_scalars() -> None:
    model = networks.build("""(float[N,6] x) => (float[N,2,3] y)
        <float[6,6] w, int8[6,6] q, float s = {0.5}, int64[3] t = {-1, 2, 3}>
        { d = DequantizeLinear(q, s) h = MatMul(x, w) g = MatMul(h, d) y = Reshape(g, t) }""")
    assert parameters(model) == 36 + 36


def test_a_weight_that_is_read_twice_counts_once() -> None:
    model = networks.build("""(float[N,3] x, float[N,3] z) => (float[N,8] y) <float[3,8] w>
        { f = MatMul(x, w) g = MatMul(z, w) y = Add(f, g) }""")
    assert parameters(model) == 24


@pytest.mark.parametrize("rank", [1, 3])
def test_the_fragment_that_is_timed_costs_what_is_counted(rank: int) -> None:
    model = networks.build(
        "(float[2,6,5,5] x) => (float[2,8,5,5] y) <float[8,6,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }"
    )
    structure, shape = low_rank(find_layers(model).found["Conv_0"], rank), (2, 6, 5, 5)
    alone = structure.alone(shape)
    feed = {"x": np.zeros(shape, np.float32)}
    assert macs(alone, concrete_shapes(alone, feed, networks.execute)) == Piece(structure, (shape,)).cost().macs
    assert parameters(alone) == structure.parameters


def test_parameters_count_the_weights_in_constant_nodes_and_bodies() -> None:
    model = networks.parsed("""(float[N,2] x, bool c) => (float[N,2] y)
        { w = Constant<value = float[2,2] {1,2,3,4}>() h = MatMul(x, w)
          y = If (c) <then_branch = t () => (float[2] a) { k = Constant<value = float[2] {1,2}>() a = Add(h, k) },
                      else_branch = e () => (float[2] b) { b = Identity(h) }> }""")
    assert parameters(model) == parameters(normalize(model)) == 4 + 2


@pytest.mark.parametrize(("text", "size"), [
    ("<float[6,4] w> { y = MatMul(x, w) }", 4),
    ("<double[6,4] w> { y = MatMul(x, w) }", 8),
    ("<float16[6,4] w> { y = MatMul(x, w) }", 2),
    ("<float16[6,4] w> { t = Cast<to=1>(w) y = MatMul(x, t) }", 2),
])  # fmt: skip
def test_the_bytes_of_a_layer_are_those_that_it_is_stored_in(text: str, size: int) -> None:
    kind = "float" if "Cast" in text else text[1:].split("[")[0]
    model = networks.unfolded(f"({kind}[N,6] x) => ({kind}[N,4] y) {text}")
    (layer,) = find_layers(model).found.values()
    assert piece_of(layer, {"x": (1, 6)}).cost().bytes == size * 24


def test_a_structure_says_its_bytes() -> None:
    assert Piece(Striped(4, 8, ((0, 2, 3), (1, 5, 7))), ((1, 8),), 2).cost().bytes == 2 * 12 + 8 * 6
    assert Piece(Bytes(4, 8), ((1, 8),)).cost().bytes == 32 + 4
    assert Piece(low_rank(_layer(), 2), ((1, 8),)).cost().bytes == 4 * (2 * 8 + 4 * 2)


def _layer():
    model = networks.build("(float[N,8] x) => (float[N,4] y) <float[8,4] w> { y = MatMul(x, w) }")
    return find_layers(model).found["MatMul_0"]
