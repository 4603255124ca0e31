"""The groups of a model that changes: found once, then again only in the regions that a rewrite touched.

Channels don't pass through a layer that mixes them, so that its inputs and its outputs lie in different regions unless
they meet elsewhere. What is true in one region doesn't depend on another, but for the rank of what a layer reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx_ir

from ..layer_book import Change, LayerBook
from ..layers import Layer, Layers, is_constant
from ..remarks import MISSED, Remark
from . import arithmetic_rules, layout_rules  # noqa: F401  both register rules
from .groups import Group, Groups, find_groups, old_opset
from .rules import apply_rule, carry, make, rank_of_output, read
from .tracking import Ledger

Seed = onnx_ir.Value | str  # a value, or the outputs of the layer of a name


@dataclass(frozen=True, eq=False)
class Region:
    """What was found in one: how channels lie in its values, the groups, and by layer why its outputs are in none."""

    ledger: Ledger
    groups: Mapping[str, Group]
    left: Mapping[str, Remark]


@dataclass
class _Reach:
    """The nodes of a region, the layers that read it, and those whose outputs are part of it."""

    nodes: dict[onnx_ir.Node, None] = field(default_factory=dict)
    reading: set[str] = field(default_factory=set)
    making: set[str] = field(default_factory=set)
    seen: set[Seed] = field(default_factory=set)


class GroupBook:
    """The groups of `model`, whose layers `layers` holds, as both were when `note` was last told of a change."""

    def __init__(self, model: onnx_ir.Model, layers: LayerBook):
        self.model, self.layers = model, layers
        self._old = old_opset(model)
        self._of: dict[Seed, Region] = {}
        self._regions: dict[Region, None] = {}
        self._ranks: dict[str, int | None] = {}
        self._waiting: dict[Seed, None] = {}
        self._followed: set[onnx_ir.Value] = set()
        self._places: dict[onnx_ir.Node, int] = {}
        if self._old is None:
            self._begin()

    def note(self, changes: Mapping[str, Change]) -> None:
        """Which layers are not what they were. All that a rewrite changes lies in a region of one of them."""
        if self._old is not None:
            return
        for name, (before, after) in changes.items():
            if _outside(before) != _outside(after):
                self._wait([name, *_outputs(before), *_outputs(after)])
            if _inside(before) != _inside(after):
                self._wait([*_inputs(before), *_inputs(after)])

    def groups(self, layers: Layers) -> Groups:
        """All groups, in the order of their first layer."""
        if self._old is not None:
            return Groups({}, tuple(Remark(name, "groups", MISSED, "old-opset", self._old) for name in layers.found))
        self._renew()
        place = {name: k for k, name in enumerate(layers.found)}
        groups = [group for region in self._regions for group in region.groups.values()]
        groups.sort(key=lambda group: min((place[p.layer], int(p.rows.min())) for p in group.producers))
        left = (self._of[name].left.get(name) for name, layer in layers.found.items() if not layer.depthwise)
        carried = {carrier.layer for group in groups for carrier in group.carriers}
        alone = (n for n, layer in layers.found.items() if layer.depthwise and n not in carried)
        detail = "hands on channels that no removable layer makes"
        depthwise = (Remark(name, "groups", MISSED, "depthwise", detail) for name in alone)
        return Groups({g.name: g for g in groups}, (*(r for r in left if r is not None), *depthwise))

    def by_name(self, name: str) -> Group | None:
        """The group of this name, if there is one; it is named for a layer whose outputs it holds."""
        self._renew()
        for made in (name, name.rpartition("#")[0]):
            region = self._of.get(made)
            if region is not None and name in region.groups:
                return region.groups[name]
        return None

    def _begin(self) -> None:
        """Follows all channels through the whole graph, to know where they go."""
        ledger, by_node = Ledger(), self.layers.by_node
        for node in self.model.graph:
            _step(node, by_node.get(node), ledger, True, True)
        self._followed = set(ledger.tracks)
        self._waiting = dict.fromkeys(name for name, layer in self.layers.by_name.items() if not layer.depthwise)

    def _wait(self, seeds: Iterable[Seed]) -> None:
        """Forgets the regions that hold one of `seeds`: all of each has to be found again."""
        for seed in seeds:
            if isinstance(seed, str) or not is_constant(seed):
                self._waiting[seed] = None
                self._drop(seed)

    def _drop(self, seed: Seed) -> None:
        region = self._of.get(seed)
        if region is None:
            return
        del self._regions[region]
        for part in (*region.ledger.tracks, *region.ledger.rows):
            del self._of[part]
            self._waiting[part] = None
            if isinstance(part, onnx_ir.Value):
                self._followed.add(part)

    def _renew(self) -> None:
        if not self._waiting:
            return
        self._followed.update(seed for seed in self._waiting if isinstance(seed, onnx_ir.Value))
        done: set[Seed] = set()
        while self._waiting:
            seed, _ = self._waiting.popitem()
            if seed not in done and self._stands(seed):
                done |= self._find(seed)
        self._followed = set()

    def _stands(self, seed: Seed) -> bool:
        layer = self.layers.by_name.get(seed) if isinstance(seed, str) else None
        return not isinstance(seed, str) or (layer is not None and not layer.depthwise)

    def _find(self, seed: Seed) -> set[Seed]:
        """Makes the region around `seed`; returns what it reaches."""
        reach = _Reach()
        self._extend(reach, [seed])
        while True:
            ledger = self._walk(reach)
            new = [value for value in ledger.tracks if value not in reach.seen]
            if not new:
                break
            self._followed.update(new)
            self._extend(reach, new)
        self._keep(reach, ledger)
        return reach.seen

    def _keep(self, reach: _Reach, ledger: Ledger) -> None:
        for part in reach.seen:
            self._drop(part)
        found = find_groups(ledger, self.layers.by_name, self.model.graph)
        region = Region(ledger, found.found, {remark.site: remark for remark in found.left})
        self._regions[region] = None
        self._of.update(dict.fromkeys((*ledger.tracks, *ledger.rows), region))
        for name in reach.reading:
            layer = self.layers.by_name[name]
            if name in self._ranks and self._ranks[name] != self._rank(layer, ledger):
                self._wait([name])

    def _rank(self, layer: Layer, ledger: Ledger) -> int | None:
        return rank_of_output(layer.uses[0].node, layer, ledger)

    def _walk(self, reach: _Reach) -> Ledger:
        ledger = Ledger(self._rank_elsewhere)
        for node in self._in_order(reach.nodes):
            layer = self.layers.by_node.get(node)
            name = None if layer is None else layer.name
            _step(node, layer, ledger, name in reach.reading, name in reach.making)
            if layer is not None and name in reach.making and node is layer.uses[0].node:
                self._ranks[layer.name] = self._rank(layer, ledger)
        return ledger

    def _in_order(self, nodes: Iterable[onnx_ir.Node]) -> list[onnx_ir.Node]:
        """Those of `nodes` that are in the main graph, in its order. Nodes come and go, but don't change places."""
        here = [node for node in nodes if node.graph is self.model.graph]
        if any(node not in self._places for node in here):
            self._places = {node: k for k, node in enumerate(self.model.graph)}
        return sorted(here, key=self._places.__getitem__)

    def _rank_elsewhere(self, value: onnx_ir.Value) -> int | None:
        region = self._of.get(value)
        return None if region is None else region.ledger.tracks[value].rank

    def _extend(self, reach: _Reach, seeds: Iterable[Seed]) -> None:
        waiting = list(seeds)
        while waiting:
            seed = waiting.pop()
            if seed not in reach.seen:
                reach.seen.add(seed)
                waiting.extend(self._beside(seed, reach))

    def _beside(self, seed: Seed, reach: _Reach) -> Iterable[Seed]:
        """What lies in one region with a value, or with the outputs of a layer."""
        if isinstance(seed, str):
            layer = self.layers.by_name[seed]
            reach.making.add(seed)
            reach.nodes.update(dict.fromkeys(use.node for use in layer.uses))
            return [use.output for use in layer.uses]
        producer = seed.producer()
        around = [use.node for use in seed.uses()]
        beside = [s for node in around for s in self._through(node, reach)]
        made = None if producer is None else self.layers.by_node.get(producer)
        if made is not None and not made.depthwise:
            return [*beside, made.name]
        return beside if producer is None else [*beside, *self._through(producer, reach)]

    def _through(self, node: onnx_ir.Node, reach: _Reach) -> Iterable[Seed]:
        """What lies in one region with what `node` reads; and with what it gives, unless it mixes channels."""
        layer = self.layers.by_node.get(node)
        nodes = [node] if layer is None else [use.node for use in layer.uses]
        reach.nodes.update(dict.fromkeys(nodes))
        if layer is not None:
            reach.reading.add(layer.name)
        sides = [v for n in nodes for v in n.inputs] if layer is None or layer.depthwise else _inputs(layer)
        given = [] if layer is not None and not layer.depthwise else [v for n in nodes for v in n.outputs]
        return [v for v in (*sides, *given) if v is not None and (v in self._of or v in self._followed)]


