"""What of weights that are held as codes can be tuned: their scales and, where that is wanted, the codes."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir

from .coded_weights import CodedWeight, Place, Reading, beside_integer_bias, coded_weights
from .coordinates import Coordinates, Growth, Shadow
from .places import ends, is_matrix_place


def coordinates_of_codes(
    model: onnx_ir.Model, layers: str, tables: bool, quantized: bool
) -> dict[onnx_ir.Value, Coordinates]:
    """By constant, what is moved in the place of scales of the weights that `layers` matches, of embeddings too with
    `tables`, and in the place of their codes with `quantized`."""
    chosen = [one for one in coded_weights(model) if _is_wanted(one, model.graph, layers, tables)]
    found: dict[onnx_ir.Value, Coordinates] = dict.fromkeys(_free_scales(chosen), Growth())
    return found | (dict(_shadows(chosen)) if quantized else {})


def _is_wanted(coded: CodedWeight, graph: onnx_ir.Graph, layers: str, tables: bool) -> bool:
    places = [end for reading in coded.readings for end in _ends_of(reading)]
    fit = all(node.graph is graph and is_matrix_place(node, at, tables) for node, at in places)
    given = any(reading.given is not None and reading.given.is_graph_output() for reading in coded.readings)
    return bool(places) and fit and not given and any(fnmatchcase(node.name or "", layers) for node, _ in places)


def _ends_of(reading: Reading) -> list[Place]:
    return [reading.end] if reading.given is None else list(ends(reading.given))


def _free_scales(chosen: Sequence[CodedWeight]) -> Iterator[onnx_ir.Value]:
    """The scales that nothing but these weights read."""
    readings = [reading for one in chosen for reading in one.readings]
    places: dict[onnx_ir.Value, set[Place]] = {}
    fixed = {r.scale for r in readings if any(beside_integer_bias(node) for node, _ in _ends_of(r))}
    for reading in readings:
        places.setdefault(reading.scale, set()).add(reading.scaled)
    for scale, known in places.items():
        read = {(use.node, use.idx) for use in scale.uses()}
        floating = scale.dtype is not None and scale.dtype.is_floating_point()
        if floating and read <= known and scale not in fixed and not scale.is_graph_output():
            yield scale


def _shadows(chosen: Sequence[CodedWeight]) -> Iterator[tuple[onnx_ir.Value, Shadow]]:
    """Of codes that are the same numbers wherever they are read, and not all alike."""
    for one in chosen:
        lowest, highest = int(one.array.min()), int(one.array.max())
        if not one.same_everywhere or lowest == highest:
            continue
        reading = one.readings[0]
        scales = _array(reading.scale)
        zeros = np.zeros(scales.shape, one.array.dtype) if reading.zero is None else _array(reading.zero)
        yield one.codes, Shadow(str(reading.scale.name), scales, zeros, reading.sharing, lowest, highest)


def _array(value: onnx_ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()
