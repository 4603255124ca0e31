"""What a pass is: it proposes candidates from what is known of a model, and applies those that were chosen."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from ...ir.analyses import Analyses
from ...ir.cost import Cost, Piece, piece_of
from ...ir.forms import Structure
from ...ir.layers import Layer
from ...ir.remarks import MISSED, Remark
from ...ir.rewriter import Rewriter
from ..curvature.moments import Moments, Want
from ..quantization.spreads import Spread

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """One concrete change at one site.

    `predicted` is its divergence in nats per sample; the pieces `before` and `after` are what runs without and with
    it, from which the planner takes the saving. Two candidates that touch a layer in common exclude each other within
    a stage. `choice` is what the pass needs to apply it.
    """

    site: str
    label: str
    predicted: float
    before: tuple[Piece, ...]
    after: tuple[Piece, ...]
    touches: frozenset[str]
    choice: Any

    @property
    def is_smaller(self) -> bool:
        """Whether it takes fewer bytes, as they are stored, or fewer multiply-adds."""
        before, after = (sum((piece.cost() for piece in pieces), Cost()) for pieces in (self.before, self.after))
        return after.bytes < before.bytes or after.macs < before.macs


@dataclass(frozen=True)
class Proposal:
    """All candidates of a pass, and a remark for every site that has none.

    `fixed` says that the options already fix how much is taken: then every candidate is, whatever it costs.
    """

    candidates: tuple[Candidate, ...]
    remarks: tuple[Remark, ...] = ()
    fixed: bool = False


@dataclass(frozen=True)
class Context:
    """What a pass may look at: the analyses of the model as it is, concrete shapes, and curvature.

    `shapes` gives the shape of every layer's inputs and outputs by value name, at the batch size that is optimized
    for. `moments` has an entry by layer name for all that `wants` asked for and that could be had. `spreads` tells how
    the numbers of values, by name, are spread over samples, as the model is before the pass.
    """

    analyses: Analyses
    shapes: Mapping[str, tuple[int, ...]]
    moments: Mapping[str, Moments]
    spreads: Callable[[Iterable[str]], Mapping[str, Spread]] = lambda _: {}
    memory: dict[Hashable, tuple[object, Any]] = field(default_factory=dict)

    def remembered(self, key: Hashable, layers: Iterable[str], compute: Callable[[], T]) -> T:
        """What `compute` gives, computed once for `key` for as long as the moments of `layers` stay the same.

        A price is tried many times, and most layers are the same each time.
        """
        held = tuple(self.moments.get(name) for name in layers)
        known = (key, *map(id, held))
        if known not in self.memory:
            self.memory[known] = held, compute()  # what is held can't be collected, so that its id stays its own
        return self.memory[known][1]

    def inputs(self, layer: Layer) -> tuple[tuple[int, ...], ...]:
        """The shapes of what the layer reads, one for each node."""
        return tuple(self.shapes[str(use.input.name)] for use in layer.uses)

    def piece(self, layer: Layer) -> Piece:
        """What runs of the layer now."""
        return piece_of(layer, self.shapes)

    def changed(self, layer: Layer, structure: Structure) -> Piece:
        """What runs once `layer` is `structure`, on what it reads now, its weights in the type that it computes in."""
        assert layer.dtype is not None
        return Piece(structure, self.inputs(layer), layer.dtype.itemsize)

    def replacement(self, layer: Layer, structure: Structure, predicted: float, choice: Any) -> Candidate:
        """The candidate that `layer` runs as `structure` on what it reads now."""
        before = self.piece(layer)
        after = self.changed(layer, structure)
        return Candidate(layer.name, structure.label, predicted, (before,), (after,), frozenset((layer.name,)), choice)


class Pass(ABC):
    """A rewrite that can be planned. Subclasses are frozen dataclasses whose fields are the options."""

    name: ClassVar[str]

    @property
    def opset(self) -> int:
        """The operator set that a model is to be brought to for what the pass emits, if that can be done."""
        return 0

    @property
    def machine_bound(self) -> bool:
        """Whether what the pass emits may give other outputs on another processor."""
        return False

    @property
    def for_speed(self) -> bool:
        """Whether changes that make a model slower are never worth it where time counts, however small they make it."""
        return False

    @abstractmethod
    def wants(self, analyses: Analyses) -> Iterable[Want]:
        """The moments that `propose` reads."""

    @abstractmethod
    def propose(self, context: Context) -> Proposal:
        """Candidates at every site, from slight to drastic; changes nothing."""

    @abstractmethod
    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        """Makes the change; `context` is that of `propose`, `rewriter.analyses` knows what was applied since."""

    def missed(self, site: str, reason: str, detail: str) -> Remark:
        """The verdict on a site that is left alone; `reason` is a stable code, `detail` the sentence for a person."""
        return Remark(site, self.name, MISSED, reason, detail)
