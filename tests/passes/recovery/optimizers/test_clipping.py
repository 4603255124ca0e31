"""Gradients are clipped as torch.nn.utils clips them."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir
import pytest
import torch
from kronnx.ir.autodiff.emitter import Emitter
from kronnx.passes.recovery.optimizers.clipping import clip_by_value, global_norm, norm_scale
from kronnx.passes.recovery.scalars import cast
from kronnx.runtime.sessions import Session

SHAPES = ((4, 3), (5,), (2, 3, 2))


def run(arrays: Sequence[np.ndarray], emitted: Callable[[Emitter, list], list]) -> list[np.ndarray]:
    """What the values that `emitted` makes of graph inputs are for these arrays."""
    graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="clip")
    for number, array in enumerate(arrays):
        graph.inputs.append(onnx_ir.val(f"g{number}", onnx_ir.DataType.from_numpy(array.dtype), array.shape))
    graph.outputs.extend(emitted(Emitter(graph), list(graph.inputs)))
    session = Session(onnx_ir.Model(graph, ir_version=10))
    return list(session.run({f"g{number}": array for number, array in enumerate(arrays)}).values())


@pytest.fixture
def gradients(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=shape) for shape in SHAPES]


def by_norm(emit: Emitter, values: list, largest: float) -> list:
    scale = norm_scale(emit, global_norm(emit, values), largest)
    return [emit.op("Mul", value, cast(emit, scale, value.dtype)) for value in values]


def torch_clipped(gradients: Sequence[np.ndarray], clip: Callable) -> list[np.ndarray]:
    parameters = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    clip(parameters)
    return [p.grad.numpy() for p in parameters if p.grad is not None]


@pytest.mark.parametrize("largest", [0.0, 1e-7, 0.5, 1e3])
def test_clipping_by_norm_is_that_of_torch(gradients: list, largest: float) -> None:
    found = run(gradients, lambda emit, values: by_norm(emit, values, largest))
    expected = torch_clipped(gradients, lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, largest))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


def test_clipping_by_value_is_that_of_torch(gradients: list) -> None:
    found = run(gradients, lambda emit, values: [clip_by_value(emit, v, 0.5) for v in values])
    expected = torch_clipped(gradients, lambda parameters: torch.nn.utils.clip_grad_value_(parameters, 0.5))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.abs(one).max() == 0.5


@pytest.mark.parametrize("count", [1, 3])
def test_the_norm_is_that_of_all_elements(gradients: list, count: int) -> None:
    (found,) = run(gradients[:count], lambda emit, values: [global_norm(emit, values)])
    assert found.shape == ()
    np.testing.assert_allclose(found, np.linalg.norm(np.concatenate([g.ravel() for g in gradients[:count]])), 1e-14)


def test_gradients_of_several_types_have_one_norm_and_keep_their_types(gradients: list) -> None:
    mixed = [gradients[0].astype(np.float32), gradients[1]]
    found = run(mixed, lambda emit, values: by_norm(emit, values, 0.5))
    assert [one.dtype for one in found] == [np.float32, np.float64]
    assert np.sqrt(sum((one**2).sum() for one in found)) == pytest.approx(0.5, rel=1e-5)  # the 1e-6, and float32


def test_the_norm_takes_gradients_of_which_no_type_is_known(gradients: list) -> None:
    (found,) = run(gradients, lambda emit, values: [global_norm(emit, [emit.op("Neg", v) for v in values])])
    assert found == pytest.approx(np.sqrt(sum((g**2).sum() for g in gradients)), rel=1e-6)  # in float32


def test_small_gradients_are_not_scaled(gradients: list) -> None:
    (found,) = run(gradients, lambda emit, values: [norm_scale(emit, global_norm(emit, values), 1e3)])
    assert found == 1.0


def test_gradients_that_are_zero_stay_zero() -> None:
    zeros = [np.zeros(3, np.float32)]
    (found,) = run(zeros, lambda emit, values: by_norm(emit, values, 1.0))
    np.testing.assert_array_equal(found, zeros[0])


def test_there_is_no_norm_of_no_gradients() -> None:
    with pytest.raises(ValueError, match="no gradient"):
        run([], lambda emit, values: [global_norm(emit, values)])
