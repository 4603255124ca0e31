"""Why a gradient could not be had."""

from dataclasses import dataclass

import onnx_ir


@dataclass(frozen=True)
class Blocked:
    """The node that stops a gradient and the reason; the node's fields are empty where no node is to blame."""

    node: str
    op_type: str
    domain: str
    reason: str

    def __str__(self) -> str:
        if not self.op_type:
            return self.reason
        domain = f"{self.domain}::" if self.domain else ""
        return f"{self.reason} for {domain}{self.op_type} (node {self.node!r})"


def blocked_at(node: onnx_ir.Node, reason: str) -> Blocked:
    return Blocked(node.name or "", node.op_type, node.domain, reason)
