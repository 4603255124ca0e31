"""The layout of an array, its axes called by letters: in another order, merged, split, and the nodes that do it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import onnx_ir

from ..dimensions import Dim
from ..model.names import Names

Groups = tuple[str, ...]
"""The labels that are merged into each axis; an axis without one has the size 1."""


@dataclass
class Writer:
    """The nodes and constants that take the place of a node; all are named after it."""

    stem: str
    names: Names
    nodes: list[onnx_ir.Node] = field(default_factory=list)
    constants: list[onnx_ir.Value] = field(default_factory=list)

    def op(self, op_type: str, *inputs: onnx_ir.Value, **attributes: int | Sequence[int]) -> onnx_ir.Value:
        y = onnx_ir.val(self.names.values.fresh(f"{self.stem}.{op_type}"), inputs[0].dtype)
        attrs = onnx_ir.convenience.convert_attributes(attributes)
        name = self.names.nodes.fresh(str(y.name))
        self.nodes.append(onnx_ir.Node("", op_type, inputs, attrs, outputs=[y], name=name))
        return y

    def integers(self, numbers: Sequence[int], what: str) -> onnx_ir.Value:
        name = self.names.values.fresh(f"{self.stem}.{what}")
        tensor = onnx_ir.tensor(list(numbers), onnx_ir.DataType.INT64, name=name)
        self.constants.append(onnx_ir.val(name, tensor.dtype, [len(numbers)], const_value=tensor))
        return self.constants[-1]

    def transposed(self, x: onnx_ir.Value, source: str, target: str) -> onnx_ir.Value:
        return x if source == target else self.op("Transpose", x, perm=[source.index(label) for label in target])

    def regrouped(self, x: onnx_ir.Value, source: Groups, target: Groups, sizes: Mapping[str, Dim]) -> onnx_ir.Value:
        if source == target:
            return x
        if _named(source) != _named(target):
            return self.op("Reshape", x, self.integers(_extents(source, target, sizes), "shape"))
        longer = max(source, target, key=len)
        axes = self.integers([axis for axis, group in enumerate(longer) if not group], "axes")
        return self.op("Squeeze" if longer is source else "Unsqueeze", x, axes)


def _named(groups: Groups) -> list[str]:
    return [group for group in groups if group]


def _extents(source: Groups, target: Groups, sizes: Mapping[str, Dim]) -> list[int]:
    """The shape for a Reshape from one grouping of the same labels to another: sizes where they are known, 0 for an
    axis that keeps its place, -1 for others.
    """
    kept = [source[axis : axis + 1] == (group,) for axis, group in enumerate(target)]
    return [_extent([sizes[label] for label in group], same) for group, same in zip(target, kept, strict=True)]


def _extent(sizes: Sequence[Dim], kept: bool) -> int:
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        return prod(known)
    return 0 if kept else -1


@dataclass(frozen=True)
class Layout:
    """The axes `labels` in the order of `groups` and merged into these."""

    labels: str
    groups: Groups
    sizes: Mapping[str, Dim]

    @property
    def order(self) -> str:
        return "".join(self.groups)

    @property
    def transposes(self) -> bool:
        return self.order != self.labels

    @property
    def regroups(self) -> bool:
        return tuple(self.order) != self.groups

    def is_possible(self, source: Groups, target: Groups) -> bool:
        """A Reshape can infer one size, and only beside others that are surely not 0."""
        if _named(source) == _named(target):
            return True
        extents = _extents(source, target, self.sizes)
        return -1 not in extents or (extents.count(-1) == 1 and 0 not in extents)

    def merged(self, writer: Writer, x: onnx_ir.Value) -> onnx_ir.Value:
        x = writer.transposed(x, self.labels, self.order)
        return writer.regrouped(x, tuple(self.order), self.groups, self.sizes)

    def split(self, writer: Writer, x: onnx_ir.Value) -> onnx_ir.Value:
        """The way back from `merged`."""
        x = writer.regrouped(x, self.groups, tuple(self.order), self.sizes)
        return writer.transposed(x, self.order, self.labels)
