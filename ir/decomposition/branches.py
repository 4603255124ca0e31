"""If with a constant condition: the nodes of the branch that is taken, in the place of the node."""

from ..dimensions import constant
from .registry import Outputs, decomposition
from .site import DecompositionSite, NotDecomposed


@decomposition("If")
def taken_branch(site: DecompositionSite) -> Outputs:
    condition = constant(site.x)
    if condition is None:
        raise NotDecomposed("the condition is computed")
    graph = site.attributes.get_graph("then_branch" if condition.item() else "else_branch")
    assert graph is not None
    outputs, moved = list(graph.outputs), list(graph)
    for value in list(graph.initializers.values()):
        graph.initializers.pop(str(value.name))
        site.names.unique(value)
    graph.outputs.clear()
    graph.remove(moved)
    for value in (v for node in moved for v in node.outputs):
        site.names.unique(value)
    site.nodes.extend(moved)
    return outputs