def _step(node: onnx_ir.Node, layer: Layer | None, ledger: Ledger, reads: bool, makes: bool) -> None:
    """Takes channels through `node`, on the sides of it that are followed."""
    if layer is None:
        return apply_rule(node, ledger)
    if layer.depthwise:
        return carry(node, layer, ledger)
    if reads:
        read(node, layer, ledger)
    if makes:
        make(node, layer, ledger)
    return None


def _outputs(layer: Layer | None) -> list[onnx_ir.Value]:
    return [] if layer is None else [use.output for use in layer.uses]


def _inputs(layer: Layer | None) -> list[onnx_ir.Value]:
    return [] if layer is None else [use.input for use in layer.uses]


def _outside(layer: Layer | None) -> tuple | None:
    """What of a layer matters to where its outputs go."""
    if layer is None:
        return None
    nodes = tuple(use.node for use in layer.uses)
    return layer.op, layer.groups, layer.out, layer.depthwise, layer.kernel, nodes, tuple(_outputs(layer))


def _inside(layer: Layer | None) -> tuple | None:
    """What of a layer matters to where its inputs come from."""
    if layer is None:
        return None
    nodes = tuple(use.node for use in layer.uses)
    carried = layer.out if layer.depthwise else None
    return layer.op, layer.groups, layer.inputs, carried, layer.kernel, nodes, tuple(_inputs(layer))
