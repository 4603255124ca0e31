"""Which layers can be held in few bits, and by what their change is judged."""

import numpy as np

from ...ir.layers import Layer
from ..curvature.judged import Reason, is_curved, unmeasured
from ..curvature.moments import LARGEST_INPUT, Moments

MOST_OUTPUTS = 8192  # whose gradients are taken one by one


def excluded(layer: Layer) -> Reason | None:
    """Why a layer can't be measured, if it can't."""
    if layer.inputs > LARGEST_INPUT and layer.op != "Gather":
        return "too-large", f"layer {layer.name!r} has {layer.inputs} inputs; at most {LARGEST_INPUT} can be measured"
    if layer.groups * layer.out > MOST_OUTPUTS:
        return "too-large", f"layer {layer.name!r} has {layer.groups * layer.out} outputs; at most {MOST_OUTPUTS}"
    return None


def unjudged(layer: Layer, moments: Moments | None) -> Reason | None:
    """Why a layer that was to be measured can't be rounded, if it can't."""
    reason = unmeasured(layer, moments, inputs=layer.op != "Gather")
    if reason is None and moments is not None and not is_curved(moments):
        return "no-curvature", "nothing that it gives reaches an output"
    if reason is None and not np.isfinite(layer.stored()).all():
        return "not-finite", "its weight has entries that are not finite"
    return reason


def read_moment(layer: Layer, moments: Moments) -> np.ndarray:
    """What the change of a weight is multiplied with [groups, in, in]: without the mean, where the bias takes that
    up."""
    inner = moments.centered_input() if layer.absorbs else moments.input
    assert inner is not None
    return inner
