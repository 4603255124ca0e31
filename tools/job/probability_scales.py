"""Whether what a person calls decisions are probabilities or log-odds: heads and their values on a few samples in;
heads out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...ir.head_kinds import BERNOULLI
from ...ir.output_heads import ASKED_FOR, Head
from ...ir.output_heads.head import LOGITS, PROBABILITIES


def is_open(head: Head) -> bool:
    """Whether the graph doesn't say which of both it is."""
    return head.kind == BERNOULLI and head.reason == ASKED_FOR and head.scale == LOGITS


def with_scales(heads: Sequence[Head], outputs: Mapping[str, np.ndarray]) -> tuple[Head, ...]:
    """Values that all lie between 0 and 1 are probabilities."""
    return tuple(replace(h, scale=PROBABILITIES) if is_open(h) and within_unit(outputs[h.output]) else h for h in heads)


def within_unit(values: np.ndarray) -> bool:
    """Whether all values lie between 0 and 1."""
    return bool(((values >= 0) & (values <= 1)).all())
