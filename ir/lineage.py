"""What became of the layers of a model: rewrites in; for each layer the names of those that now stand for it out."""

from collections.abc import Iterable
from dataclasses import dataclass

from .channels.groups import Group
from .rewriter import Projected, Removed, Replaced, Rewrite


@dataclass(frozen=True)
class Descent:
    """The `parts` that now stand for a layer, by name, in the order in which they run, and what was done to it, in the
    words of the remarks.

    A part that several layers share, a projection, is among those of each. A clean-up can have dropped parts.
    """

    parts: tuple[str, ...]
    changes: tuple[str, ...] = ()

    @property
    def form(self) -> str:
        """How the layer is run now: `low rank 8`, `12 of 16 channels`, or `dense` where nothing was done to it."""
        return ", ".join(self.changes) or "dense"


def lineage(layers: Iterable[str], rewrites: Iterable[Rewrite]) -> dict[str, Descent]:
    """What `rewrites` made of each of `layers`, those of the model before all of them."""
    descents = {name: Descent((name,)) for name in layers}
    for rewrite in rewrites:
        descents = {name: _after(descent, rewrite) for name, descent in descents.items()}
    return descents


def _after(descent: Descent, rewrite: Rewrite) -> Descent:
    if isinstance(rewrite, Replaced) and rewrite.layer in descent.parts:
        return _with(descent, {rewrite.layer: rewrite.parts}, rewrite.form.structure.label)
    if isinstance(rewrite, Projected) and not rewrite.ups.keys().isdisjoint(descent.parts):
        _, rank, width = rewrite.down.shape
        narrowed = {name: (rewrite.part, name) for name in rewrite.ups}
        return _with(descent, narrowed, f"projection {rank} of {width}")
    if isinstance(rewrite, Removed) and not _makers(rewrite.group).isdisjoint(descent.parts):
        return _with(descent, {}, f"{len(rewrite.keep)} of {rewrite.group.channels} channels")
    return descent


def _makers(group: Group) -> set[str]:
    return {maker.layer for maker in (*group.producers, *group.carriers)}


def _with(descent: Descent, parts: dict[str, tuple[str, ...]], change: str) -> Descent:
    replaced = (part for name in descent.parts for part in parts.get(name, (name,)))
    return Descent(tuple(replaced), (*descent.changes, change))
