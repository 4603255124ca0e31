"""Losses and their derivatives in closed form against torch, which differentiates by itself, in float64."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir
import pytest
import torch
from kronnx.ir.autodiff.emitter import Emitter
from kronnx.ir.output_heads import Distribution, Head
from kronnx.passes.recovery.training.losses import Loss, Losses
from kronnx.runtime.sessions import Session
from torch.nn import functional

DOUBLE, INT64 = onnx_ir.DataType.DOUBLE, onnx_ir.DataType.INT64
SHAPES = [(6, 5), (4, 3, 5), (2, 3, 4, 5)]

Build = Callable[..., Loss]
Found = tuple[float, np.ndarray]


def computed(build: Build, arrays: Sequence[np.ndarray], dims: Sequence[Sequence[int | str]] | None = None) -> Found:
    """The value and the seed of `build(losses, *inputs)` in ONNX Runtime."""
    shapes = [array.shape for array in arrays] if dims is None else dims
    kinds = [onnx_ir.DataType.from_numpy(array.dtype) for array in arrays]
    inputs = [onnx_ir.val(f"in{k}", kind, shape) for k, (kind, shape) in enumerate(zip(kinds, shapes, strict=True))]
    graph = onnx_ir.Graph(inputs, [], nodes=[], opset_imports={"": 20}, name="loss")
    loss = build(Losses(Emitter(graph), kinds[0]), *inputs)
    loss.value.name, loss.seed.name = "value", "seed"
    graph.outputs.extend((loss.value, loss.seed))
    feed: Mapping[str, np.ndarray] = {f"in{k}": array for k, array in enumerate(arrays)}
    value, seed = Session(onnx_ir.Model(graph, ir_version=10)).run(feed).values()
    assert value.shape == ()
    assert value.dtype == seed.dtype == arrays[0].dtype
    return float(value), seed


def differentiated(loss: Callable[[torch.Tensor], torch.Tensor], student: np.ndarray) -> Found:
    """The value and the gradient by torch."""
    given = torch.tensor(student, requires_grad=True)
    value = loss(given)
    value.backward()
    assert given.grad is not None
    return float(value.detach()), given.grad.numpy()


def assert_equal(given: Found, wanted: Found, rtol: float = 1e-10, atol: float = 1e-13) -> None:
    assert given[0] == pytest.approx(wanted[0], rel=rtol, abs=atol)
    np.testing.assert_allclose(given[1], wanted[1], rtol=rtol, atol=atol)


def divergence(target: np.ndarray, temperature: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """tau^2 KL by torch, mean over positions; `target` are logits."""

    def loss(student: torch.Tensor) -> torch.Tensor:
        log_p, log_q = (functional.log_softmax(v / temperature, -1) for v in (torch.tensor(target), student))
        flat = (v.reshape(-1, target.shape[-1]) for v in (log_q, log_p))
        return temperature**2 * functional.kl_div(*flat, reduction="batchmean", log_target=True)

    return loss


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_divergence_is_that_of_torch(shape: tuple[int, ...], temperature: float, rng: np.random.Generator) -> None:
    student, target = 3 * rng.normal(size=(2, *shape))
    given = computed(lambda losses, s, t: losses.divergence(s, t, temperature), [student, target])
    assert_equal(given, differentiated(divergence(target, temperature), student))


@pytest.mark.parametrize("scale", ["logits", "log_probabilities", "probabilities"])
def test_a_categorical_head_is_compared_by_its_logits(scale: str, rng: np.random.Generator) -> None:
    student, target = 3 * rng.normal(size=(2, 6, 5))
    given = computed(of_head(Head("y", "categorical", scale), 3.0), [student, target])
    assert_equal(given, differentiated(divergence(target, 3.0), student))


def of_head(head: Head, temperature: float, scale: str = "logits", axis: int = -1, samples: int = 6) -> Build:
    def build(losses: Losses, student: onnx_ir.Value, target: onnx_ir.Value) -> Loss:
        given = Distribution(student, scale, axis)
        return losses.of_head(head, given, target, temperature, losses.emit.int64([samples]))

    return build


def test_classes_may_lie_on_any_axis(rng: np.random.Generator) -> None:
    student, target = 3 * rng.normal(size=(2, 4, 5, 3, 2))
    value, seed = computed(of_head(Head("y", "categorical", "logits"), 2.0, axis=1), [student, target])
    last = [np.moveaxis(one, 1, -1) for one in (student, target)]
    assert_equal((value, np.moveaxis(seed, 1, -1)), differentiated(divergence(last[1], 2.0), last[0]))


def decisions(target: np.ndarray, temperature: float, samples: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """tau^2 KL of decisions by torch, over their effective number; `target` are log-odds."""
    given = torch.tensor(target)
    odds = torch.sigmoid(given)
    effective = torch.clamp(torch.minimum(odds.sum(), (1 - odds).sum()), samples, odds.numel())

    def loss(student: torch.Tensor) -> torch.Tensor:
        p = torch.distributions.Bernoulli(logits=given / temperature)
        q = torch.distributions.Bernoulli(logits=student / temperature)
        return temperature**2 * torch.distributions.kl_divergence(p, q).sum() / effective

    return loss


@pytest.mark.parametrize("shift", [0.0, -4.0, 4.0], ids=["even", "rare", "rarely not"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 5, 7)])
def test_decisions_are_compared_as_torch_compares_them(
    shape: tuple[int, ...], temperature: float, shift: float, rng: np.random.Generator
) -> None:
    student, target = rng.normal(size=(2, *shape)) + shift
    given = computed(of_head(Head("y", "bernoulli", "logits"), temperature), [student, target])
    assert_equal(given, differentiated(decisions(target, temperature, 6), student))


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_probabilities_that_no_logits_are_known_of_are_compared_themselves(kind: str, rng: np.random.Generator) -> None:
    """The derivative by probabilities that sum to one is up to a constant, which leads nowhere: it is compared behind
    the function that gives them."""
    student, target = rng.normal(size=(2, 6, 5))
    function = (lambda z: torch.softmax(z, -1)) if kind == "categorical" else torch.sigmoid
    p, q = (function(torch.tensor(one)) for one in (target, student))
    value, seed = computed(of_head(Head("y", kind, "probabilities"), 1.0, "probabilities"), [q.numpy(), p.numpy()])
    _, found = differentiated(lambda z: (function(z) * torch.tensor(seed)).sum(), student)
    loss = divergence(target, 1.0) if kind == "categorical" else decisions(target, 1.0, 6)
    assert_equal((value, found), differentiated(loss, student), rtol=1e-6)


@pytest.mark.parametrize("kind", ["categorical", "bernoulli", "gaussian"])
def test_what_is_never_adds_nothing(kind: str, rng: np.random.Generator) -> None:
    """Masked logits, and a row of nothing else, beside the same ones that are finite; most decisions are no."""
    student, target = rng.normal(size=(2, 6, 5)) - 1
    never = np.zeros((6, 5), bool)
    never[:, 3] = True
    hidden = [np.where(never, -np.inf, one) for one in (student, target)]
    value, seed = computed(of_head(Head("y", kind, "logits"), 1.0), hidden)
    assert not seed[:, 3].any()
    assert np.isfinite(seed).all()
    kept = [one[:, [0, 1, 2, 4]] for one in (student, target)]
    wanted_value, wanted = computed(of_head(Head("y", kind, "logits"), 1.0), kept)
    assert value == pytest.approx(wanted_value)
    np.testing.assert_allclose(seed[:, [0, 1, 2, 4]], wanted)
    nothing = np.full((6, 5), -np.inf)
    assert computed(of_head(Head("y", kind, "logits"), 1.0), [nothing, nothing])[0] == pytest.approx(0)


@pytest.mark.parametrize("shape", [(6,), (6, 1), *SHAPES])
def test_a_gaussian_head_is_half_of_the_squared_relative_error(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    student, target = rng.normal(size=(2, *shape))
    head, wanted = Head("y", "gaussian", "raw"), torch.tensor(target)
    given = computed(of_head(head, 5.0, "raw"), [student, target])
    assert_equal(given, differentiated(lambda y: 0.5 * (y - wanted).square().sum() / wanted.square().sum(), student))


def test_the_squared_error_of_zeros_is_finite() -> None:
    value, seed = computed(lambda losses, s, t: losses.squared(s, t), [np.zeros((3, 2)), np.zeros((3, 2))])
    assert value == 0
    assert not seed.any()


def test_the_cross_entropy_is_that_of_torch(rng: np.random.Generator) -> None:
    logits, labels = 3 * rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
    given = computed(lambda losses, s, t: losses.cross_entropy(s, t), [logits, labels])
    assert_equal(given, differentiated(lambda y: functional.cross_entropy(y, torch.tensor(labels)), logits))


@pytest.mark.parametrize("shape", [(7,), (7, 1)])
def test_the_cross_entropy_of_decisions_is_that_of_torch(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    logits, labels = 3 * rng.normal(size=shape), rng.integers(0, 2, 7)
    given = computed(lambda losses, s, t: losses.binary_cross_entropy(s, t), [logits, labels])
    yes = torch.tensor(labels.reshape(shape), dtype=torch.float64)
    assert_equal(given, differentiated(lambda z: functional.binary_cross_entropy_with_logits(z, yes), logits))


def test_losses_of_one_value_are_mixed_by_their_weights(rng: np.random.Generator) -> None:
    logits, target = rng.normal(size=(2, 7, 5))
    labels = rng.integers(0, 5, 7)

    def build(losses: Losses, student: onnx_ir.Value, given: onnx_ir.Value, classes: onnx_ir.Value) -> Loss:
        parts = (0.75, losses.divergence(student, given, 2.0)), (0.25, losses.cross_entropy(student, classes))
        return losses.mixed(parts)

    def wanted(y: torch.Tensor) -> torch.Tensor:
        return 0.75 * divergence(target, 2.0)(y) + 0.25 * functional.cross_entropy(y, torch.tensor(labels))

    assert_equal(computed(build, [logits, target, labels]), differentiated(wanted, logits))


def test_the_mean_is_over_the_positions_that_there_are(rng: np.random.Generator) -> None:
    student, target = rng.normal(size=(2, 4, 3, 5))
    dims = [["N", "T", 5]] * 2
    given = computed(lambda losses, s, t: losses.divergence(s, t, 1.0), [student, target], dims)
    assert_equal(given, differentiated(divergence(target, 1.0), student))


def test_sure_logits_stay_finite_in_single_precision(rng: np.random.Generator) -> None:
    """exp(200) is beyond float32."""
    student, target = (200 * rng.normal(size=(2, 6, 5))).astype(np.float32)
    given = computed(lambda losses, s, t: losses.divergence(s, t, 1.0), [student, target])
    wanted = differentiated(divergence(target.astype(np.float64), 1.0), student.astype(np.float64))
    assert_equal(given, wanted, rtol=1e-5, atol=1e-6)  # float32
