"""How well a model of the zoo still does its work: an entry and a model in, one number out. Accuracy, agreement, cosine
and fidelity are better when high, the character error rate when low; all lie near 0 to 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir

from ...runtime.sessions import Session, Target
from .entry import Entry

Batches = Sequence[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Run:
    """The outputs of a model on an entry's evaluation data, one dict a batch, and where to look up the original's."""

    entry: Entry
    feeds: Batches
    outputs: Batches
    target: Target

    @cached_property
    def reference(self) -> Batches:
        """The original's outputs on the same data."""
        return _outputs(self.entry.model, self.feeds, self.target)

    @cached_property
    def labels(self) -> np.ndarray:
        """One label a sample: integers, or words."""
        assert self.entry.labels is not None
        return np.load(self.entry.labels)


def evaluate(entry: Entry, model: onnx_ir.Model | Path, target: Target | None = None, batch: int = 64) -> float:
    """The score of `model` in the entry's own measure, on all of its evaluation data."""
    return SCORES[entry.score](ran(entry, model, target, batch))


def ran(entry: Entry, model: onnx_ir.Model | Path, target: Target | None = None, batch: int = 64) -> Run:
    """What `model` gives on all of the entry's evaluation data."""
    target, feeds = target or Target(), read_batches(entry.evaluation, batch)
    return Run(entry, feeds, _outputs(model, feeds, target), target)


def read_batches(data: Path, batch: int) -> Batches:
    """The feeds of a .npz, cut into batches of at most `batch` samples, or those of a folder of .npz, by name."""
    if data.is_dir():
        return [_arrays(path) for path in sorted(data.glob("*.npz"))]
    arrays = _arrays(data)
    samples = len(next(iter(arrays.values())))
    return [{k: v[start : start + batch] for k, v in arrays.items()} for start in range(0, samples, batch)]


def accuracy(run: Run) -> float:
    """Share of samples whose largest output is the label's."""
    return float(np.mean(hits(run)))


def hits(run: Run) -> np.ndarray:
    """Whether the largest output of each sample is the label's, [samples] of bool."""
    return np.concatenate([_first(y).argmax(-1) for y in run.outputs]) == run.labels


def agreement(run: Run) -> float:
    """Share of decisions, one a sample or position, that are the original's. An output of two axes and one row holds
    decisions already."""
    pairs = zip(run.outputs, run.reference, strict=True)
    return float(np.mean(np.concatenate([(_decisions(y) == _decisions(z)).ravel() for y, z in pairs])))


def cosine(run: Run) -> float:
    """Mean cosine of the sentence embeddings, states averaged over tokens that are no padding, to the original's."""
    return float(np.mean(cosines(run)))


def cosines(run: Run) -> np.ndarray:
    """The cosine of each sentence's embedding to the original's, [samples]."""
    pairs = zip(_embeddings(run.feeds, run.outputs), _embeddings(run.feeds, run.reference), strict=True)
    return np.concatenate([(y * z).sum(-1) for y, z in pairs])


def fidelity(run: Run) -> float:
    """1 - ||y' - y||_F / ||y||_F over all outputs and samples, for models without a task of ours; 1 is unchanged."""
    pairs = [(y[k], z[k]) for y, z in zip(run.outputs, run.reference, strict=True) for k in z]
    return 1 - _norm([y - z for y, z in pairs]) / _norm([z for _, z in pairs])


def cer(run: Run) -> float:
    """Character error rate: edits per character of the words, greedy decoding, spaces ignored."""
    return float(edits(run).sum() / lengths(run).sum())


def edits(run: Run) -> np.ndarray:
    """The edits that each text needs, [samples]."""
    characters = _characters(run.entry.model)
    read = [_decoded(row, characters) for y in run.outputs for row in _first(y).argmax(-1)]
    return np.array([_distance(a.replace(" ", ""), b) for a, b in zip(read, _wanted(run), strict=True)])


def lengths(run: Run) -> np.ndarray:
    """The characters of each text, [samples]."""
    return np.array(list(map(len, _wanted(run))))


def _wanted(run: Run) -> list[str]:
    return [str(text).replace(" ", "") for text in run.labels]


SCORES: dict[str, Callable[[Run], float]] = {f.__name__: f for f in (accuracy, agreement, cosine, fidelity, cer)}


def _outputs(model: onnx_ir.Model | Path, feeds: Batches, target: Target) -> Batches:
    session = Session(model, target)
    return [session.run(feed) for feed in feeds]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return dict(stored)


def _first(outputs: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))


def _decisions(outputs: dict[str, np.ndarray]) -> np.ndarray:
    y = _first(outputs)
    return y if y.ndim == 2 and len(y) == 1 else y.argmax(-1)


def _embeddings(feeds: Batches, outputs: Batches) -> list[np.ndarray]:
    masks = [feed["attention_mask"][..., None].astype(np.float64) for feed in feeds]
    pooled = [(_first(y) * mask).sum(1) for y, mask in zip(outputs, masks, strict=True)]
    return [p / np.linalg.norm(p, axis=-1, keepdims=True) for p in pooled]


def _norm(arrays: list[np.ndarray]) -> float:
    return sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays) ** 0.5


def _characters(model: Path) -> list[str]:
    """Class -> character: the blank, the model's own list, the space."""
    return ["", *onnx_ir.load(model).metadata_props["character"].splitlines(), " "]


def _decoded(classes: np.ndarray, characters: list[str]) -> str:
    changed = np.append(True, classes[1:] != classes[:-1])
    return "".join(characters[c] for c in classes[changed])


def _distance(a: str, b: str) -> int:
    """Edits (insert, delete, replace) from `a` to `b` (Levenshtein, 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]
