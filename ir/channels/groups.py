"""Channels that have to be removed together: where they go in, groups out, and a remark for each layer that is in
none."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..layers import Layer
from ..remarks import MISSED, Remark
from . import arithmetic_rules, layout_rules  # noqa: F401  both register rules
from .pieces import Carrier, Consumer, Extent, Producer, Resized, Sliced
from .tracking import BlockedChannels, ChannelSite, Ledger, Track

CONV_MULTIPLE = 8
OLDEST_OPSET = 13  # before it Softmax, Split, Squeeze and others meant or were written something else


@dataclass(frozen=True, eq=False)
class Group:
    """`channels` channels, each of which can go or stay; channel i is row i of every index array in here.

    A channel's rows go from all `producers`, its columns from all `consumers`; `carriers`, `constants` and `extents`
    shrink with it, and so do the shapes in `resized`. Kept counts should be multiples of `multiple`: convolutions are
    slow at others.
    """

    name: str
    channels: int
    producers: tuple[Producer, ...]
    consumers: tuple[Consumer, ...]
    multiple: int
    carriers: tuple[Carrier, ...] = ()
    constants: tuple[Sliced, ...] = ()
    extents: tuple[Extent, ...] = ()
    resized: tuple[Resized, ...] = ()


@dataclass(frozen=True)
class Groups:
    """The groups by name, and a remark for each layer no channel of which can be removed."""

    found: dict[str, Group]
    left: tuple[Remark, ...]


def find_groups(ledger: Ledger, layers: Mapping[str, Layer], graph: onnx_ir.Graph) -> Groups:
    """The groups of the part of `graph` that `ledger` holds, in the order of their first layer; each is named for that
    layer.

    Channels are followed from the layer that makes them to the layers that read them linearly. Where they meet (a
    residual addition) they become one; where something else looks at them (a graph output, a normalisation over the
    channels, a Reshape that splits them) they have to stay. A group is a set of channels that take part in the same
    pieces of the graph, equally often.
    """
    _settle(graph, layers, ledger)
    labels = _labels(ledger)
    blocked = _blocked(ledger, labels)
    found = _groups(layers, ledger, labels, set(blocked))
    return Groups(found, tuple(_left(ledger, labels, blocked, found)))


def old_opset(model: onnx_ir.Model) -> str | None:
    """Why no channels of `model` are followed, if they aren't."""
    opset = model.opset_imports.get("", OLDEST_OPSET)
    if opset >= OLDEST_OPSET:
        return None
    return f"the model is of opset {opset}, and could not be brought to a newer one"


def _settle(graph: onnx_ir.Graph, layers: Mapping[str, Layer], ledger: Ledger) -> None:
    """What can be said only when the whole graph was seen: who reads outside of it, and whether all uses of a layer
    agree."""
    for value, track in ledger.tracks.items():
        if value.is_graph_output():
            ledger.block([track], "graph-output", f"they are the graph's output {value.name!r}")
        if any(use.node.graph is not graph for use in value.uses()):
            ledger.block([track], "subgraph", f"{value.name!r} is read inside the body of an If, Loop or Scan")
        ledger.sites.append(ChannelSite(partial(Resized, str(value.name), track.axis), track.ids))
    for name, reads in ledger.reads.items():
        _settle_reads(layers[name], reads, ledger)
    for name, ids in ledger.rows.items():
        ledger.sites.append(ChannelSite(partial(Producer, name), ids))


def _settle_reads(layer: Layer, reads: list[Track | None], ledger: Ledger) -> None:
    known = [r for r in reads if r is not None]
    if len(known) < len(reads):
        return ledger.block(known, "shared-layer", f"layer {layer.name!r} also reads an input whose channels can't go")
    first = known[0].ids
    for track in known[1:]:
        ledger.same(first, track.ids)
    if layer.depthwise:
        carried = partial(Carrier, layer.name, multiplier=layer.out)
        ledger.sites.append(ChannelSite(carried, np.repeat(first, layer.out)))
    else:
        taps = layer.inputs // layer.channels
        ledger.sites.append(ChannelSite(partial(Consumer, layer.name), np.repeat(first, taps)))


