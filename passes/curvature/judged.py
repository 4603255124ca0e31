"""Which layers can be judged by what was measured of them."""

import numpy as np

from ...ir.layers import Layer
from .moments import LARGEST_INPUT, Moments

Reason = tuple[str, str]
"""A stable code, and the sentence for a person."""


def unmeasured(layer: Layer, moments: Moments | None, inputs: bool) -> Reason | None:
    """Why a layer can't be judged, if it can't: by the moments of its inputs, or, unless these are needed, by those of
    its outputs."""
    if inputs and layer.inputs > LARGEST_INPUT:
        return "too-large", f"layer {layer.name!r} has {layer.inputs} inputs; at most {LARGEST_INPUT} can be measured"
    known = None if moments is None else moments.input if inputs or moments.input is not None else moments.output
    if moments is None or known is None:
        return "no-statistics", f"the inputs of layer {layer.name!r} could not be measured"
    if not np.isfinite(moments.gradient).all() or not np.isfinite(known).all():
        return "no-statistics", f"the statistics of layer {layer.name!r} are not finite"
    return None


def is_curved(moments: Moments) -> bool:
    """Whether anything that the layer gives reaches an output."""
    return bool(np.trace(moments.gradient, axis1=1, axis2=2).any())
