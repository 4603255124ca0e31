"""Fresh names: what the nodes and the values of a model are called, in all its graphs, and names that none has yet.

A file tells values apart by their names alone, and a body of If, Loop or Scan sees those of the graphs around it: what
is new in one graph must not be called as something in another.
"""

from collections import Counter
from collections.abc import Iterator

import onnx_ir

from .weights import Body, bodies, graphs, nodes, roots


class Pool:
    """The names of one kind that are in use, each with how often: two branches of an If may share one."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()

    def add(self, name: str | None) -> None:
        """One more is called so; what has no name has none in common with others."""
        if name:
            self._uses[name] += 1

    def release(self, name: str | None) -> None:
        """One that was called so is gone."""
        if name:
            self._uses[name] -= 1

    def fresh(self, wanted: str) -> str:
        """`wanted`, with underscores until nothing else is called so; it is in use from then on."""
        while self._uses[wanted] > 0:
            wanted += "_"
        self._uses[wanted] += 1
        return wanted

    def numbered(self, stem: str) -> str:
        """`stem` with the first number from 0 that it wasn't given yet and that makes it a name of nothing else."""
        while True:
            name = f"{stem}{self._numbers[stem]}"
            self._numbers[stem] += 1
            if self._uses[name] <= 0:
                self._uses[name] += 1
                return name

    @property
    def stems(self) -> set[str]:
        """What stands before the first underscore of the names that have one."""
        return {name.partition("_")[0] for name, uses in self._uses.items() if uses > 0 and "_" in name}

    def is_shared(self, name: str | None) -> bool:
        return bool(name) and self._uses[name] > 1


class Names:
    """The names in use in a model, or in one graph with its bodies, and all that were given since."""

    def __init__(self, root: onnx_ir.Model | onnx_ir.Graph) -> None:
        self.nodes, self.values = Pool(), Pool()
        for node in nodes(root):
            self.nodes.add(node.name)
        for graph in graphs(root):
            for value in _defined(graph):
                self.values.add(value.name)

    def prefix(self, stem: str) -> str:
        """`stem`, or else `stem1`, `stem2`, ...: the first that no name begins with and an underscore. There is no
        underscore in `stem`."""
        taken = self.nodes.stems | self.values.stems
        number, prefix = 0, stem
        while prefix in taken:
            number += 1
            prefix = f"{stem}{number}"
        return prefix

    def unique(self, value: onnx_ir.Value) -> None:
        """Renames a value whose name another has too: in another branch, say."""
        if self.values.is_shared(value.name):
            value.name = self.values.fresh(str(value.name))


def separate(model: onnx_ir.Model) -> onnx_ir.Model:
    """Renames values of bodies that are called as one of a graph around them; works in place.

    Tools that name what they make look at one graph only.
    """
    names = Names(model)
    for root in roots(model):
        _separate(root, frozenset(), names)
    return model


def _separate(graph: Body, outer: frozenset[str | None], names: Names) -> None:
    """`outer` are the names in all the graphs around `graph`."""
    for value in _defined(graph):
        if value.name and value.name in outer:
            value.name = names.values.fresh(value.name)
    inner = [body for node in graph for body in bodies(node)]
    if inner:
        outer |= {value.name for value in _defined(graph)}
    for body in inner:
        _separate(body, outer, names)


def _defined(graph: Body) -> Iterator[onnx_ir.Value]:
    """The inputs, the constants that are none of these, and what the nodes of `graph` itself make."""
    yield from graph.inputs
    if isinstance(graph, onnx_ir.Graph):
        yield from [value for value in graph.initializers.values() if not value.is_graph_input()]
    for node in graph:
        yield from node.outputs
