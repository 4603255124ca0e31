"""The nodes and values of a graph that changes, by name, without a walk through it."""

import onnx_ir

from .touched import Touched


class NameIndex:
    """The nodes and values of the main graph of `model`."""

    def __init__(self, model: onnx_ir.Model):
        self.graph = model.graph
        self.nodes: dict[str, onnx_ir.Node] = {}
        self.values: dict[str, onnx_ir.Value] = {}
        for node in model.graph:
            self._add(node)

    def renew(self, touched: Touched) -> None:
        """Follows the nodes that came and went."""
        gone = [node for node in touched.nodes if node.graph is None]
        for node in gone:
            if self.nodes.get(str(node.name)) is node:
                del self.nodes[str(node.name)]
        for name in [str(v.name) for node in gone for v in node.outputs]:
            if (known := self.values.get(name)) is not None and (known.producer() is None or known.producer() in gone):
                del self.values[name]
        for node in touched.nodes:
            if node.graph is self.graph:
                self._add(node)

    def _add(self, node: onnx_ir.Node) -> None:
        self.nodes[str(node.name)] = node
        self.values.update({str(value.name): value for value in node.outputs})
