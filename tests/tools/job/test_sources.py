"""Which labels belong to which samples."""

import pytest
from kronnx.ir.errors import UsageError
from kronnx.tools.job.sources import Sources


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ({}, None),
        ({"labels": "l"}, "l"),
        ({"train_labels": "t"}, "t"),
        ({"eval_data": "e", "labels": "l"}, None),
        ({"eval_data": "e", "labels": "l", "train_labels": "t"}, "t"),
    ],
)
def test_labels_are_those_of_data_unless_there_is_other_data_for_them(given, labels):
    assert Sources("m.onnx", data="d", **given).labels_of_data == labels


def test_the_same_samples_are_not_labelled_twice():
    with pytest.raises(UsageError, match="both label --data"):
        Sources("m.onnx", data="d", labels="l", train_labels="t")
