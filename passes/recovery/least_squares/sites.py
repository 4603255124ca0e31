"""What is to be refitted: two models and who inherited what in; sites in the order of the graph out, and a remark for
each layer that has none."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile

import numpy as np
import onnx_ir

from ....ir.layers import QUANTIZED, Layer, Use, find_layers
from ....ir.lineage import Heir
from ....ir.remarks import MISSED, Remark
from ...curvature.moments import LARGEST_INPUT
from .solvers import support_work

LARGEST_JOINT = 2048  # inputs and outputs together, where eigenvectors of both are taken
ROUNDING = ("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear")
MOST_WORK = 2e11  # multiply-adds for the solutions of one layer, at one ridge

Correspondence = Mapping[str, Sequence[Heir]]
Why = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Bias:
    """The constant that holds the bias of a layer, at `rows`; `free` if nothing else reads it."""

    value: onnx_ir.Value
    rows: slice
    free: bool

    def array(self) -> np.ndarray:
        """The bias [outputs] in float64."""
        assert self.value.const_value is not None
        return self.value.const_value.numpy().astype(np.float64).ravel()[self.rows]

    def whole(self, change: np.ndarray) -> np.ndarray:
        """The constant with `change` [outputs] added, in float64."""
        assert self.value.const_value is not None
        result = self.value.const_value.numpy().astype(np.float64)
        flat = result.reshape(-1).copy()
        flat[self.rows] += change
        return flat.reshape(result.shape)


@dataclass(frozen=True, eq=False)
class RefitSite:
    """`part`, a layer of the changed model, is to give the outputs `rows` of `target`, a layer of the original, at the
    use of the same number."""

    target: Layer
    part: Layer
    rows: np.ndarray
    bias: Bias | None

    @property
    def all_rows(self) -> bool:
        """Whether nothing of the target is left out."""
        return len(self.rows) == self.target.groups * self.target.out

    def offset(self) -> np.ndarray:
        """What the target adds to its nodes' outputs, less the part's bias [outputs]."""
        apart = self.target.op == "MatMul"  # the bias is added by a node of its own
        given = self.target.bias_or_zero().ravel()[self.rows] if apart else np.zeros(len(self.rows))
        return given - (0.0 if self.bias is None else self.bias.array())


def find_sites(
    original: onnx_ir.Model, model: onnx_ir.Model, correspondence: Correspondence, joint: bool
) -> tuple[tuple[RefitSite, ...], tuple[Remark, ...]]:
    """The sites of `model` in its order, from the first layer that is not as it was: those before it give what they
    gave. `joint` says that eigenvectors of inputs and outputs together will be needed."""
    targets, layers = find_layers(original).found, find_layers(model)
    parts, rounded = layers.found, {r.site: r.detail for r in layers.left if r.reason == QUANTIZED}
    found: dict[str, RefitSite] = {}
    left: list[Remark] = []
    for name, inherited in correspondence.items():
        for heir in inherited:
            why = _unfit(targets.get(name), parts.get(heir.layer), heir, joint)
            if heir.layer in rounded:
                why = QUANTIZED, rounded[heir.layer]
            if why is not None:
                left.append(Remark(name, "refit", MISSED, *why))
            else:
                found[heir.layer] = _site(model, targets[name], parts, heir, inherited)
    behind = _from_the_first_change(original, model, targets, parts)
    return tuple(found[name] for name in behind if name in found), tuple(left)


def _from_the_first_change(
    original: onnx_ir.Model, model: onnx_ir.Model, targets: Mapping[str, Layer], parts: Mapping[str, Layer]
) -> list[str]:
    """The layers of `model` in its order, from the first that isn't as it was, or behind the first rounding that the
    original doesn't have."""
    known = {node.name for node in original.graph}

    def is_new(node: onnx_ir.Node) -> bool:
        part = parts.get(str(node.name))
        if part is not None:
            return not _same(part, targets.get(part.name))
        return node.op_type in ROUNDING and node.name not in known

    nodes = dropwhile(lambda node: not is_new(node), model.graph)
    return [str(node.name) for node in nodes if node.name in parts]


def _same(part: Layer, target: Layer | None) -> bool:
    """Whether a layer is as it was."""
    if target is None or not np.array_equal(part.stored(), target.stored()):
        return False
    return np.array_equal(part.bias_or_zero(), target.bias_or_zero())


def _unfit(target: Layer | None, part: Layer | None, heir: Heir, joint: bool) -> Why | None:
    """Why a part can't be refitted, if it can't."""
    if target is None or part is None:
        return "no-counterpart", f"no layer {heir.layer!r} stands for it any more"
    now, then = (len(part.uses), part.op == "Conv"), (len(target.uses), target.op == "Conv")
    if now != then or part.groups * part.out != len(heir.rows):
        return "no-counterpart", f"layer {heir.layer!r} has not the outputs of the original's that it stands for"
    if len(part.uses) > 1 and not all(map(_named_for, part.uses, target.uses)):
        return "no-counterpart", f"it can't be told which node of {heir.layer!r} stands for which"
    width = part.inputs + part.out if joint else part.inputs
    if width > (LARGEST_JOINT if joint else LARGEST_INPUT):
        return "too-large", f"products of {width} {'inputs and outputs' if joint else 'inputs'} are too many"
    if sum(map(support_work, part.matrix())) > MOST_WORK:
        return "masked", f"the zeros of {heir.layer!r} lie differently in too many of its rows"
    return None


def _named_for(new: Use, old: Use) -> bool:
    """Whether the name of a node says what it was made of."""
    return str(new.node.name).startswith(str(old.node.name))


def _site(
    model: onnx_ir.Model, target: Layer, parts: Mapping[str, Layer], heir: Heir, inherited: Sequence[Heir]
) -> RefitSite:
    part, rows, value = parts[heir.layer], slice(0, len(heir.rows)), parts[heir.layer].bias
    if value is None:
        value = _bias_behind_stripes(part, [parts.get(other.layer) for other in inherited])
        before = inherited[: [other.layer for other in inherited].index(heir.layer)]
        start = sum(len(other.rows) for other in before)
        rows = slice(start, start + len(heir.rows))
    if value is None:
        return RefitSite(target, part, heir.rows, None)
    free = model.graph.initializers.get(str(value.name)) is value and len(value.uses()) == len(part.uses)
    return RefitSite(target, part, heir.rows, Bias(value, rows, free))


def _bias_behind_stripes(part: Layer, siblings: Sequence[Layer | None]) -> onnx_ir.Value | None:
    """The constant that is added to the stripes of a block-sparse form once they are concatenated."""
    concat = _only_reader(part.uses[0].output, "Concat")
    nodes = {use.node for sibling in siblings if sibling is not None for use in sibling.uses}
    if concat is None or len(concat.inputs) != len(siblings) or any(n not in nodes for n in _makers(concat)):
        return None
    add = _only_reader(concat.outputs[0], "Add")
    constants = [v for v in add.inputs if v is not None and v.const_value is not None] if add is not None else []
    return constants[0] if constants and constants[0].const_value is not None else None


def _makers(node: onnx_ir.Node) -> Iterator[onnx_ir.Node | None]:
    yield from (None if value is None else value.producer() for value in node.inputs)


def _only_reader(value: onnx_ir.Value, op_type: str) -> onnx_ir.Node | None:
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None
