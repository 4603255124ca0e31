"""Labels make an output categorical where they fit one, and are refused before the work where they don't."""

import numpy as np
import pytest
from kronnx.ir.errors import DataError, UsageError
from kronnx.ir.output_heads import ASKED_FOR, Head
from kronnx.tools.job.labelled_heads import LABELLED, with_labels

SCORES = np.array([[2.0, -1.0, 0.5], [0.1, 3.0, -2.0]])
LABELS = np.array([0, 2, 1])
VALUES, CLASSES = Head("y", "gaussian", "raw", "no softmax"), Head("y", "categorical", "probabilities", "Softmax")


def test_the_output_that_labels_fit_is_taken_for_logits():
    others = Head("maps", "gaussian", "raw", "no softmax")
    found = with_labels((others, VALUES), {"maps": np.ones((2, 3, 4, 4)), "y": SCORES}, LABELS)
    assert found == (others, Head("y", "categorical", "logits", LABELLED))


@pytest.mark.parametrize("other", [VALUES, Head("z", "gaussian", "raw", ASKED_FOR)])
def test_an_output_that_is_known_to_be_classes_takes_the_labels(other):
    heads = (Head("z", "gaussian", "raw", other.reason), CLASSES)
    assert with_labels(heads, {"z": SCORES, "y": SCORES}, LABELS) == heads


@pytest.mark.parametrize("head", [VALUES, CLASSES])
@pytest.mark.parametrize("labels", [[-1, 0], [0, 3]])
def test_labels_outside_of_the_classes_are_refused(head, labels):
    with pytest.raises(DataError, match="the output 'y' has the classes 0 to 2"):
        with_labels((head,), {"y": SCORES}, np.array(labels))


@pytest.mark.parametrize(
    ("heads", "outputs", "said"),
    [
        ((), {}, "no output is .samples, classes.; the outputs are none"),
        ((VALUES,), {"y": np.ones((2, 3, 4))}, r"the outputs are y \[2, 3, 4\] gaussian"),
        ((VALUES,), {"y": np.ones((2, 1))}, r"the outputs are y \[2, 1\] gaussian"),
        ((Head("y", "gaussian", "raw", ASKED_FOR),), {"y": SCORES}, "but --head y=gaussian; .* --head y=categorical"),
        ((VALUES,), {"y": np.array([[0.2, 0.9, 1.0]])}, "between 0 and 1, .* say --head y=categorical"),
        (
            *((VALUES, Head("z", "gaussian", "raw", "")), {"y": SCORES, "z": SCORES}),
            "the labels fit y and z; .* say --head y=categorical",
        ),
    ],
)
def test_labels_that_fit_no_output_or_several_are_refused_with_what_to_say(heads, outputs, said):
    with pytest.raises(UsageError, match=said):
        with_labels(heads, outputs, LABELS)


DECISION = Head("y", "bernoulli", "probabilities", "Sigmoid")


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_decision_a_sample_takes_labels_of_yes_and_no(shape):
    assert with_labels((DECISION,), {"y": np.full(shape, 0.3)}, np.array([0, 1, 1])) == (DECISION,)
    with pytest.raises(DataError, match="from 0 to 2; the output 'y' has the classes 0 to 1"):
        with_labels((DECISION,), {"y": np.full(shape, 0.3)}, np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("head", "values", "said"),
    [
        (VALUES, np.ones((3, 1)), "no output is .* if it says yes or no, say --head y=bernoulli"),
        (
            DECISION,
            np.full((3, 4), 0.3),
            "holds decisions, .* if the largest value is the answer, say --head y=categ",
        ),
    ],
)
def test_decisions_that_labels_may_be_meant_for_are_named(head, values, said):
    with pytest.raises(UsageError, match=said):
        with_labels((head,), {"y": values}, np.array([0, 1, 1]))


def test_classes_on_the_channels_of_one_pixel_take_the_labels():
    head = Head("y", "categorical", "logits", axis=1)
    assert with_labels((head,), {"y": np.ones((2, 3, 1, 1))}, LABELS) == (head,)


def test_of_two_outputs_the_one_with_enough_classes_takes_the_labels():
    heads = (Head("few", "gaussian", "raw"), VALUES)
    found = with_labels(heads, {"few": SCORES[:, :2], "y": SCORES}, LABELS)
    assert [head.kind for head in found] == ["gaussian", "categorical"]
