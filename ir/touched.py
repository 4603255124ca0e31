"""Which part of a graph a rewrite touched: what is known of all the rest stays true."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir


@dataclass
class Touched:
    """The `nodes` that came, went, or read something else than before, with all `values` that they read and gave,
    before and after."""

    nodes: dict[onnx_ir.Node, None] = field(default_factory=dict)
    values: dict[onnx_ir.Value, None] = field(default_factory=dict)

    def add(self, nodes: Iterable[onnx_ir.Node]) -> None:
        """Notes what `nodes` read and give at this moment: to be told before a change and after it."""
        for node in nodes:
            self.nodes[node] = None
            self.values.update(dict.fromkeys(v for v in (*node.inputs, *node.outputs) if v is not None))
