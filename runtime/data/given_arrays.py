"""What a user's code gives as an array: an array of numpy out, or an error that says whose value it was."""

import numpy as np

from ...ir.errors import DataError


def given_array(value: object, name: str, source: str) -> np.ndarray:
    """The value as an array. Raises DataError for one that can't be made an array, such as a
    tensor that has a gradient or is on a GPU."""
    try:
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception as e:  # `__array__` of the user's types may raise anything
        said = " ".join(f"{type(e).__name__}: {e}".split())
        raise DataError(
            f"{source}: {name!r} is a {type(value).__name__} that is no array ({said}); give arrays of numpy"
        ) from e
