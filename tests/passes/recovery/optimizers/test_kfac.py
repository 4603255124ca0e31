"""K-FAC against Kronecker products that are written out, and where it is exact against the solution itself."""

from collections.abc import Callable, Mapping, Sequence

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.autodiff.emitter import Emitter
from kronnx.ir.errors import UsageError
from kronnx.ir.layers import find_layers
from kronnx.ir.output_heads import find_heads
from kronnx.passes.curvature import Bench, Curvature, Factors, measure_factors
from kronnx.passes.curvature.moments import Want
from kronnx.passes.recovery.optimizers.gradient_descent import Sgd
from kronnx.passes.recovery.optimizers.kfac import Kfac, damped_inverses, identities, mean_eigenvalue
from kronnx.passes.recovery.optimizers.kronecker_blocks import KroneckerBlock, blocks
from kronnx.runtime.sessions import Session
from onnx.reference import ReferenceEvaluator

Arrays = Mapping[str, np.ndarray]
Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]

NET = """(double[N,4,6] x) => (double[N,5] y)
    <double[6,2,3] kernel, double[6] shift, double[4,6] first, double[4] bias, double[4,3] second, double[3] offset,
     double[3,5] third, double[5] scale>
    { c = Conv<group=2>(x, kernel, shift) p = GlobalAveragePool(c) f = Flatten(p) g = Gemm<transB=1>(f, first, bias)
      r = Relu(g) h = Gemm(r, second, offset) t = Tanh(h) z = MatMul(t, third) y = Mul(z, scale) }"""
TRAINED = ("kernel", "shift", "first", "bias", "second", "offset", "third", "scale")
RATE, STEPS, EVERY = 0.0625, 100, 25  # a rate that float32 holds exactly, steps, steps between two measurements


def named(model: onnx_ir.Model, trained: Sequence[str] = TRAINED) -> dict[str, KroneckerBlock]:
    """The blocks of a model by the name of their weight."""
    return {block.weight: block for block in blocks(find_layers(model).found.values(), trained)}


@pytest.fixture(scope="module")
def net() -> onnx_ir.Model:
    return networks.build(NET)


def definite(random: np.random.Generator, groups: int, width: int, last: bool = False) -> np.ndarray:
    """Second moments [groups, width, width] of random vectors of unequal scales, the last number 1 if `last`."""
    rows = random.normal(size=(groups, 3 * width, width)) * np.geomspace(0.1, 3, width) + 0.5
    if last:
        rows[..., -1] = 1
    return rows.transpose(0, 2, 1) @ rows / rows.shape[1]


def made(left: np.ndarray | None, right: np.ndarray, biased: bool) -> Factors:
    """Measured factors, of which `right` has a column of ones if `biased`."""
    inner = right[:, :-1, :-1] if biased else right
    mean = right[:, :-1, -1] if biased else np.zeros(right.shape[:2])
    return Factors("expand", left, inner, mean, None, None, 1.0, np.ones(len(right)), 10, 10.0, 1)


def drawn(random: np.random.Generator, found: Sequence[KroneckerBlock]) -> Pairs:
    """Random factors G and A of all blocks, by layer."""
    return {
        block.layer: (
            definite(random, block.groups, block.out),
            definite(random, block.groups, block.columns, block.bias is not None),
        )
        for block in found
    }


