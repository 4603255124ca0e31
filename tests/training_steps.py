"""Training steps on small graphs: what tests of recovery share."""

from collections.abc import Iterable, Mapping, Sequence

import networks
import numpy as np
import onnx_ir
from kronnx.ir.model import clone
from kronnx.ir.output_heads import distribution, find_heads
from kronnx.passes.recovery.optimizers.gradient_descent import Sgd
from kronnx.passes.recovery.step_graph import COUNT, LOSS, RATE
from kronnx.passes.recovery.trainable import Weight, trainable
from kronnx.passes.recovery.training.objective import Objective
from kronnx.passes.recovery.training.training_step import TrainingStep, training_step
from kronnx.passes.recovery.training.update import Rules
from kronnx.runtime.training import Training

Arrays = Mapping[str, np.ndarray]
PLAIN = Rules(Sgd(momentum=0.0), largest_norm=None)


def step_of(
    model: onnx_ir.Model,
    objective: Objective | None = None,
    rules: Rules = PLAIN,
    weights: Sequence[Weight] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> TrainingStep:
    """The step of all weights of a model towards all of its outputs."""
    heads = find_heads(model, kinds)
    return training_step(
        model, heads, trainable(model) if weights is None else weights, objective or Objective(), rules
    )


def training_of(step: TrainingStep) -> Training:
    return Training(step.model, step.state, step.updates, step.in_place)


def disturbed(model: onnx_ir.Model, names: Iterable[str], scale: float = 0.3, seed: int = 5) -> onnx_ir.Model:
    """A copy of the model whose constants `names` are off by noise of `scale` times their own spread."""
    copy, random = clone(model), np.random.default_rng(seed)
    for name in names:
        array = networks.weight(copy, name)
        networks.set_weight(copy, name, array + scale * array.std() * random.normal(size=array.shape))
    return copy


def with_targets(
    step: TrainingStep, original: onnx_ir.Model, feed: Arrays, kinds: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The feed with what the step compares, as `original` computes it: of a head, what its distribution is of."""
    probe, heads = clone(original), {head.output: head for head in find_heads(original, kinds)}
    known = {str(v.name): v for node in probe.graph for v in node.outputs}
    values = {n: distribution(probe, heads[n]).value if n in heads else known[n] for n in step.targets}
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(dict.fromkeys(values.values()))
    found = networks.execute(probe)(feed)
    return {**feed, **{step.targets[name]: found[str(value.name)] for name, value in values.items()}}


def stepped(training: Training, feed: Arrays, rate: float, count: int) -> float:
    """The loss of one step."""
    numbers = {RATE: np.array(rate, np.float32), COUNT: np.array(count, np.float32)}
    return float(training.step({**feed, **numbers})[LOSS])


def trained(
    step: TrainingStep, feeds: Iterable[Arrays], rate: float = 0.01
) -> tuple[dict[str, np.ndarray], list[float]]:
    """The weights after a step on each feed, and the losses."""
    training = training_of(step)
    losses = [stepped(training, feed, rate, count) for count, feed in enumerate(feeds, 1)]
    return step.tuned(training.read(step.learnt)), losses
