"""Models with the gradients of all their inputs, and the engines to run them."""

from dataclasses import dataclass
from types import SimpleNamespace

import onnx
import onnx_ir
import pytest
from adjoint import differentiated, outputs_of, reference, runtime


@dataclass(frozen=True)
class Differentiated:
    """A model's first output alone, and the gradients of all its inputs given a seed u_<output>."""

    forward: onnx.ModelProto
    backward: onnx.ModelProto


def by_inputs(model: onnx_ir.Model) -> Differentiated:
    y = model.graph.outputs[0].name or ""
    wrt = [v.name or "" for v in model.graph.inputs]
    forward = outputs_of(model, [y])
    result = differentiated(model, [y], wrt)
    return Differentiated(forward, outputs_of(model, [g.name or "" for g in result.values.values()]))


@pytest.fixture
def engines() -> SimpleNamespace:
    return SimpleNamespace(differentiated=by_inputs, reference=reference, runtime=runtime)
