"""Accuracies against labels: outputs and labels in; shares, and their change, out."""

from collections.abc import Sequence

import numpy as np

from ...ir.errors import DataError
from ...ir.output_heads import Head
from .outputs import Outputs
from .paired import AccuracyChange, paired_change


def accuracy(outputs: Outputs, labels: np.ndarray, heads: Sequence[Head]) -> float:
    """The share of samples whose first class is their label."""
    return float(hits(outputs, labels, heads).mean())


def hits(outputs: Outputs, labels: np.ndarray, heads: Sequence[Head]) -> np.ndarray:
    """Whether the answer to each sample is its label, [samples] of bool.

    The first head that has one answer a sample counts: its first class, or the side of one half on which its only
    decision is. Raises DataError if there is none, or if the labels aren't one class each.
    """
    head = _scored(outputs, heads)
    samples, classes = sum(len(batch[head.output]) for batch in outputs), classes_of(head, outputs[0][head.output])
    if len(labels) != samples:
        raise DataError(f"{len(labels)} labels for {samples} samples; one each is wanted")
    check_range(head, classes, labels)
    return np.concatenate([first_answers(batch[head.output], head) for batch in outputs]) == labels


def has_one_answer(values: np.ndarray, head: Head) -> bool:
    """Whether an output gives one class for each sample, as [samples, classes] does, or one decision."""
    if not head.is_probability or values.ndim == 0:
        return False
    return values.size == len(values) * (classes_of(head, values) if head.kind == "categorical" else 1)


def classes_of(head: Head, values: np.ndarray) -> int:
    """How many answers an output chooses from."""
    return head.classes_last(values).shape[-1] if head.kind == "categorical" else 2


def check_range(head: Head, classes: int, labels: np.ndarray) -> None:
    """Raises DataError for labels that are no class of the head."""
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"the labels go from {labels.min()} to {labels.max()}; the output {head.output!r} has the classes "
            f"0 to {classes - 1}"
        )


def first_answers(values: np.ndarray, head: Head) -> np.ndarray:
    """The class of each sample [samples], of an output that gives one."""
    if head.kind == "categorical":
        return head.classes_last(values).reshape(len(values), -1).argmax(-1)
    return (values.reshape(-1) > head.half).astype(np.int64)


def accuracy_change(
    reference: Outputs, candidate: Outputs, labels: np.ndarray, heads: Sequence[Head]
) -> AccuracyChange:
    """Both accuracies and how sure their difference is."""
    return paired_change(hits(reference, labels, heads), hits(candidate, labels, heads))


def _scored(outputs: Outputs, heads: Sequence[Head]) -> Head:
    for head in heads:
        if head.is_probability and has_one_answer(outputs[0][head.output], head):
            return head
    shapes = ", ".join(f"{h.output} {list(outputs[0][h.output].shape)} {h.kind}" for h in heads)
    raise DataError(f"labels need a categorical output [samples, classes]; the heads are {shapes or 'none'}")
