"""Random changes of training samples by a user's own function: a feed in, a checked feed of the same kind out."""

from collections.abc import Callable, Mapping

import numpy as np

from ...ir.errors import DataError
from .dataset import Feed
from .given_arrays import given_array
from .loaders import function_taking


def augmentation(spec: str) -> Callable[[Feed, np.random.Generator], Feed]:
    """The function that `spec` names (`file.py:function` or `module:function`), checked whenever it is called.

    It takes a feed, of which it gets copies, and a Generator, from which all its randomness should come, and returns a
    feed with the same names, types and shapes. Raises DataError for a function that doesn't take these two; the
    returned function raises one for what the user's raises, with the line, and for a feed that doesn't fit.
    """
    function = function_taking(spec, ("feed", "generator"))

    def augmented(feed: Feed, generator: np.random.Generator) -> Feed:
        return _checked(function({name: array.copy() for name, array in feed.items()}, generator), feed, spec)

    return augmented


def _checked(result: object, feed: Feed, spec: str) -> Feed:
    if not isinstance(result, Mapping):
        raise DataError(f"{spec} returned {type(result).__name__}; wanted the changed feed, a dict of name -> array")
    if result.keys() != feed.keys():
        raise DataError(f"{spec} returned {_listed(result)}; wanted {_listed(feed)}, as in the feed that it was given")
    given = {name: np.asarray(given_array(result[name], name, spec), order="C") for name in feed}
    return {name: _fitted(given[name], array, name, spec) for name, array in feed.items()}


def _fitted(array: np.ndarray, given: np.ndarray, name: str, spec: str) -> np.ndarray:
    if array.dtype != given.dtype or array.shape != given.shape:
        hint = f"; .astype({given.dtype.name!r}) gives the type back" if array.dtype != given.dtype else ""
        raise DataError(f"{spec} returned {name!r} as {_kind(array)}; wanted {_kind(given)}, as it was given{hint}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{spec} returned NaN or infinite values in {name!r}")
    return array


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
