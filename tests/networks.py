"""Small networks for tests: an ONNX text in, a normalized model, feeds that fit it and what ONNX Runtime computes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnx_ir
from kronnx.ir.analyses import Analyses
from kronnx.ir.cleanup.clean import clean_with_notes
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.model import clone, signature
from kronnx.ir.model.node_names import name_nodes
from kronnx.ir.model.shape_inference import infer_shapes
from kronnx.ir.output_heads import find_heads
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.curvature import Bench, Curvature, Runner, measure
from kronnx.passes.planning.proposal import Candidate, Context, Pass
from kronnx.passes.planning.stages import concrete_shapes
from kronnx.passes.quantization.spreads import Spread, spreads
from kronnx.runtime.sessions import Session

HEADER = '<ir_version: 10, opset_import: ["" : 20]> net '


def parsed(text: str, seed: int = 0) -> onnx_ir.Model:
    """The model of `text`, as it is; values that are declared but neither computed nor given are random weights.

    Weights are normal, over the root of the number of inputs of a matrix [in, out] or of a kernel.
    """
    proto, random = onnx.parser.parse_model(HEADER + text), np.random.default_rng(seed)
    made = {name for node in proto.graph.node for name in node.output}
    for info in [i for i in proto.graph.value_info if i.name not in made]:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        array = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
        kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(kind), info.name))
        proto.graph.value_info.remove(info)
    return onnx_ir.from_proto(proto)


def build(text: str, seed: int = 0) -> onnx_ir.Model:
    """The normalized model of `text`."""
    return normalize(parsed(text, seed))


def unfolded(text: str, seed: int = 0) -> onnx_ir.Model:
    """The model of `text` with shapes and names alone: what computes on constants stays in the graph."""
    return name_nodes(infer_shapes(parsed(text, seed)))


def set_weight(model: onnx_ir.Model, name: str, array: np.ndarray) -> None:
    """Puts `array` in the place of the initializer `name`, in its type."""
    value = model.graph.initializers[name]
    assert value.dtype is not None
    value.const_value = onnx_ir.tensor(np.ascontiguousarray(array.astype(value.dtype.numpy())), name=name)


def weight(model: onnx_ir.Model, name: str) -> np.ndarray:
    """The initializer `name` in float64."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


def draw(model: onnx_ir.Model, samples: int = 3, seed: int = 1, **sizes: int) -> dict[str, np.ndarray]:
    """A feed of normal values; symbolic dimensions are `samples`, or what `sizes` says."""
    random = np.random.default_rng(seed)
    feed = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else sizes.get(str(d.value), samples) for d in value.shape or ()]
        assert value.dtype is not None
        feed[str(value.name)] = random.normal(size=shape).astype(value.dtype.numpy())
    return feed


def execute(model: onnx_ir.Model) -> Runner:
    """The function that passes are given to run a model."""
    return Session(model).run


def run(model: onnx_ir.Model, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs in float64."""
    return {name: array.astype(np.float64) for name, array in execute(model)(feed).items()}


def context_of(model: onnx_ir.Model, stage: Pass, samples: int = 200, draws: int = 8, **sizes: int) -> Context:
    """What `stage` may look at, measured on `samples` samples; the cost is that of one."""
    analyses, feed = Analyses(model), draw(model, samples, **sizes)
    wants = list(stage.wants(analyses))
    moments = (
        measure(Bench.surveyed(model, find_heads(model), [feed], execute, Curvature(draws)), wants).moments
        if wants
        else {}
    )
    measured = partial(_spreads, model, feed)
    return Context(analyses, concrete_shapes(model, draw(model, 1, **sizes), execute), moments, measured)


def _spreads(model: onnx_ir.Model, feed: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, Spread]:
    return spreads(model, names, [feed], execute)


def applied(model: onnx_ir.Model, stage: Pass, context: Context, *chosen: Candidate) -> onnx_ir.Model:
    """A copy of the model after the candidates."""
    rewriter = Rewriter(clone(model))
    for candidate in chosen:
        stage.apply(candidate, replace(context, analyses=rewriter.analyses), rewriter)
    return rewriter.model


def kl(before: onnx_ir.Model, after: onnx_ir.Model, feed: Mapping[str, np.ndarray], output: str = "y") -> float:
    """KL(before || after) in nats per sample, of probabilities."""
    p, q = (np.maximum(run(m, feed)[output], 1e-30) for m in (before, after))
    return float((p * (np.log(p) - np.log(q))).sum(axis=-1).mean())


def ops(model: onnx_ir.Model) -> str:
    """The operators of the main graph, in order."""
    return " ".join(node.op_type for node in model.graph)


def cleaned(model: onnx_ir.Model) -> onnx_ir.Model:
    """The clean model, every step taken, with the same signature."""
    result, notes = clean_with_notes(model)
    assert notes == ()
    assert signature(result) == signature(model)
    return result
