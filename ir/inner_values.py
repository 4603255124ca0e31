"""Values inside a graph as what a model is judged by: shown as outputs beside its own, taken away again, and which ones
could stand for outputs that can't be compared."""

from collections.abc import Callable, Collection, Iterable, Iterator

import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .autodiff.reverse import read
from .cleanup.guarded_step import attempt
from .dimensions import constant_tensor
from .model import clone
from .model.shape_inference import infer_shapes
from .row_counts import Origin, RowCounts

CARRIERS = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


def inferred(model: onnx_ir.Model) -> onnx_ir.Model:
    """A copy of the same signature in which the values inside have types and shapes, as far as they can be inferred:
    what the file itself says of them where nothing can."""
    return attempt("inferring shapes", infer_shapes, clone(model), [])


def shown(model: onnx_ir.Model, names: Iterable[str]) -> onnx_ir.Model:
    """A copy of `model` with its values `names`, which nodes of the main graph make, as outputs after its own."""
    copy = inferred(model)
    made = {value.name: value for node in copy.graph for value in node.outputs}
    for value in (made[name] for name in names):
        if not value.is_graph_output():
            copy.graph.outputs.append(value)
    return copy


def without_shown(model: onnx_ir.Model, original: onnx_ir.Model) -> onnx_ir.Model:
    """A copy of `model` with the outputs of `original` alone, without the nodes that nothing needs then."""
    copy, names = clone(model), {value.name for value in original.graph.outputs}
    kept = [value for value in copy.graph.outputs if value.name in names]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(kept)
    return RemoveUnusedNodesPass()(copy).model


def is_comparable(value: onnx_ir.Value, counts: RowCounts) -> bool:
    """Whether it is a tensor of floating-point numbers that the network computes, of which there are as many whatever
    it computes; not integers, such as labels, in that type."""
    computed = counts.values.get(value) == Origin.COMPUTED and value.producer() is not None
    return computed and counts.sizes.get(value) != Origin.COMPUTED and all(map(_is_floating, _handed_on(value)))


def _handed_on(value: onnx_ir.Value) -> Iterator[onnx_ir.Value]:
    """The value, and those of which it is no more than another type or order."""
    yield value
    while (producer := value.producer()) is not None and producer.op_type in CARRIERS:
        source = producer.inputs[0]
        if source is None:
            return
        value = source
        yield value


def _is_floating(value: onnx_ir.Value) -> bool:
    return isinstance(value.type, onnx_ir.TensorType) and value.type.dtype.is_floating_point()


def stand_ins(outputs: Iterable[onnx_ir.Value], counts: RowCounts, known: Collection[str] = ()) -> tuple[str, ...]:
    """The names of the nearest comparable values that `outputs` are computed from, in the order of the graph; values
    that are `known` are looked behind no further, and not among them.

    One that follows from the others alone, without a weight of its own, is left out.
    """
    met = {v for v in counts.values if v.name in known}
    reached = _upstream(outputs, lambda v: v in met or is_comparable(v, counts))
    found = {value for value in reached if value not in met and is_comparable(value, counts)}
    needed = (value for value in counts.values if value in found and not _follows(value, found | met))
    return tuple(str(value.name) for value in needed)


def _follows(value: onnx_ir.Value, others: Collection[onnx_ir.Value]) -> bool:
    """Whether `value` is computed from some of `others` and from constants without axes that could be weights'."""
    producer = value.producer()
    assert producer is not None
    met = set(_upstream(read(producer), lambda v: v in others))
    sources = {v for v in met if v.producer() is None}
    return bool(met & set(others)) and all((t := constant_tensor(v)) is not None and len(t.shape) < 2 for v in sources)


def _upstream(starts: Iterable[onnx_ir.Value], ends: Callable[[onnx_ir.Value], bool]) -> Iterator[onnx_ir.Value]:
    """The values that `starts` are computed from, these first; none that lies behind one at which a way `ends`."""
    open_ = dict.fromkeys(starts)
    seen = set(open_)
    while open_:
        value = next(iter(open_))
        del open_[value]
        yield value
        producer = value.producer()
        if producer is not None and not ends(value):
            further = [v for v in read(producer) if v not in seen]
            seen.update(further)
            open_.update(dict.fromkeys(further))
