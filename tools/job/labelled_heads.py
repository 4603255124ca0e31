"""What labels say of the outputs: heads, their values on a few samples and labels in; heads with classes out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...ir.errors import DataError, UsageError
from ...ir.output_heads import ASKED_FOR, Head

LABELLED = "there is a label for each sample"


def with_labels(heads: Sequence[Head], outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[Head, ...]:
    """The heads, of which one [samples, classes] is categorical: if none is yet, the one that the labels fit is taken
    for logits.

    `outputs` are the model's on some samples. Values that all lie between 0 and 1 are no logits: a KL of their softmax
    would be blind to what they say. Raises DataError for labels outside of the classes, UsageError where it has to be
    said which output they are for.
    """
    known = next((h for h in heads if h.kind == "categorical" and outputs[h.output].ndim == 2), None)
    head = known or _taken(heads, outputs, labels)
    _check_range(head, outputs[head.output].shape[1], labels)
    scored = known or replace(head, kind="categorical", scale="logits", reason=LABELLED)
    return tuple(scored if h is head else h for h in heads)


def _taken(heads: Sequence[Head], outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Head:
    tables = [h for h in heads if h.kind == "gaussian" and _is_table(outputs[h.output])]
    if not tables:
        shapes = ", ".join(f"{h.output} {list(outputs[h.output].shape)} {h.kind}" for h in heads)
        raise UsageError(
            f"labels are one class a sample, and no output is [samples, classes]; the outputs are {shapes or 'none'}"
        )
    open_ = [h for h in tables if h.reason != ASKED_FOR]
    if not open_:
        raise UsageError(f"labels need classes, but --head {tables[0].output}=gaussian; {_advice(tables)}")
    scores = [h for h in open_ if not _bounded(outputs[h.output])]
    if not scores:
        raise UsageError(
            f"the values of {open_[0].output} lie between 0 and 1, so they are not taken for logits; {_advice(open_)}"
        )
    fitting = [h for h in scores if labels.max() < outputs[h.output].shape[1]]
    if len(fitting) > 1:
        raise UsageError(f"the labels fit {' and '.join(h.output for h in fitting)}; {_advice(fitting)}")
    return (fitting or scores)[0]


def _advice(heads: Sequence[Head]) -> str:
    return f"if the largest value is the answer, say --head {heads[0].output}=categorical"


def _is_table(values: np.ndarray) -> bool:
    return values.ndim == 2 and values.shape[1] > 1


def _bounded(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _check_range(head: Head, classes: int, labels: np.ndarray) -> None:
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"the labels go from {labels.min()} to {labels.max()}; the output {head.output!r} has the classes "
            f"0 to {classes - 1}"
        )
