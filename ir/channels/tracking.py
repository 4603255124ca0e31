"""Which channel every position of a value's axis holds: the record that the channel rules write while they walk a
graph."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir

from ..dimensions import dims


@dataclass(frozen=True, eq=False)
class Track:
    """The axis of a value that holds channels, its rank, and the channel `ids` [dim] along that axis."""

    axis: int
    rank: int
    ids: np.ndarray

    @property
    def right(self) -> int:
        """The axis counted from the right, 1 for the last: broadcasting aligns these."""
        return self.rank - self.axis


@dataclass(frozen=True, eq=False)
class BlockedChannels:
    """Channels that must stay, and why."""

    ids: np.ndarray
    reason: str
    detail: str


@dataclass(frozen=True, eq=False)
class ChannelSite:
    """A place that changes when a channel goes: `make(index)` describes it, index [channels, m] being positions in
    `ids`."""

    make: Callable[[np.ndarray], object]
    ids: np.ndarray


@dataclass
class Ledger:
    """What is known of the channels of one graph so far.

    `pairs` holds channels that are the same, position by position. `reads` holds, for each layer that reads channels,
    the track of every use (None where a use reads something else). `elsewhere` gives the ranks of values whose channels
    another record holds.
    """

    elsewhere: Callable[[onnx_ir.Value], int | None] = lambda value: None
    tracks: dict[onnx_ir.Value, Track] = field(default_factory=dict)
    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    blocks: list[BlockedChannels] = field(default_factory=list)
    sites: list[ChannelSite] = field(default_factory=list)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    reads: dict[str, list[Track | None]] = field(default_factory=dict)
    count: int = 0

    def fresh(self, size: int) -> np.ndarray:
        """Ids of `size` new channels."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def tracked(self, node: onnx_ir.Node) -> list[Track]:
        """The tracks of the inputs of `node` that have one."""
        return [self.tracks[v] for v in node.inputs if v is not None and v in self.tracks]

    def rank(self, value: onnx_ir.Value) -> int | None:
        """The number of axes of `value`, if it is known."""
        if value in self.tracks:
            return self.tracks[value].rank
        known, shape = self.elsewhere(value), dims(value)
        return known if shape is None or known is not None else len(shape)

    def same(self, a: np.ndarray, b: np.ndarray) -> None:
        """Channels a[i] and b[i] go together."""
        self.pairs.append((a, b))

    def block(self, tracks: Iterable[Track], reason: str, detail: str) -> None:
        """The channels of `tracks` must stay."""
        self.blocks.extend(BlockedChannels(t.ids, reason, detail) for t in tracks)

    def block_node(self, node: onnx_ir.Node, reason: str, detail: str) -> None:
        """All channels that `node` reads must stay; what it gives holds no known channels."""
        self.block(self.tracked(node), reason, f"{node.op_type} {node.name!r} {detail}")

    def follow(self, value: onnx_ir.Value, axis: int, rank: int, ids: np.ndarray) -> None:
        """`value` has the channels `ids` along `axis`."""
        self.tracks[value] = Track(axis, rank, ids)
