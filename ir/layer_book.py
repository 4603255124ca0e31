"""The layers of a model that changes: found once, then again only around what a rewrite touched."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import onnx_ir

from .layers import VIEWS, Layer, Layers, Unfit, identity, is_linear, layer_of, linear_nodes, readers_of_weight
from .remarks import MISSED, Remark
from .touched import Touched

Key = tuple
Change = tuple[Layer | None, Layer | None]


class LayerBook:
    """The layers of `model` as it was when `renew` was last told of a change."""

    def __init__(self, model: onnx_ir.Model):
        self.model = model
        self.by_name: dict[str, Layer] = {}
        self.by_node: dict[onnx_ir.Node, Layer] = {}
        self._keys: dict[onnx_ir.Node, Key | Remark] = {}
        self._members: dict[Key, list[onnx_ir.Node]] = {}
        self._verdicts: dict[Key, Layer | tuple[Remark, ...]] = {}
        self._find(linear_nodes(model))

    def renew(self, touched: Touched) -> dict[str, Change]:
        """Looks again at all layers that what was touched could matter to; returns, by name, those that are not what
        they were, as they were and as they are."""
        again = self._around(touched)
        before = {layer.name: layer for node in again if (layer := self.by_node.get(node)) is not None}
        for node in again:
            self._forget(node)
        there = [node for node in again if node.graph is not None]
        self._find(there)
        after = {layer.name: layer for node in there if (layer := self.by_node.get(node)) is not None}
        names = dict.fromkeys((*before, *after))
        return {n: (before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)}

    def layers(self) -> Layers:
        """All of them, as `find_layers` gives them."""
        keys: dict[Key, None] = {}
        left: list[Remark] = []
        for node in linear_nodes(self.model):
            key = self._keys[node]
            if isinstance(key, Remark):
                left.append(key)
            else:
                keys[key] = None
        verdicts = [self._verdicts[key] for key in keys]
        left.extend(remark for verdict in verdicts if isinstance(verdict, tuple) for remark in verdict)
        return Layers({v.name: v for v in verdicts if isinstance(v, Layer)}, tuple(left))

    def _find(self, nodes: Iterable[onnx_ir.Node]) -> None:
        """Judges `nodes`; all that could be the same layer are among them."""
        alike: dict[Key, list[onnx_ir.Node]] = defaultdict(list)
        for node in nodes:
            self._keys[node] = key = _key(node, self.model)
            if isinstance(key, tuple):
                alike[key].append(node)
        shared = [node for members in alike.values() if len(members) > 1 for node in members]
        places = {node: k for k, node in enumerate(self.model.graph)} if shared else {}
        for key, members in alike.items():
            members.sort(key=lambda node: places.get(node, 0))
            self._members[key] = members
            self._verdicts[key] = verdict = _verdict(members)
            if isinstance(verdict, Layer):
                self.by_name[verdict.name] = verdict
                self.by_node.update(dict.fromkeys(members, verdict))

    def _forget(self, node: onnx_ir.Node) -> None:
        key = self._keys.pop(node, None)
        self.by_node.pop(node, None)
        if not isinstance(key, tuple) or key not in self._verdicts:
            return
        verdict = self._verdicts.pop(key)
        del self._members[key]
        if isinstance(verdict, Layer) and self.by_name.get(verdict.name) is verdict:
            del self.by_name[verdict.name]

    def _around(self, touched: Touched) -> dict[onnx_ir.Node, None]:
        """The linear nodes, those that are gone too, whose verdict could be another one."""
        near = dict.fromkeys(node for node in touched.nodes if is_linear(node))
        near.update(dict.fromkeys(_neighbours(touched.values)))
        found: dict[onnx_ir.Node, None] = {}
        waiting = list(near)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found[node] = None
                waiting.extend((*self._siblings(node), *filter(is_linear, readers_of_weight(node))))
        return found

    def _siblings(self, node: onnx_ir.Node) -> list[onnx_ir.Node]:
        key = self._keys.get(node)
        return self._members.get(key, []) if isinstance(key, tuple) else []


def _key(node: onnx_ir.Node, model: onnx_ir.Model) -> Key | Remark:
    try:
        return identity(node, model)
    except Unfit as unfit:
        return _remark(node, unfit)


def _verdict(nodes: list[onnx_ir.Node]) -> Layer | tuple[Remark, ...]:
    try:
        return layer_of(nodes)
    except Unfit as unfit:
        return tuple(_remark(node, unfit) for node in nodes)


def _remark(node: onnx_ir.Node, unfit: Unfit) -> Remark:
    return Remark(node.name or "", "layers", MISSED, unfit.reason, unfit.detail)


def _neighbours(values: Iterable[onnx_ir.Value]) -> Iterator[onnx_ir.Node]:
    """The linear nodes that give one of `values` or read it, directly or behind nodes such as Transpose."""
    waiting, seen = list(values), set()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        around = [use.node for use in value.uses()] + ([] if producer is None else [producer])
        yield from (node for node in around if is_linear(node))
        waiting.extend(v for node in around if node.op_type in VIEWS for v in (*node.inputs, *node.outputs) if v)
