"""Nodes that a tool must not touch, out of its sight for as long as it runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import onnx_ir

from .weights import nodes

DOMAIN = "kronnx.hidden"


@contextmanager
def hidden(model: onnx_ir.Model, some: Iterable[onnx_ir.Node]) -> Iterator[None]:
    """Gives each of the nodes a domain of its own that no tool knows, and takes it back at the end."""
    domains = {node: (node.domain, f"{DOMAIN}.{number}") for number, node in enumerate(some)}
    for node, (_, mask) in domains.items():
        node.domain = mask
        model.opset_imports[mask] = 1
    try:
        yield
    finally:
        for node, (domain, mask) in domains.items():
            node.domain = domain
            model.opset_imports.pop(mask, None)


def unhidden(model: onnx_ir.Model) -> onnx_ir.Model:
    """`model`, which a tool made of one with hidden nodes, with those in the standard domain again."""
    for node in nodes(model):
        if node.domain.startswith(f"{DOMAIN}."):
            model.opset_imports.pop(node.domain, None)
            node.domain = ""
    return model
