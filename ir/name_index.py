"""The nodes and values of a graph that changes, by name, without a walk through it."""

import onnx_ir

from .touched import Touched


class NameIndex:
    """The names of `model`; bodies of If, Loop and Scan are walked once, for no rewrite changes them."""

    def __init__(self, model: onnx_ir.Model):
        self.graph = model.graph
        self.nodes: dict[str, onnx_ir.Node] = {}
        self.values: dict[str, onnx_ir.Value] = {}
        for node in model.graph:
            self._add(node)
        inner = [node for node in model.graph.all_nodes() if node.graph is not model.graph]
        self._inner_nodes = {str(node.name) for node in inner}
        self._others = {str(value.name) for node in inner for value in node.outputs}
        self._others.update(str(value.name) for value in model.graph.inputs)

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

    def has_node(self, name: str) -> bool:
        """Whether a node has this name."""
        return name in self.nodes or name in self._inner_nodes

    def has_value(self, name: str) -> bool:
        """Whether an input, a constant or what a node gives has this name."""
        return name in self.values or name in self.graph.initializers or name in self._others

    def _add(self, node: onnx_ir.Node) -> None:
        self.nodes[str(node.name)] = node
        self.values.update({str(value.name): value for value in node.outputs})
