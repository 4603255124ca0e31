"""Which layers hand on what to which values: values of a graph and its layers in, names of layers out."""

from collections.abc import Iterable, Iterator, Mapping

import onnx_ir

from .layers import Layer

SIZES_ONLY = ("Shape", "Size")


def last_layers(values: Iterable[onnx_ir.Value | None], layers: Mapping[str, Layer]) -> Iterator[str]:
    """The layers whose outputs reach one of `values` through no other layer: through a softmax, an addition, a reshape
    and the like; a sum is reached by all that it adds up."""
    by_node = {id(use.node): name for name, layer in layers.items() for use in layer.uses}
    waiting, seen = [value.producer() for value in values if value is not None], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen or node.op_type in SIZES_ONLY:
            continue
        seen.add(id(node))
        if id(node) in by_node:
            yield by_node[id(node)]
        else:
            waiting.extend(value.producer() for value in node.inputs if value is not None)
