"""The graph that sums up what a layer reads and what its outputs lack: a stretch of the changed model and a site in,
the sums of pairs for every group of the layer out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ....ir.autodiff import gradients
from ....ir.errors import UnsupportedOp
from ....ir.layers import Layer, Use
from ...curvature import rows
from ...curvature.products import ProductSums
from ...curvature.work import Work
from .sites import RefitSite
from .solvers import Pairs

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Gathered:
    """The pairs of each group of a layer, the sum of squares `lacking` of all that its outputs lack, and `given`, that
    of what they should be."""

    groups: tuple[Pairs, ...]
    lacking: float
    given: float

    @property
    def finite(self) -> bool:
        """Whether no sum overflowed or met what is no number."""
        arrays = (array for pairs in self.groups for array in (pairs.inner, pairs.cross))
        return bool(np.isfinite(self.lacking + self.given)) and all(np.isfinite(array).all() for array in arrays)

    def __add__(self, other: "Gathered") -> "Gathered":
        groups = tuple(a + b for a, b in zip(self.groups, other.groups, strict=True))
        return Gathered(groups, self.lacking + other.lacking, self.given + other.given)


@dataclass(frozen=True)
class _Names:
    """The outputs for one node of the layer."""

    inner: ProductSums
    outer: ProductSums | None
    cross: str
    lacking: str
    squares: tuple[str, str]


class SumGraph:
    """`model` reads what the stretch `model` does and, as `targets`, the outputs of the original's nodes; it gives sums
    for `site`, and the values `live` under the names that `names` tells."""

    def __init__(self, stretch: onnx_ir.Model, site: RefitSite, live: Sequence[str], outer: bool):
        """Raises UnsupportedOp where there is no derivative by the weight."""
        work = Work(stretch)
        self._layer = work.layers[site.part.name]
        self._width = site.target.groups * site.target.out
        values = {str(v.name): v for v in work.model.graph.outputs}
        self.names = {name: work.output(values[name], values[name].dtype) for name in live}
        self._each = _emitted(work, self._layer, site, outer)
        self.targets = tuple(f"kronnx.target.{number}" for number in range(len(self._each)))
        self.dtype = np.dtype(work.dtype.numpy())
        self.model = work.finish()

    def gathered(self, given: Arrays, targets: Sequence[np.ndarray]) -> Gathered:
        """The sums over one feed, from the outputs of the graph and what it was given as targets."""
        parts = [self._of(names, given, target) for names, target in zip(self._each, targets, strict=True)]
        return sum(parts[1:], parts[0])

    def _of(self, names: _Names, given: Arrays, target: np.ndarray) -> Gathered:
        layer, count = self._layer, target.size / self._width
        inner, read = (np.asarray(of(given), np.float64) for of in (names.inner.second, names.inner.first))
        outer = None if names.outer is None else np.asarray(names.outer.second(given), np.float64)
        cross = np.asarray(given[names.cross], np.float64)
        cross = (cross if layer.op == "Conv" else cross.T).reshape(layer.groups, layer.out, layer.inputs)
        lacking = np.asarray(given[names.lacking], np.float64).reshape(layer.groups, layer.out)
        groups = (
            Pairs(count, inner[g], cross[g], read[g], lacking[g], None if outer is None else outer[g])
            for g in range(layer.groups)
        )
        return Gathered(tuple(groups), *(float(given[name]) for name in names.squares))


def _emitted(work: Work, layer: Layer, site: RefitSite, outer: bool) -> list[_Names]:
    applied = [_applied(work, layer, use, site.part.matrix()) for use in layer.uses]
    targets = [_target(work, layer, site, number) for number in range(len(layer.uses))]
    lacking = [work.op("Sub", pair) for pair in zip(targets, applied, strict=True)]
    crosses = _crosses(work, applied, lacking)
    return [_sums(work, layer, *each, outer) for each in zip(layer.uses, crosses, lacking, targets, strict=True)]


def _applied(work: Work, layer: Layer, use: Use, weight: np.ndarray) -> onnx_ir.Value:
    """What the layer gives now, without its bias, from a weight of its own for this node."""
    y = rows.applied(work, layer, use, weight)
    y.shape, y.dtype = use.output.shape, work.dtype
    node = y.producer()
    x = None if node is None else node.inputs[0]
    if x is not None and x.shape is None:
        x.shape, x.dtype = use.input.shape, work.dtype  # of a Cast
    return y


def _target(work: Work, layer: Layer, site: RefitSite, number: int) -> onnx_ir.Value:
    """What the layer should give, without its bias."""
    kernel = len(layer.kernel)
    given = work.input(f"target.{number}", site.target.uses[number].output.shape)
    if not site.all_rows:
        given = work.op("Gather", [given, work.integers(*site.rows)], axis=1 if layer.op == "Conv" else -1)
    return work.op("Add", [given, work.constant(site.offset().reshape(-1, *(1,) * kernel))])


def _crosses(work: Work, applied: Sequence[onnx_ir.Value], lacking: Sequence[onnx_ir.Value]) -> list[onnx_ir.Value]:
    """The sums of r a^T in the layout of the weight: the gradient of the product of r and what the layer gives, each
    node having a weight of its own."""
    weights = [node.inputs[1] for y in applied if (node := y.producer()) is not None]
    own = [weight for weight in weights if weight is not None]
    work.flush()
    found = gradients(work.model, dict(zip(applied, lacking, strict=True)), own)
    if found.blocked:
        raise UnsupportedOp(str(next(iter(found.blocked.values()))))
    return [found.values[weight] for weight in own]


def _sums(
    work: Work,
    layer: Layer,
    use: Use,
    cross: onnx_ir.Value,
    lacking: onnx_ir.Value,
    target: onnx_ir.Value,
    outer: bool,
) -> _Names:
    inner = rows.read_moments(work, layer, use)
    assert isinstance(inner, ProductSums)
    wide = rows.value_moments(work, layer, lacking, layer.out) if outer else None
    squares = (work.output(work.op("ReduceSumSquare", [value], keepdims=0)) for value in (lacking, target))
    return _Names(inner, wide, work.output(cross), _total(work, layer, lacking), (next(squares), next(squares)))


def _total(work: Work, layer: Layer, value: onnx_ir.Value) -> str:
    """The sum over all but the axis of outputs."""
    width = layer.groups * layer.out
    shape = (0, width, -1) if layer.op == "Conv" else (-1, width, 1)
    flat = work.op("Reshape", [value, work.integers(*shape)])
    return work.output(work.op("ReduceSum", [flat, work.integers(0, 2)], keepdims=0))
