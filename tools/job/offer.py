"""What a larger limit would bring where nothing was worth it within the one that was asked for."""

import math

from ..report.records import OfferRecord
from ..report.verdict import not_worth_having
from .acceptance import agreed
from .efficiency import Efficiency
from .exploration import MeasuredAttempt
from .gate import Gate


def offer_of(found: MeasuredAttempt, gate: Gate, efficiency: Efficiency, expected: bool) -> OfferRecord | None:
    """The attempt beyond the limit, timed, or None where it is not worth having either. Its limit is one that `gate`,
    on the reported samples, agrees to. Its drop is `expected` where a recovery was still to come."""
    model = found.attempt.model
    drop = found.drop if expected else agreed(found.drop, gate.drop(found.attempt))
    if not math.isfinite(drop):
        return None
    size, timing = efficiency.size(model), efficiency.timing(model)
    if not_worth_having(size, timing.verdict, timing.ratio) is not None:
        return None
    return OfferRecord(str(gate.limit.raised(drop)), size, efficiency.record(timing), expected)
