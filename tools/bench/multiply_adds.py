"""What K-FAC's statistics cost by count: the multiply-adds of the forward pass, the data gradients, A and G."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Map:
    """A linear layer of one group at work: y = W a with W [out, inputs], applied at `positions` (samples included).
    `passes_on` says whether the gradient goes on to what it reads."""

    inputs: int
    out: int
    positions: int
    passes_on: bool


@dataclass(frozen=True)
class Count:
    """Multiply-adds by part; A and G in full, though they are symmetric."""

    forward: int = 0
    backward: int = 0
    inputs: int = 0
    gradients: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.forward + other.forward,
            self.backward + other.backward,
            self.inputs + other.inputs,
            self.gradients + other.gradients,
        )

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.inputs + self.gradients


def of_maps(maps: Iterable[Map]) -> Count:
    """Of all layers; two that read the same activation count twice, as hooks compute them."""
    return sum((_of_map(m) for m in maps), Count())


def of_attention(samples: int, tokens: int, width: int, blocks: int) -> Count:
    """Of the products Q K^T and P V of `blocks` attentions, all their heads together `width` wide: each product has two
    data gradients."""
    product = samples * tokens**2 * width
    return Count(forward=2 * product * blocks, backward=4 * product * blocks)


def _of_map(m: Map) -> Count:
    forward = m.positions * m.inputs * m.out
    return Count(forward, forward if m.passes_on else 0, m.positions * m.inputs**2, m.positions * m.out**2)
