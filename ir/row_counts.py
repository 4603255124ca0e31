"""How many rows a value has, and what that follows from: a graph in; for each value whether its sizes are fixed, given
with the inputs, or computed by the network, as behind NonMaxSuppression, NonZero or a TopK with a computed k."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

import onnx_ir

from .autodiff.reverse import may_be_floating, read
from .model.weights import bodies, nodes

DECIDING = {
    **dict.fromkeys(("NonZero", "Unique", "ConstantOfShape"), (0,)),
    **dict.fromkeys(("Compress", "TopK", "Expand", "Tile", "Reshape", "Pad", "OneHot", "Upsample"), (1,)),
    **dict.fromkeys(("CenterCropPad", "Split", "SplitToSequence", "SequenceAt"), (1,)),
    "NonMaxSuppression": (0, 1, 2, 3, 4),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
    "Resize": (1, 2, 3),
    "MaxUnpool": (2,),
    "Loop": (0, 1),
}
"""The inputs whose values, not only sizes, decide how much comes out."""

FINDING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Of these inside of a body or a function it isn't looked at what decides."""

SIZES = frozenset({"Shape", "Size"})


class Origin(IntEnum):
    """What something follows from: constants, the inputs, or what the network computes in floating-point numbers."""

    FIXED = 0
    GIVEN = 1
    COMPUTED = 2


@dataclass(frozen=True)
class RowCounts:
    """What the values, and what the sizes of the values of a model's main graph follow from.

    Values of bodies and functions are not in them; a type that isn't known counts as floating-point numbers.
    """

    values: dict[onnx_ir.Value, Origin] = field(default_factory=dict)
    sizes: dict[onnx_ir.Value, Origin] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx_ir.Model) -> "RowCounts":
        """`model` has its types inferred, and its nodes in order."""
        found = cls(dict.fromkeys(model.graph.inputs, Origin.GIVEN))
        for node in model.graph:
            found._add(node, model)
        return found

    @property
    def counted(self) -> frozenset[str]:
        """The names of the values of which there are as many as the network finds."""
        return frozenset(str(value.name) for value, origin in self.sizes.items() if origin == Origin.COMPUTED)

    def _add(self, node: onnx_ir.Node, model: onnx_ir.Model) -> None:
        given = list(read(node))
        source = Origin.FIXED if node.op_type in SIZES and not node.domain else _most(self.values, given)
        size = max(_most(self.sizes, given), self._decided(node, source, model))
        for value in node.outputs:
            self.values[value] = Origin.COMPUTED if source and may_be_floating(value) else source
            self.sizes[value] = size

    def _decided(self, node: onnx_ir.Node, source: Origin, model: onnx_ir.Model) -> Origin:
        """What the sizes of the outputs follow from beside the sizes of the inputs."""
        inner = [*bodies(node), *filter(None, [model.functions.get(node.op_identifier())])]
        if any(one.op_type in FINDING or _stops(one) for body in inner for one in nodes(body)) or _stops(node):
            return source
        if node.domain or node.op_type not in DECIDING:
            return Origin.FIXED
        deciding = (node.inputs[place] for place in DECIDING[node.op_type] if place < len(node.inputs))
        return _most(self.values, (value for value in deciding if value is not None))


def _most(origins: dict[onnx_ir.Value, Origin], values: Iterable[onnx_ir.Value]) -> Origin:
    return max((origins.get(value, Origin.FIXED) for value in values), default=Origin.FIXED)


def _stops(node: onnx_ir.Node) -> bool:
    """Whether it is a Loop that computes when to stop: one that is told its number of rounds hands its condition on."""
    if node.op_type != "Loop" or node.domain:
        return False
    body = next(bodies(node))
    end = body.outputs[0]
    while (
        (maker := end.producer()) is not None and maker.op_type in ("Identity", "Cast") and maker.inputs[0] is not None
    ):
        end = maker.inputs[0]
    return maker is not None and maker.op_type != "Constant"