def step_of(kfac: Kfac, sgd: Sgd, found: Sequence[KroneckerBlock], weights: Arrays) -> Callable[[Arrays], Arrays]:
    """A step of K-FAC and gradient descent in ONNX Runtime: weights, slots, gradients and inverses in, the next out."""
    graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="step")
    emit = Emitter(graph)

    def entry(name: str, shape: tuple[int, ...], dtype: np.dtype) -> onnx_ir.Value:
        graph.inputs.append(onnx_ir.val(name, onnx_ir.DataType.from_numpy(dtype), shape))
        return graph.inputs[-1]

    rate, count = (entry(name, (), np.dtype(np.float32)) for name in ("rate", "count"))
    values = {name: entry(name, array.shape, array.dtype) for name, array in weights.items()}
    momenta = {name: entry(f"{name}.momentum", array.shape, array.dtype) for name, array in weights.items()}
    gradients = {name: entry(f"{name}.gradient", array.shape, array.dtype) for name, array in weights.items()}
    others = [name for name in weights if not any(name in block.names for block in found)]
    slots = {name: {"squares": entry(f"{name}.squares", weights[name].shape, weights[name].dtype)} for name in others}
    inverses = {}
    for block in found:
        left, right = (array.shape for array in identities(block))
        dtype = weights[block.weight].dtype
        inverses[block.layer] = entry(f"{block.layer}.left", left, dtype), entry(f"{block.layer}.right", right, dtype)
    directions = kfac.directions(emit, gradients, found, inverses, slots, rate, count)
    outputs = {f"{name}.squares": after["squares"] for name, after in directions.slots.items()}
    for name, value in values.items():
        after = sgd.update(emit, value, directions.gradients[name], {"momentum": momenta[name]}, rate, count)
        outputs |= {name: after.weight, f"{name}.momentum": after.slots["momentum"]}
    for name, value in outputs.items():
        value.name = f"{name}'"
        graph.outputs.append(value)
    session = Session(onnx_ir.Model(graph, ir_version=10))
    return lambda feed: {name.removesuffix("'"): array for name, array in session.run(feed).items()}


def given(found: Sequence[KroneckerBlock], inverses: Pairs, dtype: type) -> dict[str, np.ndarray]:
    """Inverses as a feed."""
    return {
        f"{block.layer}.{side}": inverses[block.layer][number].astype(dtype)
        for block in found
        for number, side in enumerate(("left", "right"))
    }


def steps(kfac: Kfac, net: onnx_ir.Model, weights: Arrays, slope: Callable, factors: Sequence[Pairs]) -> Arrays:
    """The weights after STEPS in ONNX Runtime; `slope` gives the gradient of a weight."""
    found, dtype = list(named(net).values()), weights["scale"].dtype.type
    step = step_of(kfac, Sgd(momentum=0.9), found, weights)
    state = dict(weights) | {f"{name}.momentum": np.zeros_like(array) for name, array in weights.items()}
    state |= {"scale.squares": np.zeros_like(weights["scale"])}
    inverses: dict[str, np.ndarray] = {}
    for number in range(STEPS):
        if number % EVERY == 0:
            pairs = factors[number // EVERY]
            measured = {b.layer: made(*pairs[b.layer], b.bias is not None) for b in found}
            inverses = given(found, kfac.inverses(found, measured), dtype)
        gradients = {f"{name}.gradient": slope(name, state[name]).astype(dtype) for name in weights}
        scalars = {"rate": np.array(RATE, np.float32), "count": np.array(number + 1, np.float32)}
        state = dict(step(state | gradients | inverses | scalars))
    return {name: state[name] for name in weights}


class Reference:
    """The same in numpy, with every block's Fisher matrix written out, for the parameters of NET by hand."""

    def __init__(self, kfac: Kfac, layers: Mapping[str, str], weights: Arrays):
        self.kfac, self.layers = kfac, layers
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}
        self.momenta = {name: np.zeros(array.shape) for name, array in weights.items()}
        self.square, self.fisher = np.zeros(5), {}

    def measure(self, pairs: Pairs) -> None:
        whole = [np.kron(g, a) for left, right in pairs.values() for g, a in zip(left, right, strict=True)]
        damping = self.kfac.damping * sum(np.trace(f) for f in whole) / sum(len(f) for f in whole)
        self.fisher = {name: [self.damped(*pair, damping) for pair in zip(*pairs[of], strict=True)]
                       for name, of in self.layers.items()}  # fmt: skip

    @staticmethod
    def damped(left: np.ndarray, right: np.ndarray, damping: float) -> np.ndarray:
        pi = np.sqrt((np.trace(right) / len(right)) / (np.trace(left) / len(left)))
        wide = right + pi * np.sqrt(damping) * np.eye(len(right))
        return np.kron(left + np.sqrt(damping) / pi * np.eye(len(left)), wide)

    def step(self, gradients: Arrays, count: int) -> None:
        joined = {
            "kernel": [
                np.concatenate([gradients["kernel"][k : k + 3].reshape(3, 6), gradients["shift"][k : k + 3, None]], 1)
                for k in (0, 3)
            ],
            "first": [np.concatenate([gradients["first"], gradients["bias"][:, None]], 1)],
            "second": [np.concatenate([gradients["second"].T, gradients["offset"][:, None]], 1)],
            "third": [gradients["third"].T],
        }
        natural = {
            name: [np.linalg.solve(f, d.ravel()).reshape(d.shape) for f, d in zip(self.fisher[name], ds, strict=True)]
            for name, ds in joined.items()
        }
        change = RATE**2 * sum(
            (d * n).sum() for name in joined for d, n in zip(joined[name], natural[name], strict=True)
        )
        nu = min(1.0, np.sqrt(self.kfac.clip / change))
        self.clipped = nu < 1
        one, two, three, four = (natural[name] for name in ("kernel", "first", "second", "third"))
        self.square = self.kfac.decay * self.square + (1 - self.kfac.decay) * gradients["scale"] ** 2
        root = np.sqrt(self.square / (1 - self.kfac.decay**count)) + self.kfac.epsilon
        self.move({
            "kernel": nu * np.concatenate([d[:, :-1] for d in one]).reshape(6, 2, 3),
            "shift": nu * np.concatenate([d[:, -1] for d in one]),
            "first": nu * two[0][:, :-1],
            "bias": nu * two[0][:, -1],
            "second": nu * three[0][:, :-1].T,
            "offset": nu * three[0][:, -1],
            "third": nu * four[0].T,
            "scale": self.kfac.others * gradients["scale"] / root,
        })  # fmt: skip

    def move(self, directions: Arrays) -> None:
        for name, direction in directions.items():
            self.momenta[name] = 0.9 * self.momenta[name] + direction
            self.weights[name] = self.weights[name] - RATE * self.momenta[name]


