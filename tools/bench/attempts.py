"""What one attempt of the planner costs, by the depth of a network: CPU seconds of `prune` and of `svd`.

python -m kronnx.tools.bench.attempts --write docs/benchmarks.md
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from ...ir.cleanup.normalize import normalize
from ...passes.curvature.moments import Moments, Want
from ...passes.planning.proposal import Pass
from ...passes.planning.stages import StageRunner
from ...passes.prune import Prune
from ...passes.svd import Svd
from ...runtime.sessions import Session
from .tables import fill, machine, markdown

DEPTHS = (20, 40, 80, 160, 320)
WIDTH = 16
SECTION = "bench.attempts"
STAGES: tuple[Pass, ...] = (Prune(), Svd())
ALL = 1e9  # nats for the whole model: a price at which every site is changed
TURNS = 3


def network(depth: int) -> onnx_ir.Model:
    """`depth` times Gemm and Relu, all WIDTH wide, with random weights."""
    random, nodes, weights = np.random.default_rng(0), [], []
    for k in range(depth):
        matrix = (random.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32)
        weights += [numpy_helper.from_array(matrix, f"w{k}"), numpy_helper.from_array(matrix[0], f"b{k}")]
        nodes.append(helper.make_node("Gemm", [f"x{k}", f"w{k}", f"b{k}"], [f"h{k}"], f"gemm{k}"))
        nodes.append(helper.make_node("Relu", [f"h{k}"], [f"x{k + 1}"], f"relu{k}"))
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("x0", f"x{depth}"))
    given, result = ([end] for end in ends)
    graph = helper.make_graph(nodes, "net", given, result, weights)
    opsets = [helper.make_opsetid("", 20)]
    return normalize(onnx_ir.from_proto(helper.make_model(graph, ir_version=10, opset_imports=opsets)))


def made_up(_: onnx_ir.Model, wants: Sequence[Want]) -> Mapping[str, Moments]:
    """Random moments: what is timed is the planner, not the curvature."""
    random = np.random.default_rng(1)
    return {want.layer: Moments(_positive(random), _positive(random), np.zeros((1, WIDTH))) for want in wants}


def _positive(random: np.random.Generator) -> np.ndarray:
    samples = random.normal(size=(2 * WIDTH, WIDTH))
    return (samples.T @ samples / len(samples))[None]


def seconds(stage: Pass, depth: int) -> float:
    """CPU seconds of one attempt that changes all it can, everything that prices share known: the least of TURNS."""
    sample = {"x0": np.zeros((1, WIDTH), np.float32)}
    whole = depth * WIDTH**2
    given = network(depth), (stage,), sample, lambda model: Session(model).run, None
    runner = StageRunner(*given, lambda saving: saving.parameters / whole, made_up)
    runner.attempt(0.0)
    return min(_timed(runner) for _ in range(TURNS))


def _timed(runner: StageRunner) -> float:
    start = time.process_time()
    runner.attempt(ALL)
    return time.process_time() - start


def table(depths: Sequence[int] = DEPTHS) -> str:
    """The seconds of each pass by the number of layers."""
    rows = [[str(depth), *(f"{seconds(stage, depth):.2f} s" for stage in STAGES)] for depth in depths]
    return markdown(["layers", *(stage.name for stage in STAGES)], rows)


def main() -> None:
    parser = argparse.ArgumentParser("kronnx.tools.bench.attempts", description=__doc__)
    parser.add_argument("--write", type=Path, help="the file whose section is filled in")
    options = parser.parse_args()
    text = f"{table()}\n\n{machine(1)}"
    print(text)
    if options.write is not None:
        fill(options.write, SECTION, text)


if __name__ == "__main__":
    main()
