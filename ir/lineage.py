"""What became of the layers of a model: rewrites in; for each layer the names of those that now stand for it out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from .channels.groups import Group
from .coded_forms import Coded, Multiplied
from .forms import Chain, Striped, Structure
from .layers import Layer
from .rewriter import Cleaned, Projected, Quantized, Redirected, Removed, Replaced, Rewrite, Tuned
from .scaled_forms import Scaled


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
    holders = {name: {name: None} for name in descents}  # by part, the layers that it stands for
    for rewrite in rewrites:
        touched = dict.fromkeys(name for part in _touched(rewrite) for name in holders.get(part, ()))
        for name in touched:
            descents[name] = after = _after(descents[name], rewrite)
            for part in after.parts:
                holders.setdefault(part, {})[name] = None
    return descents


def _touched(rewrite: Rewrite) -> Iterable[str]:
    """The layers to which something was done."""
    match rewrite:
        case Replaced():
            return (rewrite.layer,)
        case Projected():
            return tuple(rewrite.ups)
        case Redirected():
            return (rewrite.layer, *rewrite.gone)
        case Removed():
            return _makers(rewrite.group)
        case Cleaned() | Tuned() | Quantized():
            return ()
        case _:
            assert_never(rewrite)


def _after(descent: Descent, rewrite: Rewrite) -> Descent:
    if isinstance(rewrite, Replaced) and rewrite.layer in descent.parts:
        return _with(descent, {rewrite.layer: rewrite.parts}, rewrite.form.structure.label)
    if isinstance(rewrite, Projected) and not rewrite.ups.keys().isdisjoint(descent.parts):
        _, rank, width = rewrite.down.shape
        narrowed = {name: (rewrite.part, name) for name in rewrite.ups}
        return _with(descent, narrowed, f"projection {rank} of {width}")
    if isinstance(rewrite, Redirected) and not {rewrite.layer, *rewrite.gone}.isdisjoint(descent.parts):
        own = {rewrite.layer: rewrite.parts} if rewrite.layer in descent.parts else {}
        merged = dict.fromkeys(rewrite.gone, () if own else rewrite.parts)
        return _with(descent, {**merged, **own}, rewrite.form.structure.label if own else f"part of {rewrite.layer}")
    if isinstance(rewrite, Removed) and not _makers(rewrite.group).isdisjoint(descent.parts):
        return _with(descent, {}, f"{len(rewrite.keep)} of {rewrite.group.channels} channels")
    return descent


def _makers(group: Group) -> set[str]:
    return {maker.layer for maker in (*group.producers, *group.carriers)}


def _with(descent: Descent, parts: dict[str, tuple[str, ...]], change: str) -> Descent:
    replaced = dict.fromkeys(part for name in descent.parts for part in parts.get(name, (name,)))
    return Descent(tuple(replaced), (*descent.changes, change))


@dataclass(frozen=True, eq=False)
class Heir:
    """A layer, by name, that now gives outputs of another: its outputs are those of the numbers `rows`, among the
    groups * out that there were."""

    layer: str
    rows: np.ndarray


Heirs = tuple[Heir, ...]


def heirs(layers: Mapping[str, Layer], rewrites: Iterable[Rewrite]) -> dict[str, Heirs]:
    """Which layers give the outputs of each of `layers`, those of the model before all `rewrites`: the last part of a
    chain, every stripe of a block-sparse form; together they have the rows that were not removed. None where that is
    not known: of structures that others have made."""
    found: dict[str, Heirs] = {
        name: (Heir(name, np.arange(layer.groups * layer.out)),) for name, layer in layers.items()
    }
    holders = {name: name for name in found}  # by heir, the layer whose it is
    for rewrite in rewrites:
        for name in dict.fromkeys(holders[part] for part in _touched(rewrite) if part in holders):
            found[name] = tuple(new for heir in found[name] for new in _succeeded(heir, rewrite))
            holders.update(dict.fromkeys((heir.layer for heir in found[name]), name))
    return found


def _succeeded(heir: Heir, rewrite: Rewrite) -> Iterator[Heir]:
    if isinstance(rewrite, Redirected) and heir.layer in rewrite.gone:
        return
    if isinstance(rewrite, Replaced | Redirected) and rewrite.layer == heir.layer:
        last = _givers(rewrite.form.structure, rewrite.parts)
        yield from map(Heir, last, np.split(heir.rows, len(last) or 1))
    elif isinstance(rewrite, Removed):
        yield Heir(heir.layer, np.delete(heir.rows, _gone(heir.layer, rewrite)))
    else:
        yield heir


def _givers(structure: Structure, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the parts that a layer became that give its outputs, each as many, in their order."""
    match structure:
        case Chain() | Multiplied():
            return parts[-1:]
        case Striped():
            return parts
        case Coded() | Scaled():
            return _givers(structure.structure, parts)
        case _:
            return ()


def _gone(layer: str, rewrite: Removed) -> np.ndarray:
    """The outputs that `layer` lost, as they were numbered before."""
    gone = np.delete(np.arange(rewrite.group.channels), rewrite.keep)
    makers = (m for m in (*rewrite.group.producers, *rewrite.group.carriers) if m.layer == layer)
    return np.concatenate([np.zeros(0, int), *(maker.rows[gone].ravel() for maker in makers)])