@pytest.mark.parametrize(
    ("kfac", "dtype", "tolerance"),
    [
        (Kfac(clip=1e9), np.float64, 1e-10),
        (Kfac(damping=0.1, clip=1e-4, others=0.3, decay=0.9), np.float64, 1e-10),
        (Kfac(damping=0.1, clip=1e-4, others=0.3, decay=0.9), np.float32, 1e-4),  # factors of condition 1e3
    ],
)
def test_a_hundred_steps_are_those_of_kronecker_products_written_out(
    net: onnx_ir.Model, rng: np.random.Generator, kfac: Kfac, dtype: type, tolerance: float
) -> None:
    start = {name: networks.weight(net, name).astype(dtype) for name in TRAINED}
    targets = {name: rng.normal(size=array.shape) for name, array in start.items()}
    factors = [drawn(rng, list(named(net).values())) for _ in range(STEPS // EVERY)]

    def slope(name: str, weight: np.ndarray) -> np.ndarray:
        return 0.1 * (weight - targets[name])

    reference, clipped = Reference(kfac, {name: block.layer for name, block in named(net).items()}, start), 0
    for number in range(STEPS):
        if number % EVERY == 0:
            reference.measure(factors[number // EVERY])
        reference.step({name: slope(name, weight) for name, weight in reference.weights.items()}, number + 1)
        clipped += reference.clipped
    assert (0 < clipped < STEPS) == (kfac.clip < 1)
    found = steps(kfac, net, start, slope, factors)
    for name in TRAINED:
        np.testing.assert_allclose(found[name], reference.weights[name], rtol=tolerance, atol=tolerance)
        assert np.abs(found[name] - start[name]).max() > 0.01


LINEAR = {
    "Gemm": "(double[N,4] x) => (double[N,3] y) <double[4,3] w, double[3] b> { y = Gemm(x, w, b) }",
    "Gemm, transB": "(double[N,4] x) => (double[N,3] y) <double[3,4] w, double[1,3] b> { y = Gemm<transB=1>(x, w, b) }",
    "MatMul, Add": "(double[N,4] x) => (double[N,3] y) <double[4,3] w, double[3] b> { m = MatMul(x, w) y = Add(m, b) }",
    "MatMul": "(double[N,4] x) => (double[N,3] y) <double[4,3] w> { y = MatMul(x, w) }",
    "Transpose": "(double[N,4] x) => (double[N,3] y) <double[3,4] w> { v = Transpose(w) y = MatMul(x, v) }",
    "Conv": "(double[N,4,1] x) => (double[N,3,1] y) <double[3,4,1] w, double[3] b> { y = Conv(x, w, b) }",
    "groups": "(double[N,4,1] x) => (double[N,6,1] y) <double[6,2,1] w, double[6] b> { y = Conv<group=2>(x, w, b) }",
}


@pytest.mark.parametrize("kind", LINEAR)
def test_one_step_solves_least_squares(kind: str, rng: np.random.Generator) -> None:
    """The Fisher matrix of a linear model with Gaussian noise is I kron A, and the loss is quadratic."""
    model = networks.unfolded(LINEAR[kind])
    (block,) = blocks(find_layers(model).found.values(), "wb")
    feed = networks.draw(model, 50)
    feed["x"] += 2  # a mean, which couples the weight to the bias
    target = rng.normal(size=computed(model, feed).shape)

    def loss(name: str, weight: np.ndarray) -> float:
        networks.set_weight(model, name, weight)
        return ((computed(model, feed) - target) ** 2).sum() / (2 * len(target))

    weights = {name: networks.weight(model, name) for name in block.names}
    rows = feed["x"].reshape(50, block.groups, -1)
    rows = rows if block.bias is None else np.concatenate([rows, np.ones((50, block.groups, 1))], axis=2)
    right = np.einsum("ngi,ngj->gij", rows, rows) / 50
    inverses = damped_inverses(np.tile(np.eye(block.out), (block.groups, 1, 1)), right, 0.0)
    step = step_of(Kfac(clip=1e9), Sgd(momentum=0.9), [block], weights)
    state = weights | {f"{name}.momentum": np.zeros_like(array) for name, array in weights.items()}
    slopes = {f"{name}.gradient": differences(loss, name, array) for name, array in weights.items()}
    scalars = {name: np.array(1, np.float32) for name in ("rate", "count")}
    after = step(state | slopes | scalars | given([block], {block.layer: inverses}, np.float64))
    for name in weights:
        networks.set_weight(model, name, after[name])
    residual = (computed(model, feed) - target).reshape(50, block.groups, block.out)
    fit = [np.linalg.lstsq(rows[:, k], target.reshape(50, block.groups, -1)[:, k])[0] for k in range(block.groups)]
    best = np.stack([rows[:, k] @ part for k, part in enumerate(fit)], axis=1) - target.reshape(residual.shape)
    np.testing.assert_allclose(residual, best, atol=1e-8)  # central differences of a quadratic, in float64


def computed(model: onnx_ir.Model, feed: Arrays) -> np.ndarray:
    """What ONNX's own reference computes: ONNX Runtime has no convolution in float64."""
    return ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, dict(feed))[0]


def differences(loss: Callable[[str, np.ndarray], float], name: str, weight: np.ndarray) -> np.ndarray:
    """The gradient of a quadratic loss, for which central differences are exact."""
    slope = np.zeros_like(weight)
    for at in np.ndindex(*weight.shape):
        shift = np.zeros_like(weight)
        shift[at] = 1e-2
        slope[at] = (loss(name, weight + shift) - loss(name, weight - shift)) / 2e-2
    loss(name, weight)
    return slope


def test_measured_factors_give_the_inverse_of_the_damped_fisher_matrix(net: onnx_ir.Model) -> None:
    model = networks.build(NET.replace("double", "float"))
    found = list(named(model).values())
    wants = [Want(block.layer, True) for block in found]
    feeds = [networks.draw(model, 40, seed) for seed in (1, 2)]
    measured = measure_factors(Bench.surveyed(model, find_heads(model), feeds, networks.execute, Curvature()), wants)
    inverses = Kfac(damping=1e-2).inverses(found, measured.factors)
    assert set(inverses) == {block.layer for block in found}
    first = named(model)["first"]
    left, right = inverses[first.layer]
    whole = measured.factors[first.layer].with_bias()
    np.testing.assert_allclose(np.linalg.inv(right)[0] - whole[0], np.eye(7) * added(right, whole), atol=1e-6)
    assert left.shape == (1, 4, 4)
    for inverse in (part for pair in inverses.values() for part in pair):
        assert (np.linalg.eigvalsh(inverse) > 0).all()


def added(inverse: np.ndarray, factor: np.ndarray) -> float:
    return float(np.trace(np.linalg.inv(inverse)[0] - factor[0]) / factor.shape[-1])


def test_damping_is_split_so_that_both_factors_get_the_same_share(rng: np.random.Generator) -> None:
    """In units of its own mean eigenvalue, however the scale is split between G and A."""
    left, right = definite(rng, 2, 3), 1e4 * definite(rng, 2, 5)
    shares = [
        np.einsum("gii->g", np.linalg.inv(inverse) - factor) / np.einsum("gii->g", factor)
        for inverse, factor in zip(damped_inverses(left, right, 0.7), (left, right), strict=True)
    ]
    np.testing.assert_allclose(shares[0], shares[1])
    again = damped_inverses(left * 1e3, right / 1e3, 0.7)
    for one, other, scale in zip(damped_inverses(left, right, 0.7), again, (1e-3, 1e3), strict=True):
        np.testing.assert_allclose(one * scale, other)


def test_a_block_without_curvature_is_inverted_as_its_damping() -> None:
    left, right = damped_inverses(np.zeros((1, 2, 2)), np.eye(3)[None], 0.25)
    np.testing.assert_allclose(left, 2 * np.eye(2)[None])
    np.testing.assert_allclose(right, np.eye(3)[None] / 1.5)


def test_the_mean_eigenvalue_is_that_of_all_blocks(rng: np.random.Generator) -> None:
    pairs = [(definite(rng, 2, 3), definite(rng, 2, 4)), (definite(rng, 1, 2), definite(rng, 1, 5))]
    values = [np.linalg.eigvalsh(np.kron(g, a)) for pair in pairs for g, a in zip(*pair, strict=True)]
    assert mean_eigenvalue(pairs) == pytest.approx(np.concatenate(values).mean())
    assert mean_eigenvalue([]) == 1.0


def test_a_bias_that_stays_or_belongs_to_another_layer_is_in_no_block() -> None:
    shared = networks.unfolded("""(float[N,3] x) => (float[N,3] y) <float[3,3] w, float[3,3] v, float[3] b>
        { h = Gemm(x, w, b) y = Gemm(h, v, b) }""")
    assert {name: block.names for name, block in named(shared, "wvb").items()} == {"w": ("w", "b"), "v": ("v",)}
    assert [block.names for block in named(shared, "v").values()] == [("v",)]


def test_a_very_wide_layer_has_no_block() -> None:
    wide = networks.unfolded("(float[N,8192] x) => (float[N,2] y) <float[8192,2] w, float[2] b> { y = Gemm(x, w, b) }")
    assert not named(wide, "wb")


def test_factors_that_lack_the_inputs_are_refused(net: onnx_ir.Model) -> None:
    block = named(net)["third"]
    unmeasured = Factors("expand", None, None, None, np.eye(5)[None], np.zeros((1, 5)), 1.0, np.ones(1), 1, 1.0, 1)
    with pytest.raises(ValueError, match=r"K-FAC needs the inputs and single outputs: Want\(layer, inputs=True\)"):
        Kfac().inverses([block], {block.layer: unmeasured})


def test_without_blocks_every_weight_is_scaled_by_its_own_squares() -> None:
    """The first step of Adam is the sign of the gradient."""
    weights = {"w": np.zeros((2, 2))}
    gradient = np.array([[1.0, -2.0], [1e-3, -5.0]])
    step = step_of(Kfac(others=0.5, epsilon=0), Sgd(), [], weights)
    state = {name: np.zeros((2, 2)) for name in ("w", "w.momentum", "w.squares")}
    after = step(state | {"w.gradient": gradient, "rate": np.array(1, np.float32), "count": np.array(1, np.float32)})
    np.testing.assert_allclose(after["w"], -0.5 * np.sign(gradient), rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"damping": 0.0}, "damping must be above 0, not 0.0"),
        ({"clip": -1.0}, "clip must be above 0, not -1.0"),
        ({"others": -1.0}, "others must be at least 0 and finite, not -1.0"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1, not 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Kfac(**settings)
