"""The vectors that are back-propagated: how many each sample gets, and what they are."""

from collections.abc import Sequence

import numpy as np

from ...ir.output_heads import Head
from .seeds import Seeds
from .settings import Curvature
from .survey import Survey


def draws(settings: Curvature, heads: Sequence[Head], found: Survey) -> int:
    """How many vectors each sample gets: all classes or decisions in turn, or random ones.

    Positions are drawn by themselves, so that where there are many, fewer draws do.
    """
    turns = in_turn(settings, heads, found)
    if turns:
        return turns
    positions = max(found.positions(0, head.output) for head in heads)
    return max(1, -(-settings.draws // positions))


def in_turn(settings: Curvature, heads: Sequence[Head], found: Survey) -> int:
    """How many classes or decisions are all that there is of one head, if they are few enough to take each in turn;
    else 0."""
    if len(heads) != 1 or heads[0].kind == "gaussian":
        return 0
    (head,) = heads
    if head.kind == "categorical":
        number = found.classes(0, head.output) if found.positions(0, head.output) == 1 else 0
    else:
        number = found.decisions(head.output) or 0
    return number if number <= settings.exact_classes else 0


def vectors(
    settings: Curvature, heads: Sequence[Head], seeds: Seeds, found: Survey, number: int, draw: int
) -> dict[str, np.ndarray]:
    """What the graph's inputs for the seeds get for the feed of this number; the same again for the same numbers.

    A categorical head with several positions is divided by the root of their number, so that its loss is the mean over
    them.
    """
    random = np.random.default_rng((settings.seed, number, draw))
    turns = in_turn(settings, heads, found)
    result: dict[str, np.ndarray] = {}
    for head in heads:
        size = found.shapes[number][head.output]
        positions = found.positions(number, head.output) if head.kind == "categorical" else 1
        result[seeds.scales[head.output]] = np.array(found.scales[head.output] / np.sqrt(positions))
        result[seeds.draws[head.output]] = _turn(head, found, size, turns, draw) if turns else _signs(random, size)
    return result


def _turn(head: Head, found: Survey, size: tuple[int, ...], turns: int, k: int) -> np.ndarray:
    """The root of how many there are at the class, or each sample's decision, of number `k`; 0 elsewhere."""
    vector = np.zeros(size)
    if head.kind == "categorical":
        np.moveaxis(vector, found.axes.get(head.output, -1), -1)[..., k] = np.sqrt(turns)
    else:
        vector.reshape(-1, turns)[:, k] = np.sqrt(turns)
    return vector


def _signs(random: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return np.asarray(random.integers(0, 2, size) * 2 - 1, np.float32)
