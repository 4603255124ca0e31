"""A model in an older operator set than it was worked on: the same results, from nodes that the older one has."""

import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..cleanup.guarded_step import fault_of
from ..errors import UnsupportedOp
from ..model.hiding import hidden
from ..model.names import Names
from ..model.shape_inference import infer_shapes
from ..model.weights import clone, nodes
from .older_forms import Rewording, reworded
from .schemas import drop_defaults, fault, schema


def in_opset(model: onnx_ir.Model, older: int, known: frozenset[str] = frozenset()) -> onnx_ir.Model:
    """A copy of `model` in the operator set `older` of ONNX, which is not above its own; weights are shared.

    `known` are operators that are let through though that operator set doesn't have them: ONNX Runtime reads some of
    its own in any. Raises UnsupportedOp, with the node, for what can't be said there.
    """
    result, opset = infer_shapes(clone(model)), model.opset_imports[""]
    names, standard = Names(result), [node for node in nodes(result) if not node.domain]
    early = [node for node in standard if node.op_type in known and schema(node.op_type, older) is None]
    for node in standard:
        if node not in early:
            _reword(node, opset, older, names)
    result.opset_imports[""] = older
    for graph in result.graphs():
        graph.opset_imports.update(result.opset_imports)
    RemoveUnusedNodesPass()(result)
    with hidden(result, early):
        broken = fault_of(result)
    if broken and not fault_of(model):
        raise UnsupportedOp(f"in opset {older} the model is not valid: {broken}")
    return result


def _reword(node: onnx_ir.Node, opset: int, older: int, names: Names) -> None:
    for made in reworded(Rewording(node, older, names)):
        found = fault(made, opset, older)
        if found is not None:
            raise UnsupportedOp(f"{found} (node {node.name!r})")
        drop_defaults(made, opset, older)
