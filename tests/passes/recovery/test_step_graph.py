"""What a training step knows of its batch."""

import numpy as np
import onnx_ir
import pytest
from kronnx.passes.recovery.step_graph import StepGraph
from kronnx.runtime.sessions import Session
from networks import build

NETWORKS = {
    "samples first": ("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }", {"x": (3, 4)}),
    "a state": ("(float[N,4] x, float[8,N,4] s) => (float[8,N,4] y) { y = Add(x, s) }", {"x": (3, 4), "s": (8, 3, 4)}),
}


@pytest.mark.parametrize(("text", "shapes"), NETWORKS.values(), ids=NETWORKS)
def test_samples_are_counted_along_the_batch_axis(text: str, shapes: dict[str, tuple[int, ...]]) -> None:
    graph = StepGraph(build(text))
    graph.samples.name, graph.samples.dtype = "samples", onnx_ir.DataType.INT64
    graph.model.graph.outputs.append(graph.samples)
    feed = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    assert Session(graph.model).run(feed)["samples"].tolist() == [3]
