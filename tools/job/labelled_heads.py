"""What labels say of the outputs: heads, their values on a few samples and labels in; heads with classes out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...ir.errors import UsageError
from ...ir.head_kinds import BERNOULLI, CATEGORICAL, GAUSSIAN
from ...ir.output_heads import ASKED_FOR, Head
from ...ir.output_heads.head import LOGITS
from ...runtime.comparison import check_range, classes_of, has_one_answer
from .probability_scales import within_unit

LABELLED = "there is a label for each sample"


def with_labels(heads: Sequence[Head], outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[Head, ...]:
    """The heads, of which one gives an answer for each sample: if none is known to, the one [samples, classes] that the
    labels fit is taken for logits.

    `outputs` are the model's on some samples. Values that all lie between 0 and 1 are no logits: a KL of their softmax
    would be blind to what they say. Raises DataError for labels outside of the classes, UsageError where it has to be
    said which output they are for.
    """
    known = next((h for h in heads if has_one_answer(outputs[h.output], h)), None)
    head = known or _taken(heads, outputs, labels)
    scored = known or replace(head, kind=CATEGORICAL, scale=LOGITS, reason=LABELLED)
    check_range(scored, classes_of(scored, outputs[head.output]), labels)
    return tuple(scored if h is head else h for h in heads)


def _taken(heads: Sequence[Head], outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Head:
    tables = [h for h in heads if h.kind in (GAUSSIAN, BERNOULLI) and _is_table(outputs[h.output])]
    if not tables:
        shapes = ", ".join(f"{h.output} {list(outputs[h.output].shape)} {h.kind}" for h in heads)
        raise UsageError(
            f"labels are one class a sample, and no output is [samples, classes]; the outputs are {shapes or 'none'}"
            + _advice_on_decisions(heads, outputs, labels)
        )
    open_ = [h for h in tables if h.reason != ASKED_FOR]
    if not open_:
        raise UsageError(f"labels need classes, but --head {tables[0].output}={tables[0].kind}; {_advice(tables)}")
    scores = [h for h in open_ if h.kind == GAUSSIAN and not within_unit(outputs[h.output])]
    if not scores:
        why = "holds decisions, yes or no each" if open_[0].kind == BERNOULLI else "lies between 0 and 1"
        raise UsageError(f"{open_[0].output} {why}, so it is not taken for logits of classes; {_advice(open_)}")
    fitting = [h for h in scores if labels.max() < outputs[h.output].shape[1]]
    if len(fitting) > 1:
        raise UsageError(f"the labels fit {' and '.join(h.output for h in fitting)}; {_advice(fitting)}")
    return (fitting or scores)[0]


def _advice_on_decisions(heads: Sequence[Head], outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> str:
    """What to say where labels are yes or no, and an output has one value a sample."""
    if len(labels) and not 0 <= labels.min() <= labels.max() <= 1:
        return ""
    values = (h for h in heads if h.kind == GAUSSIAN and outputs[h.output].ndim and h.reason != ASKED_FOR)
    single = next((h for h in values if outputs[h.output].size == len(outputs[h.output])), None)
    return "" if single is None else f"; if it says yes or no, say --head {single.output}=bernoulli"


def _advice(heads: Sequence[Head]) -> str:
    return f"if the largest value is the answer, say --head {heads[0].output}=categorical"


def _is_table(values: np.ndarray) -> bool:
    return values.ndim == 2 and values.shape[1] > 1
