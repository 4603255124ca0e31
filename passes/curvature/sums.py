"""Sums over feeds of what runs give."""

from collections.abc import Mapping

import numpy as np

from ...ir.shelf import Shelf

Arrays = Mapping[str, np.ndarray]

LARGE = 1 << 16  # elements from which a sum stays in the type of its terms, whose own rounding is larger than its own


def accumulate(sums: dict[str, np.ndarray], outputs: Arrays, shelf: Shelf | None = None) -> None:
    """Adds `outputs` to `sums`, by name: small ones in float64. New ones are kept on the `shelf`."""
    for name, array in outputs.items():
        if name in sums:
            sums[name] += array
        else:
            first = array if array.size > LARGE and array.flags.writeable else np.array(array, np.float64)
            sums[name] = first if shelf is None else shelf.keep(first)
