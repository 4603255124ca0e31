"""K-FAC in a training step: gradients in; what is descended along instead, and the states that it needs, out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ...curvature.factors import Factors
from ..step_graph import Parameter, StepGraph
from .kfac import Kfac, identities
from .kronecker_blocks import KroneckerBlock, blocks


@dataclass(frozen=True)
class NaturalGradients:
    """Directions by parameter, and the blocks whose `inverses_of` are states that nothing in the graph renews."""

    directions: Mapping[str, onnx_ir.Value]
    blocks: tuple[KroneckerBlock, ...]


def emit_natural_gradients(
    graph: StepGraph,
    kfac: Kfac,
    parameters: Sequence[Parameter],
    gradients: Mapping[str, onnx_ir.Value],
    rate: onnx_ir.Value,
    count: onnx_ir.Value,
) -> NaturalGradients:
    layers = (one.layer for one in parameters if one.layer is not None)
    found = blocks(layers, {one.name for one in parameters if not one.opens})
    inverses = {block.layer: _inverses(graph, block) for block in found}
    held = {name for block in found for name in block.names}
    slots = {name: graph.slots(name, kfac.slots(graph.states[name])) for name in gradients if name not in held}
    for name, gradient in gradients.items():
        gradient.dtype = graph.dtype(name)
    directions = kfac.directions(graph.emit, gradients, found, inverses, slots, rate, count)
    for name, after in directions.slots.items():
        graph.follow_slots(name, after)
    return NaturalGradients(directions.gradients, found)


def inverses_of(layer: str) -> tuple[str, str]:
    """The states G^-1 and A^-1 of a layer."""
    return f"{layer}/left", f"{layer}/right"


def inverse_states(
    kfac: Kfac, blocks: Sequence[KroneckerBlock], factors: Mapping[str, Factors], states: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The inverses of measured `factors`, by state, in the types of `states`."""
    return {
        name: array.astype(states[name].dtype)
        for layer, pair in kfac.inverses(blocks, factors).items()
        for name, array in zip(inverses_of(layer), pair, strict=True)
    }


def _inverses(graph: StepGraph, block: KroneckerBlock) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    dtype = graph.states[block.weight].dtype
    pairs = zip(inverses_of(block.layer), identities(block), strict=True)
    left, right = (graph.state(name, array.astype(dtype)) for name, array in pairs)
    return left, right
