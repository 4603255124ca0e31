"""Channel rules of the operators that only move elements: axes, joins, parts and shapes."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import numpy as np
import onnx_ir

from ..dimensions import Dim, dims, integers
from ..layers import integer, is_constant
from .pieces import Extent, Sliced
from .reshaping import Entry, locate, target_dims, target_entries
from .rules import axes_of, first_input, optional_integers, rule
from .tracking import ChannelSite, Ledger, Track


@rule("Transpose")
def _transpose(node: onnx_ir.Node, ledger: Ledger) -> None:
    x = ledger.tracked(node)[0]
    attribute = node.attributes.get("perm")
    order = list(range(x.rank))[::-1] if attribute is None else list(attribute.as_ints())
    ledger.follow(node.outputs[0], order.index(x.axis), x.rank, x.ids)


@rule("Squeeze")
def _squeeze(node: onnx_ir.Node, ledger: Ledger) -> None:
    x = ledger.tracked(node)[0]
    axes = axes_of(node, 1)
    if not axes or x.axis in (gone := {a % x.rank for a in axes}):
        return ledger.block_node(node, "unsupported-op", "drops axes that are not said")
    ledger.follow(node.outputs[0], x.axis - sum(a < x.axis for a in gone), x.rank - len(gone), x.ids)


@rule("Unsqueeze")
def _unsqueeze(node: onnx_ir.Node, ledger: Ledger) -> None:
    x = ledger.tracked(node)[0]
    axes = axes_of(node, 1)
    if axes is None:
        return ledger.block_node(node, "unsupported-op", "adds axes that are computed")
    rank = x.rank + len(axes)
    added = {a % rank for a in axes}
    places = [a for a in range(rank) if a not in added]
    ledger.follow(node.outputs[0], places[x.axis], rank, x.ids)


@rule("Concat")
def _concat(node: onnx_ir.Node, ledger: Ledger) -> None:
    tracks = ledger.tracked(node)
    rank, axis = tracks[0].rank, integer(node, "axis", 0) % tracks[0].rank
    if any(t.axis != tracks[0].axis for t in tracks):
        return ledger.block_node(node, "two-axes", "joins channels along different axes")
    if axis != tracks[0].axis:
        return _side_by_side(node, ledger, tracks)
    parts: list[np.ndarray] = []
    for value in node.inputs:
        if value in ledger.tracks:
            parts.append(ledger.tracks[value].ids)
            continue
        shape = dims(value)
        size = None if shape is None else shape[axis]
        if not isinstance(size, int):
            return ledger.block_node(node, "unknown-shape", f"joins {value and value.name!r} of unknown size")
        parts.append(ledger.fresh(size))
        fixed = Track(axis, rank, parts[-1])
        ledger.block(
            [fixed],
            "not-produced",
            f"{node.op_type} {node.name!r} joins {value and value.name!r}, which no layer makes",
        )
    ledger.follow(node.outputs[0], axis, rank, np.concatenate(parts))


def _side_by_side(node: onnx_ir.Node, ledger: Ledger, tracks: list[Track]) -> None:
    """Concat along an axis other than that of the channels: the channels of all inputs are the same ones."""
    first = tracks[0]
    sites: list[ChannelSite] = []
    for k, value in enumerate(node.inputs):
        shape = dims(value)
        if value in ledger.tracks:
            continue
        if not is_constant(value) or shape is None or shape[first.axis] != len(first.ids):
            return ledger.block_node(
                node, "computed-operand", f"joins {value and value.name!r}, which no removable layer makes"
            )
        sites.append(ChannelSite(partial(Sliced, str(node.name), k, first.axis), first.ids))
    for track in tracks:
        ledger.same(first.ids, track.ids)
    ledger.sites.extend(sites)
    ledger.follow(node.outputs[0], first.axis, first.rank, first.ids)


@rule("Split")
def _split(node: onnx_ir.Node, ledger: Ledger) -> None:
    x = ledger.tracks.get(first_input(node))
    if x is None:
        return ledger.block_node(node, "computed-shape", "has sizes that are computed from channels")
    if integer(node, "axis", 0) % x.rank != x.axis:
        for value in node.outputs:
            ledger.follow(value, x.axis, x.rank, x.ids)
        return None
    sizes = _split_sizes(node, len(x.ids))
    if sizes is None:
        return ledger.block_node(node, "computed-shape", "has sizes that are computed")
    for k, (value, end, size) in enumerate(zip(node.outputs, accumulate(sizes), sizes, strict=True)):
        ids = x.ids[end - size : end]
        ledger.sites.append(ChannelSite(partial(Extent, str(node.name), 1, k, size, 1, whole=tuple(sizes)), ids))
        ledger.follow(value, x.axis, x.rank, ids)


def _split_sizes(node: onnx_ir.Node, total: int) -> list[int] | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return integers(node.inputs[1])
    parts = len(node.outputs)
    size = -(-total // parts)
    return [min(size, total - k * size) for k in range(parts)]


@rule("Slice")
def _slice(node: onnx_ir.Node, ledger: Ledger) -> None:
    x = ledger.tracks.get(first_input(node))
    starts, ends = (integers(node.inputs[k]) for k in (1, 2))
    axes = optional_integers(node, 3, list(range(len(starts or []))))
    steps = optional_integers(node, 4, [1] * len(starts or []))
    if x is None or starts is None or ends is None or axes is None or steps is None:
        return ledger.block_node(node, "computed-shape", "has bounds that are computed")
    ids = x.ids
    for k, (start, end, axis, step) in enumerate(zip(starts, ends, axes, steps, strict=True)):
        if axis % x.rank != x.axis:
            continue
        if step != 1:
            return ledger.block_node(node, "strided-slice", "takes channels in steps")
        ids = x.ids[start:end]
        ledger.sites.extend(s for s in (_bound(node, 1, k, start, x), _bound(node, 2, k, end, x)) if s is not None)
    ledger.follow(node.outputs[0], x.axis, x.rank, ids)


def _bound(node: onnx_ir.Node, number: int, position: int, bound: int, x: Track) -> ChannelSite | None:
    """A start or an end of a Slice moves by the channels that go before it (behind it, when it counts from the end)."""
    if not -len(x.ids) < bound < len(x.ids) or bound == 0:
        return None
    sign, ids = (1, x.ids[:bound]) if bound > 0 else (-1, x.ids[bound:])
    return ChannelSite(partial(Extent, str(node.name), number, position, bound, sign), ids)


@rule("Gather")
def _gather(node: onnx_ir.Node, ledger: Ledger) -> None:
    x, indices = ledger.tracks.get(first_input(node)), node.inputs[1]
    rank = None if indices is None or indices in ledger.tracks else ledger.rank(indices)
    if x is None or rank is None or integer(node, "axis", 0) % x.rank == x.axis:
        return ledger.block_node(node, "gathered", "picks channels by number")
    axis = integer(node, "axis", 0) % x.rank
    ledger.follow(node.outputs[0], x.axis if axis > x.axis else x.axis - 1 + rank, x.rank - 1 + rank, x.ids)


@rule("Pad")
def _pad(node: onnx_ir.Node, ledger: Ledger) -> None:
    x, pads = ledger.tracks.get(first_input(node)), integers(node.inputs[1])
    if x is None or pads is None:
        return ledger.block_node(node, "computed-shape", "has widths that are computed")
    axes = optional_integers(node, 3, list(range(x.rank)))
    if axes is None:
        return ledger.block_node(node, "computed-shape", "has axes that are computed")
    where = [k for k, a in enumerate(axes) if a % x.rank == x.axis]
    if any(pads[k] or pads[k + len(axes)] for k in where):
        return ledger.block_node(node, "padded", "adds channels")
    ledger.follow(node.outputs[0], x.axis, x.rank, x.ids)


@rule("Resize")
def _resize(node: onnx_ir.Node, ledger: Ledger) -> None:
    """Channels pass if their scale is 1 or their size stays; sizes are one shorter list when `axes` leaves the
    channels out."""
    x = ledger.tracks.get(first_input(node))
    attribute = node.attributes.get("axes")
    if x is None:
        return ledger.block_node(node, "computed-shape", "has sizes that are computed from channels")
    if _text_of(node, "keep_aspect_ratio_policy", "stretch") != "stretch" or _crops(node):
        return ledger.block_node(node, "resized", "scales all axes by what the sizes of all are, or crops")
    axes = list(range(x.rank)) if attribute is None else [a % x.rank for a in attribute.as_ints()]
    if x.axis in axes and not _keeps_size(node, ledger, x, axes.index(x.axis)):
        return ledger.block_node(node, "resized", "may change the number of channels")
    ledger.follow(node.outputs[0], x.axis, x.rank, x.ids)


def _crops(node: onnx_ir.Node) -> bool:
    return _text_of(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"


def _text_of(node: onnx_ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def _keeps_size(node: onnx_ir.Node, ledger: Ledger, x: Track, position: int) -> bool:
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    if scales is not None and dims(scales) != (0,):
        values = scales.const_value.numpy() if is_constant(scales) and scales.const_value is not None else None
        return values is not None and float(values[position]) == 1.0
    entries = target_entries(node, 3)
    entry = None if entries is None else entries[position]
    if entry is None or entry.value != len(x.ids):
        return False
    ledger.sites.append(ChannelSite(entry.shrinks(), x.ids))
    return True


@rule("Flatten")
def _flatten(node: onnx_ir.Node, ledger: Ledger) -> None:
    x, shape = ledger.tracked(node)[0], dims(first_input(node))
    axis = integer(node, "axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    start, stop = (0, axis) if x.axis < axis else (axis, x.rank)
    others = [] if shape is None else [d for a, d in enumerate(shape) if start <= a < stop and a != x.axis]
    if shape is None or not all(isinstance(d, int) for d in others):
        return ledger.block_node(node, "unknown-shape", "merges channels with an axis of unknown size")
    before = int(np.prod([d for d in shape[start : x.axis] if isinstance(d, int)]))
    behind = int(np.prod([d for d in shape[x.axis + 1 : stop] if isinstance(d, int)]))
    ids = np.tile(np.repeat(x.ids, behind), before)
    ledger.follow(node.outputs[0], 0 if x.axis < axis else 1, 2, ids)


@rule("Reshape")
def _reshape(node: onnx_ir.Node, ledger: Ledger) -> None:
    x, stated = ledger.tracks.get(first_input(node)), dims(first_input(node))
    if x is None or stated is None:
        return ledger.block_node(node, "unknown-shape", "reads a value of unknown shape")
    entries, inferred = target_entries(node, 1), dims(node.outputs[0])
    shape = (*stated[: x.axis], len(x.ids), *stated[x.axis + 1 :])
    out = inferred if entries is None else target_dims(shape, entries, inferred)
    place = locate(shape, x.axis, out) if out is not None and len(x.ids) > 1 else None
    if place is None or out is None:
        return ledger.block_node(node, "reshape-splits", f"turns the shape {_text(shape)} into {_text(out or [None])}")
    zeros = integer(node, "allowzero", 0) == 1 and any(e is None or e.value == 0 for e in entries or [])
    if entries is None or zeros:
        return ledger.block_node(node, "computed-shape", "has a shape that is computed")
    axis, repeats, size = place
    if not _stays_true(entries, axis, x.axis, repeats == 1 and size == len(x.ids)):
        return ledger.block_node(node, "computed-shape", "copies or computes the size of the channels")
    ids = np.resize(np.repeat(x.ids, repeats), size)
    entry = entries[axis]
    if entry is not None and entry.value > 0:
        ledger.sites.append(ChannelSite(entry.shrinks(), ids))
    ledger.follow(node.outputs[0], axis, len(out), ids)


def _stays_true(entries: list[Entry | None], axis: int, source: int, plain: bool) -> bool:
    """Whether the target shape still fits when channels have gone: it holds the size as a number, as -1, or as a
    copy (0) of the channels' own axis, and copies that size nowhere else."""
    own = entries[axis]
    if own is None or (own.value == 0 and not (plain and axis == source)):
        return False
    return not any(e is not None and e.value == 0 and k == source and k != axis for k, e in enumerate(entries))


@rule("Shape")
def _shape(node: onnx_ir.Node, ledger: Ledger) -> None:
    """Only sizes of other axes may be read: every reader must pick them by constants."""
    x = ledger.tracked(node)[0]
    start, end = integer(node, "start", 0), integer(node, "end", x.rank)
    read = list(range(x.rank))[start:end]
    if x.axis not in read:
        return
    position = read.index(x.axis)
    if node.outputs[0].is_graph_output() or any(_picks(u.node, position, len(read)) for u in node.outputs[0].uses()):
        ledger.block_node(node, "shape-read", "lets the graph compute with the number of channels")


def _picks(reader: onnx_ir.Node, position: int, length: int) -> bool:
    """Whether `reader` of a shape looks at the element `position`, as far as can be told."""
    if reader.op_type == "Gather":
        picked = integers(reader.inputs[1])
        return picked is None or position in {k % length for k in picked}
    if reader.op_type != "Slice":
        return True
    starts, ends = (integers(reader.inputs[k]) for k in (1, 2))
    steps = optional_integers(reader, 4, [1])
    if not starts or not ends or not steps:
        return True
    return position in list(range(length))[starts[0] : ends[0] : steps[0]]


def _text(shape: Sequence[Dim]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
