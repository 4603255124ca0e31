"""Pieces of a graph run by themselves, and in steps of gradient descent: arrays become inputs, what is emitted on them
the outputs."""

from collections.abc import Callable, Mapping, Sequence

import networks
import numpy as np
import onnx_ir
from kronnx.ir.autodiff import gradients
from kronnx.ir.autodiff.emitter import Emitter
from kronnx.ir.layers import Layer, find_layers
from kronnx.ir.model import clone

Values = Mapping[str, onnx_ir.Value]


def emitted(build: Callable[..., onnx_ir.Value], *arrays: np.ndarray) -> np.ndarray:
    """What `build(emitter, *values)` computes in ONNX Runtime on the arrays."""
    inputs = [
        onnx_ir.val(f"in{k}", onnx_ir.DataType.from_numpy(array.dtype), array.shape) for k, array in enumerate(arrays)
    ]
    graph = onnx_ir.Graph(inputs, [], nodes=[], opset_imports={"": 20}, name="piece")
    result = build(Emitter(graph), *inputs)
    if result in inputs:
        return arrays[inputs.index(result)]
    graph.outputs.append(result)
    feed = {str(value.name): array for value, array in zip(inputs, arrays, strict=True)}
    (found,) = networks.execute(onnx_ir.Model(graph, ir_version=10))(feed).values()
    return found


def layer_of(text: str) -> Layer:
    """The first layer of an ONNX text; a transposed weight stays behind its Transpose."""
    return next(iter(find_layers(networks.unfolded(text)).found.values()))


def matrix(layer: Layer, stored: np.ndarray) -> np.ndarray:
    """W [groups * out, in] in float64 of a layer whose constant is `stored`."""
    before = layer.weight.const_value
    layer.weight.const_value = onnx_ir.tensor(np.ascontiguousarray(stored))
    try:
        return layer.matrix().reshape(layer.groups * layer.out, layer.inputs)
    finally:
        layer.weight.const_value = before


def as_inputs(model: onnx_ir.Model, names: Sequence[str]) -> dict[str, onnx_ir.Value]:
    """Makes inputs of the initializers `names`."""
    found = {}
    for name in names:
        old = model.graph.initializers.pop(name)
        found[name] = onnx_ir.val(name, old.dtype, old.shape)
        old.replace_all_uses_with(found[name])
    model.graph.inputs.extend(found.values())
    return found


def descended(
    model: onnx_ir.Model,
    feed: Mapping[str, np.ndarray],
    target: np.ndarray,
    weights: Sequence[str],
    rate: float,
    steps: int,
    project: Callable[[Emitter, Values, onnx_ir.Value], Values],
) -> dict[str, np.ndarray]:
    """The initializers `weights` after steps of gradient descent of 1/2 ||y - target||^2, mean over samples, each
    followed by `project(emitter, weights, rate)`. The model stays as it is."""
    step = clone(model)
    sources, y = as_inputs(step, weights), step.graph.outputs[0]
    emit, dtype = Emitter(step.graph), y.dtype
    assert dtype is not None
    wanted, length = onnx_ir.val("target", dtype, y.shape), onnx_ir.val("rate", dtype, [])
    step.graph.inputs.extend((wanted, length))
    seed = emit.op("Div", emit.op("Sub", y, wanted), emit.constant(np.float64(len(target)), dtype))
    found = gradients(step, {y: seed}, list(sources.values())).values
    after = {name: emit.op("Sub", v, emit.op("Mul", found[v], length)) for name, v in sources.items()}
    for name, value in after.items():
        emit.describe(value, sources[name])
    nexts = project(emit, after, length)
    step.graph.outputs.clear()
    step.graph.outputs.extend(nexts.values())
    run, state = networks.execute(step), {name: _array(model, name) for name in weights}
    fixed = {**feed, "target": target, "rate": np.array(rate, dtype.numpy())}
    for _ in range(steps):
        state = dict(zip(state, run({**fixed, **state}).values(), strict=True))
    return state


def _array(model: onnx_ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()
