"""The networks whose factors are stored: each in PyTorch and, written by hand, in ONNX."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

torch.set_default_dtype(torch.float64)


class Net(nn.Module):
    """Named parts and a function that joins them; what it gives are logits, or values for a gaussian head."""

    def __init__(self, join: Callable[["Net", Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.join = join
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x)


@dataclass(frozen=True)
class Case:
    """`text` is the same network in ONNX; its initializers are the parameters with `_` for the dot, and `_t` behind
    those that are transposed. The nodes of layers have the names of the modules. EKFAC is made for the `bases`."""

    shape: tuple[int, ...]
    net: Net
    text: str
    layers: tuple[str, ...] = ("first", "second")
    bases: tuple[str, ...] = ()
    by_curvlinops: bool = True
    gaussian: bool = False


def two(n: Net, x: Tensor) -> Tensor:
    return n.second(torch.tanh(n.first(x)))


def flattened(n: Net, x: Tensor) -> Tensor:
    return n.second(torch.tanh(n.first(x)).flatten(1))


def averaged(n: Net, x: Tensor) -> Tensor:
    return n.second(torch.tanh(n.first(x)).mean((2, 3)))


def separable(n: Net, x: Tensor) -> Tensor:
    return n.third(torch.tanh(n.second(torch.tanh(n.first(x)))).mean((2, 3)))


def twice(n: Net, x: Tensor) -> Tensor:
    return n.second(torch.tanh(n.first(torch.tanh(n.first(x)))))


def twice_pooled(n: Net, x: Tensor) -> Tensor:
    return n.second(torch.tanh(n.first(torch.tanh(n.first(x)).mean(1))))


def attention(n: Net, x: Tensor) -> Tensor:
    q, k, v = (part(x).unflatten(2, (2, 3)).transpose(1, 2) for part in (n.query, n.key, n.value))
    mixed = (q @ k.transpose(2, 3) * 0.5).softmax(-1) @ v
    return n.second(n.first(mixed.transpose(1, 2).flatten(2)).mean(1))


GEMM = "[%s] %s = Gemm<transB=1>(%s, %s_weight, %s_bias)"
HEAD = "[second] z = Gemm<transB=1>(%s, second_weight, second_bias) y = Softmax<axis=-1>(z)"
FIRST = "[first] h = Gemm<transB=1>(x, first_weight, first_bias)"
ROWS = "[first] m = MatMul(x, first_weight_t) h = Add(m, first_bias)"
POOLED = "[first] h = Conv<%s>(x, first_weight, first_bias) t = Tanh(h) p = GlobalAveragePool(t) f = Flatten(p) "

CASES = {
    "linear": Case(
        (5,),
        Net(two, first=nn.Linear(5, 6), second=nn.Linear(6, 4, bias=False)),
        f"""(double[N,5] x) => (double[N,4] y)
        <double[6,5] first_weight, double[6] first_bias, double[6,4] second_weight_t>
        {{ {FIRST} t = Tanh(h) [second] z = MatMul(t, second_weight_t) y = Softmax<axis=-1>(z) }}""",
        bases=("first", "second"),
    ),
    "sequence": Case(
        (4, 5),
        Net(flattened, first=nn.Linear(5, 3), second=nn.Linear(12, 4)),
        f"""(double[N,4,5] x) => (double[N,4] y)
        <double[5,3] first_weight_t, double[3] first_bias, double[4,12] second_weight, double[4] second_bias>
        {{ {ROWS} t = Tanh(h) f = Flatten(t) {HEAD % "f"} }}""",
        bases=("first",),
    ),
    "pooled": Case(
        (4, 5),
        Net(lambda n, x: n.second(n.first(x).mean(1)), first=nn.Linear(5, 6), second=nn.Linear(6, 4)),
        f"""(double[N,4,5] x) => (double[N,4] y)
        <double[5,6] first_weight_t, double[6] first_bias, double[4,6] second_weight, double[4] second_bias,
        int64[1] axis = {{1}}>
        {{ {ROWS} p = ReduceMean<keepdims=0>(h, axis) {HEAD % "p"} }}""",
    ),
    "convolution": Case(
        (2, 5, 4),
        Net(flattened, first=nn.Conv2d(2, 3, (3, 2)), second=nn.Linear(27, 4)),
        f"""(double[N,2,5,4] x) => (double[N,4] y)
        <double[3,2,3,2] first_weight, double[3] first_bias, double[4,27] second_weight, double[4] second_bias>
        {{ [first] h = Conv(x, first_weight, first_bias) t = Tanh(h) f = Flatten(t) {HEAD % "f"} }}""",
        bases=("first",),
    ),
    "strided": Case(
        (2, 6, 7),
        Net(averaged, first=nn.Conv2d(2, 5, 3, (2, 1), (1, 2), (1, 2)), second=nn.Linear(5, 4)),
        f"""(double[N,2,6,7] x) => (double[N,4] y)
        <double[5,2,3,3] first_weight, double[5] first_bias, double[4,5] second_weight, double[4] second_bias>
        {{ {POOLED % "strides=[2,1], pads=[1,2,1,2], dilations=[1,2]"} {HEAD % "f"} }}""",
        bases=("first",),
    ),
    "grouped": Case(
        (4, 5, 4),
        Net(averaged, first=nn.Conv2d(4, 6, (3, 2), padding=(1, 0), groups=2), second=nn.Linear(6, 4)),
        f"""(double[N,4,5,4] x) => (double[N,4] y)
        <double[6,2,3,2] first_weight, double[6] first_bias, double[4,6] second_weight, double[4] second_bias>
        {{ {POOLED % "group=2, pads=[1,0,1,0]"} {HEAD % "f"} }}""",
        bases=("first",),
        by_curvlinops=False,
    ),
    "depthwise": Case(
        (3, 6, 5),
        Net(separable, first=nn.Conv2d(3, 3, 3, groups=3), second=nn.Conv2d(3, 5, 1), third=nn.Linear(5, 4)),
        f"""(double[N,3,6,5] x) => (double[N,4] y) <double[3,1,3,3] first_weight, double[3] first_bias,
        double[5,3,1,1] second_weight, double[5] second_bias, double[4,5] third_weight, double[4] third_bias>
        {{ [first] h = Conv<group=3>(x, first_weight, first_bias) t = Tanh(h)
        [second] i = Conv(t, second_weight, second_bias) u = Tanh(i) p = GlobalAveragePool(u) f = Flatten(p)
        {GEMM % ("third", "z", "f", "third", "third")} y = Softmax<axis=-1>(z) }}""",
        layers=("first", "second", "third"),
        by_curvlinops=False,
    ),
    "attention": Case(
        (4, 6),
        Net(
            attention,
            **{name: nn.Linear(6, 6, bias=False) for name in ("query", "key", "value")},
            first=nn.Linear(6, 5),
            second=nn.Linear(5, 4),
        ),
        f"""(double[N,4,6] x) => (double[N,4] y)
        <double[6,6] query_weight_t, double[6,6] key_weight_t, double[6,6] value_weight_t, double[6,5] first_weight_t,
        double[5] first_bias, double[4,5] second_weight, double[4] second_bias, int64[4] heads = {{0,0,2,3}},
        int64[3] joined = {{0,0,6}}, double half = {{0.5}}, int64[1] axis = {{1}}>
        {{ [query] q = MatMul(x, query_weight_t) [key] k = MatMul(x, key_weight_t) [value] v = MatMul(x, value_weight_t)
        qs = Reshape(q, heads) ks = Reshape(k, heads) vs = Reshape(v, heads)
        qh = Transpose<perm=[0,2,1,3]>(qs) kh = Transpose<perm=[0,2,3,1]>(ks) vh = Transpose<perm=[0,2,1,3]>(vs)
        s = MatMul(qh, kh) c = Mul(s, half) w = Softmax<axis=-1>(c) o = MatMul(w, vh)
        ot = Transpose<perm=[0,2,1,3]>(o) j = Reshape(ot, joined) [first] m = MatMul(j, first_weight_t)
        h = Add(m, first_bias) p = ReduceMean<keepdims=0>(h, axis) {HEAD % "p"} }}""",
        layers=("query", "key", "value", "first", "second"),
    ),
    "layernorm": Case(
        (5,),
        Net(
            lambda n, x: n.second(n.norm(n.first(x))),
            first=nn.Linear(5, 6),
            norm=nn.LayerNorm(6, eps=2.0**-16),
            second=nn.Linear(6, 4),
        ),
        f"""(double[N,5] x) => (double[N,4] y) <double[6,5] first_weight, double[6] first_bias, double[6] norm_weight,
        double[6] norm_bias, double[4,6] second_weight, double[4] second_bias>
        {{ {FIRST} t = LayerNormalization<axis=-1, epsilon=0.0000152587890625>(h, norm_weight, norm_bias)
        {HEAD % "t"} }}""",
    ),
    "tied": Case(
        (5,),
        Net(twice, first=nn.Linear(5, 5), second=nn.Linear(5, 4)),
        f"""(double[N,5] x) => (double[N,4] y)
        <double[5,5] first_weight, double[5] first_bias, double[4,5] second_weight, double[4] second_bias>
        {{ {FIRST} t = Tanh(h) {GEMM % ("again", "i", "t", "first", "first")} u = Tanh(i) {HEAD % "u"} }}""",
        bases=("first",),
        by_curvlinops=False,
    ),
    "tied_positions": Case(
        (4, 5),
        Net(twice_pooled, first=nn.Linear(5, 5, bias=False), second=nn.Linear(5, 4)),
        f"""(double[N,4,5] x) => (double[N,4] y)
        <double[5,5] first_weight_t, double[4,5] second_weight, double[4] second_bias, int64[1] axis = {{1}}>
        {{ [first] h = MatMul(x, first_weight_t) t = Tanh(h) p = ReduceMean<keepdims=0>(t, axis)
        [again] i = MatMul(p, first_weight_t) u = Tanh(i) {HEAD % "u"} }}""",
        by_curvlinops=False,
    ),
    "gaussian": Case(
        (5,),
        Net(two, first=nn.Linear(5, 6), second=nn.Linear(6, 3)),
        f"""(double[N,5] x) => (double[N,3] y)
        <double[6,5] first_weight, double[6] first_bias, double[3,6] second_weight, double[3] second_bias>
        {{ {FIRST} t = Tanh(h) {GEMM % ("second", "y", "t", "second", "second")} }}""",
        gaussian=True,
    ),
    "tokens": Case(
        (3, 5),
        Net(two, first=nn.Linear(5, 6), second=nn.Linear(6, 4, bias=False)),
        f"""(double[N,3,5] x) => (double[N,3,4] y)
        <double[5,6] first_weight_t, double[6] first_bias, double[6,4] second_weight_t>
        {{ {ROWS} t = Tanh(h) [second] z = MatMul(t, second_weight_t) y = Softmax<axis=-1>(z) }}""",
        by_curvlinops=False,
    ),
}
