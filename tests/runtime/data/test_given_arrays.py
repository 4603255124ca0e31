import numpy as np
import pytest
from kronnx.ir.errors import DataError
from kronnx.runtime.data.given_arrays import given_array


class Tensor:
    """Refuses to be an array, as tensors with a gradient do."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("can't call numpy() on a tensor that requires grad")


def test_what_is_an_array_stays_as_it_is():
    array = np.ones((2, 3))
    assert given_array(array, "x", "f.py:load") is array
    assert given_array([1, 2], "x", "f.py:load").tolist() == [1, 2]


def test_what_can_not_be_an_array_is_laid_to_whoever_gave_it():
    with pytest.raises(
        DataError, match=r"^f\.py:load: 'x' is a Tensor that is no array \(RuntimeError: .*requires grad"
    ):
        given_array(Tensor(), "x", "f.py:load")
