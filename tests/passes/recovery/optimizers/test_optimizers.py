"""Steps of the optimizers in ONNX Runtime are those of torch.optim."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir
import pytest
import torch
from kronnx.ir.autodiff.emitter import Emitter
from kronnx.ir.errors import UsageError
from kronnx.passes.recovery.optimizers.adam import Adam, AdaMax, AdamW
from kronnx.passes.recovery.optimizers.gradient_descent import Sgd
from kronnx.passes.recovery.optimizers.optimizer import Optimizer
from kronnx.passes.recovery.stage import OPTIMIZERS
from kronnx.runtime.sessions import Session

SHAPES = {"w": (7, 5), "b": (5,)}
RATE = 0.05  # in float32 and in float64 not the same number; torch is given the former
STEPS = 100
CASES: dict[str, tuple[Optimizer, Callable[[list], torch.optim.Optimizer]]] = {
    "sgd": (Sgd(), lambda p: torch.optim.SGD(p, 1, momentum=0.9)),
    "sgd-plain": (Sgd(momentum=0), lambda p: torch.optim.SGD(p, 1)),
    "sgd-plain-decay": (Sgd(momentum=0, weight_decay=0.1), lambda p: torch.optim.SGD(p, 1, weight_decay=0.1)),
    "sgd-decay": (Sgd(weight_decay=0.1), lambda p: torch.optim.SGD(p, 1, momentum=0.9, weight_decay=0.1)),
    "sgd-nesterov": (
        Sgd(momentum=0.8, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 1, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    "adam": (Adam(), lambda p: torch.optim.Adam(p)),
    "adam-decay": (
        Adam(beta1=0.8, beta2=0.99, epsilon=1e-3, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1),
    ),
    "adam-memoryless": (Adam(beta1=0, beta2=0, epsilon=0.1), lambda p: torch.optim.Adam(p, betas=(0.0, 0.0), eps=0.1)),
    "adamw": (AdamW(), lambda p: torch.optim.AdamW(p)),
    "adamw-decay": (AdamW(weight_decay=0.5), lambda p: torch.optim.AdamW(p, weight_decay=0.5)),
    "adamw-no-decay": (AdamW(weight_decay=0), lambda p: torch.optim.AdamW(p, weight_decay=0)),
    "adamax": (AdaMax(), lambda p: torch.optim.Adamax(p)),
    "adamax-decay": (
        AdaMax(beta1=0.7, beta2=0.9, epsilon=1e-2, weight_decay=0.1),
        lambda p: torch.optim.Adamax(p, betas=(0.7, 0.9), eps=1e-2, weight_decay=0.1),
    ),
}


def model_of(optimizer: Optimizer, dtype: type, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> onnx_ir.Model:
    """One step on weights of these shapes: name, name.gradient, name.slot, rate and count in; name', name.slot' out."""
    kind = onnx_ir.DataType.from_numpy(np.dtype(dtype))
    graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="step")
    emit = Emitter(graph)

    def entry(name: str, shape: tuple[int, ...] = (), kind: onnx_ir.DataType = onnx_ir.DataType.FLOAT) -> onnx_ir.Value:
        graph.inputs.append(onnx_ir.val(name, kind, shape))
        return graph.inputs[-1]

    rate, count = entry("rate"), entry("count")
    for name, shape in shapes.items():
        slots = {slot: entry(f"{name}.{slot}", shape, kind) for slot in optimizer.slots(np.zeros(shape, dtype))}
        weight, gradient = entry(name, shape, kind), entry(f"{name}.gradient", shape, kind)
        after = optimizer.update(emit, weight, gradient, slots, rate, count)
        assert set(after.slots) == set(slots)
        for old, new in {name: after.weight, **{f"{name}.{slot}": v for slot, v in after.slots.items()}}.items():
            new.name = f"{old}'"
            graph.outputs.append(new)
    return onnx_ir.Model(graph, ir_version=10)


def steps_of(optimizer: Optimizer, start: Mapping[str, np.ndarray], gradient: Callable, rates: list) -> dict:
    """Weights and slots after as many steps as there are rates."""
    session = Session(model_of(optimizer, start["w"].dtype.type))
    state = dict(start)
    for name in start:
        state |= {f"{name}.{slot}": array for slot, array in optimizer.slots(start[name]).items()}
    for count, rate in enumerate(rates, 1):
        gradients = {f"{name}.gradient": gradient(name, state[name], count) for name in start}
        scalars = {"rate": np.float32(rate), "count": np.float32(count)}
        after = session.run(state | gradients | {k: np.asarray(v) for k, v in scalars.items()})
        state = {name.removesuffix("'"): array for name, array in after.items()}
    return state


def torch_steps(make: Callable, start: Mapping[str, np.ndarray], gradient: Callable, rates: list) -> dict:
    weights = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in start.items()}
    optimizer = make(list(weights.values()))
    for count, rate in enumerate(rates, 1):
        for name, weight in weights.items():
            weight.grad = torch.tensor(gradient(name, weight.detach().numpy(), count))
        optimizer.param_groups[0]["lr"] = float(np.float32(rate))
        optimizer.step()
    return {name: weight.detach().numpy() for name, weight in weights.items()}


@pytest.fixture
def start(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


@pytest.fixture
def gradient(rng: np.random.Generator) -> Callable:
    """Of a convex loss whose minimum moves with the steps."""
    noise = {name: rng.normal(size=(STEPS + 1, *shape)) for name, shape in SHAPES.items()}
    return lambda name, weight, count: (weight + np.tanh(2 * weight) + noise[name][count]).astype(weight.dtype)


@pytest.mark.parametrize("case", CASES)
def test_a_hundred_steps_in_float64_are_those_of_torch(case: str, start: dict, gradient: Callable) -> None:
    optimizer, make = CASES[case]
    rates = [RATE / (1 + k / 10) for k in range(STEPS)]
    found, expected = (run(kind, start, gradient, rates) for run, kind in ((steps_of, optimizer), (torch_steps, make)))
    for name in SHAPES:
        # folded factors change the order of rounding, and sgd amplifies it by 1 / (1 - momentum)
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-11, atol=1e-12)
        assert np.abs(expected[name] - start[name]).max() > 0.1


@pytest.mark.parametrize("case", CASES)
def test_a_hundred_steps_in_float32_are_those_of_torch(case: str, start: dict, gradient: Callable) -> None:
    optimizer, make = CASES[case]
    single = {name: array.astype(np.float32) for name, array in start.items()}
    found, expected = (
        run(kind, single, gradient, [RATE] * STEPS) for run, kind in ((steps_of, optimizer), (torch_steps, make))
    )
    for name in SHAPES:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)  # 100 steps of rounding


@pytest.mark.parametrize("case", CASES)
def test_a_slot_is_read_only_by_what_its_new_value_depends_on(case: str) -> None:
    optimizer, _ = CASES[case]
    graph = model_of(optimizer, np.float32).graph
    inputs = {value.name: value for value in graph.inputs}
    for new in graph.outputs:
        old = inputs[str(new.name).removesuffix("'")]
        assert {use.node for use in old.uses()} <= ancestors(new)


def ancestors(value: onnx_ir.Value) -> set[onnx_ir.Node]:
    found, open_ = set(), [value.producer()]
    while open_:
        node = open_.pop()
        if node is not None and node not in found:
            found.add(node)
            open_.extend(v.producer() for v in node.inputs if v is not None)
    return found


@pytest.mark.parametrize(("name", "passes"), [("sgd", 4), ("adam", 10), ("adamw", 11), ("adamax", 9)])
def test_a_further_weight_costs_only_passes_over_itself(name: str, passes: int) -> None:
    one, three = (
        len(model_of(OPTIMIZERS[name](), np.float32, dict.fromkeys(weights, (2,))).graph) for weights in ("a", "abc")
    )
    assert three - one == 2 * passes


@pytest.mark.parametrize("kind", [Sgd, Adam, AdamW, AdaMax])
def test_no_weight_decay_costs_nothing(kind: type) -> None:
    with_, without = (len(model_of(kind(weight_decay=decay), np.float32).graph) for decay in (0.1, 0.0))
    assert without < with_


@pytest.mark.parametrize("kind", [Sgd, Adam, AdaMax])
def test_a_weight_without_a_gradient_stays(kind: type, start: dict) -> None:
    found = steps_of(kind(), start, lambda name, weight, count: np.zeros_like(weight), [RATE] * 3)
    for name in SHAPES:
        np.testing.assert_array_equal(found[name], start[name])


def test_adam_moves_by_the_rate_in_its_first_step_however_small_the_gradient(start: dict) -> None:
    """Kingma and Ba, 2015, section 2.1; in float32 a 1 - beta2^1 of float32 would show as an error of 3e-5."""
    single = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    found = steps_of(Adam(epsilon=0), single, lambda name, weight, count: np.full_like(weight, -1e-12), [RATE])
    np.testing.assert_allclose(found["w"], RATE, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Sgd, {"momentum": 1.0}, "momentum must be at least 0 and below 1, not 1.0"),
        (Sgd, {"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum above 0"),
        (Adam, {"beta2": -0.1}, "beta2 must be at least 0 and below 1, not -0.1"),
        (AdamW, {"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, not -1.0"),
        (AdaMax, {"epsilon": float("inf")}, "epsilon must be at least 0 and finite, not inf"),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**settings)
