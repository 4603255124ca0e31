"""The two sides of bench.training, Kronnx and torch: the same steps of the same training on the same batch.

    python -m kronnx.tools.bench.training_sides NAME kronnx|torch [--threads N] [--cache DIR]

As a command it measures one side's memory, in a process of its own, and prints MiB.
"""

import sys
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from ...passes.recovery.optimizers.adam import Adam
from ...passes.recovery.step_graph import COUNT, LOSS, RATE
from ...passes.recovery.training.objective import Objective
from ...passes.recovery.training.training_step import training_step
from ...passes.recovery.training.update import Rules
from ...runtime.sessions import Target
from ...runtime.training import Training
from .training_cases import CASES, LARGEST_NORM, LEARNING_RATE, Case, Lesson, lesson
from .turns import peak_mib, side_options

MEASURED = 3  # steps whose memory is measured: from the second on there is what the one before has left


class Side(Protocol):
    """A way to train. `begin` makes ready; `step` gives the loss before it; `gradients` are those of the first step, by
    weight, once it alone is made."""

    def begin(self) -> None: ...

    def step(self) -> float: ...

    def gradients(self) -> Mapping[str, np.ndarray]: ...


class Kronnx:
    """The step graph, run by ONNX Runtime."""

    def __init__(self, taught: Lesson, threads: int) -> None:
        self.lesson, self.target = taught, Target("cpu", threads)
        self.count = 0

    def begin(self) -> None:
        taught, rules = self.lesson, Rules(Adam(), largest_norm=LARGEST_NORM)
        made = training_step(taught.model, [taught.head], taught.weights, Objective(), rules)
        self.training = Training(made.model, made.state, made.updates, made.in_place, self.target)
        rate = np.array(LEARNING_RATE, np.float32)
        self.feed = {**taught.feed, made.targets[taught.head.output]: taught.target, RATE: rate}

    def step(self) -> float:
        self.count += 1
        return float(self.training.step({**self.feed, COUNT: np.array(self.count, np.float32)})[LOSS])

    def gradients(self) -> Mapping[str, np.ndarray]:
        """Adam's decayed sums, which begin with the first gradients."""
        assert self.count == 1
        names = [weight.name for weight in self.lesson.weights]
        sums = self.training.read(f"{name}/sum" for name in names)
        return {name: sums[f"{name}/sum"] for name in names}


def torch_side(case: Case, taught: Lesson, threads: int, exact: bool = False) -> Side:
    """PyTorch's training of the case, in float64 where `exact`."""
    from .training_torch import Torch

    return Torch(case.network, taught, threads, exact)


def main() -> int:
    options = side_options("training_sides", CASES)
    with threadpool_limits(options.threads):
        case, threads = CASES[options.name], options.threads
        taught = lesson(case, options.cache)
        side = Kronnx(taught, threads) if options.side == "kronnx" else torch_side(case, taught, threads)
        print(peak_mib(lambda: _train(side)))
    return 0


def _train(side: Side) -> None:
    side.begin()
    for _ in range(MEASURED):
        side.step()


if __name__ == "__main__":
    sys.exit(main())
