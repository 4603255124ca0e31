"""Names for new nodes and values that no other in the model has."""

from collections import Counter

import onnx_ir

from ..model.weights import graphs, nodes


class Names:
    """The names in use, and how often: those of the model, and all that were given since."""

    def __init__(self, model: onnx_ir.Model) -> None:
        self.nodes = Counter(node.name for node in nodes(model))
        self.values = Counter(value.name for node in nodes(model) for value in node.outputs)
        for graph in graphs(model):
            self.values.update(value.name for value in graph.inputs)
            if isinstance(graph, onnx_ir.Graph):
                self.values.update(graph.initializers.keys())

    def node(self, wanted: str) -> str:
        return _free(wanted, self.nodes)

    def value(self, wanted: str) -> str:
        return _free(wanted, self.values)

    def unique(self, value: onnx_ir.Value) -> None:
        """Renames a value whose name another has too: in another branch, say."""
        if self.values[value.name] > 1:
            value.name = self.value(str(value.name))


def _free(wanted: str, taken: Counter[str | None]) -> str:
    while wanted in taken:
        wanted += "_"
    taken[wanted] += 1
    return wanted
