"""What no pass can touch, however little it costs: told to a person, who may export the model another way."""

import onnx_ir

from ...ir.layers import linear_nodes


def untouched_notes(model: onnx_ir.Model) -> tuple[str, ...]:
    """A sentence on layers inside bodies, and one on weights that a caller may replace, where there are any."""
    layers = list(linear_nodes(model))
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
    return (bodies,) * (inside > 0) + (defaults,) * (given > 0)