def _labels(ledger: Ledger) -> np.ndarray:
    """For every id [ids] the number of its channel: ids that were paired have the same."""
    if not ledger.pairs:
        return np.arange(ledger.count)
    a, b = (np.concatenate(side) for side in zip(*ledger.pairs, strict=True))
    links = coo_array((np.ones(len(a), bool), (a, b)), (ledger.count, ledger.count))
    return connected_components(links, directed=False)[1]


def _blocked(ledger: Ledger, labels: np.ndarray) -> dict[int, BlockedChannels]:
    """The first block of every channel that must stay."""
    blocked: dict[int, BlockedChannels] = {}
    for block in ledger.blocks:
        for label in np.unique(labels[block.ids]):
            blocked.setdefault(int(label), block)
    return blocked


def _groups(layers: Mapping[str, Layer], ledger: Ledger, labels: np.ndarray, blocked: set[int]) -> dict[str, Group]:
    parts: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, site in enumerate(ledger.sites):
        for label, count in zip(*np.unique(labels[site.ids], return_counts=True), strict=True):
            if int(label) not in blocked:
                parts[int(label)].append((number, int(count)))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for label in _in_order(labels):
        if label in parts:
            alike[tuple(parts[label])].append(label)
    found: dict[str, Group] = {}
    for places, channels in alike.items():
        group = _group(layers, ledger, places, labels, np.array(channels))
        if group is not None:
            name = _free(group.name, found)
            found[name] = replace(group, name=name)
    return {name: group for name, group in found.items() if group.channels > 1}


def _in_order(labels: np.ndarray) -> list[int]:
    """All labels, in the order of their first id."""
    values, first = np.unique(labels, return_index=True)
    return [int(v) for v in values[np.argsort(first)]]


def _group(
    layers: Mapping[str, Layer],
    ledger: Ledger,
    places: Iterable[tuple[int, int]],
    labels: np.ndarray,
    channels: np.ndarray,
) -> Group | None:
    sites = [(ledger.sites[k], count) for k, count in places]
    pieces = [site.make(_positions(labels[site.ids], channels, count)) for site, count in sites]
    producers = tuple(p for p in pieces if isinstance(p, Producer))
    consumers = tuple(p for p in pieces if isinstance(p, Consumer))
    carriers = tuple(p for p in pieces if isinstance(p, Carrier))
    if not producers or not consumers:
        return None
    convolutional = any(layers[p.layer].op == "Conv" for p in (*producers, *consumers, *carriers))
    return Group(
        name=_first_name(ledger, producers),
        channels=len(channels),
        producers=producers,
        consumers=consumers,
        multiple=CONV_MULTIPLE if convolutional else 1,
        carriers=carriers,
        constants=tuple(p for p in pieces if isinstance(p, Sliced)),
        extents=tuple(p for p in pieces if isinstance(p, Extent)),
        resized=tuple(p for p in pieces if isinstance(p, Resized)),
    )


def _positions(labels: np.ndarray, channels: np.ndarray, count: int) -> np.ndarray:
    """Where each of `channels` stands among `labels`, ascending: [channels, count]."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], channels)
    return order[first[:, None] + np.arange(count)]


def _first_name(ledger: Ledger, producers: Iterable[Producer]) -> str:
    made = {p.layer for p in producers}
    return next(name for name in ledger.rows if name in made)


def _free(name: str, taken: dict[str, Group]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}#{number}", number + 1
    return free


def _left(
    ledger: Ledger, labels: np.ndarray, blocked: dict[int, BlockedChannels], found: dict[str, Group]
) -> Iterable[Remark]:
    grouped = {p.layer for group in found.values() for p in group.producers}
    for name, ids in ledger.rows.items():
        if name in grouped:
            continue
        block = next((blocked[int(k)] for k in labels[ids] if int(k) in blocked), None)
        if len(ids) < 2:
            yield Remark(name, "groups", MISSED, "one-channel", "has a single output channel")
        elif block is None:
            yield Remark(name, "groups", MISSED, "no-consumer", "no layer reads the output channels")
        else:
            yield Remark(name, "groups", MISSED, block.reason, block.detail)
