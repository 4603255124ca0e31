"""What no pass can touch, however little it costs: told to a person, who may export the model another way."""

import onnx_ir

from ...ir.layers import QUANTIZED, Layers, find_layers, linear_nodes
from ...ir.quantized import is_quantized


def untouched_notes(model: onnx_ir.Model) -> tuple[str, ...]:
    """A sentence on layers inside bodies, one on weights that a caller may replace, and one on quantized layers beside
    others, where there are any."""
    layers = [node for node in linear_nodes(model) if not is_quantized(node)]
    inside = sum(node.graph is not model.graph for node in layers)
    given = sum(value.is_initializer() and len(value.shape or ()) > 1 for value in model.graph.inputs)
    bodies = (
        f"{inside} of {len(layers)} matrix products and convolutions stand in the bodies of If, Loop or Scan, and are "
        f"left alone; export the model without the condition or the loop to have them changed."
    )
    defaults = (
        f"{given} weight(s) are inputs with a default that a caller may replace, and are left alone; take them out of "
        f"the inputs (keep_initializers_as_inputs=False of an export) to have them changed."
    )
    return (bodies,) * (inside > 0) + (defaults,) * (given > 0) + _quantized_notes(find_layers(model))


def _quantized_notes(layers: Layers) -> tuple[str, ...]:
    count, found = _quantized(layers), len(layers.found)
    said = f"{count} of {count + found} matrix products and convolutions are quantized, and are left as they came."
    return (said,) * (count > 0 and found > 0)


def quantized_already(layers: Layers) -> str | None:
    """A sentence if all weights of products and convolutions are quantized."""
    count = _quantized(layers)
    if not count or layers.found:
        return None
    return f"the model is quantized already ({count} matrix product(s) and convolution(s))"


def _quantized(layers: Layers) -> int:
    return sum(remark.reason == QUANTIZED for remark in layers.left)
