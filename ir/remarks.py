"""What was done at each site, or why not: one verdict with a reason code."""

from dataclasses import dataclass

PASSED = "passed"
MISSED = "missed"
ANALYSIS = "analysis"


@dataclass(frozen=True)
class Remark:
    """A verdict on one site.

    `verdict` is PASSED (changed), MISSED (could not, or not worth it) or ANALYSIS (a fact that steered the run).
    `reason` is a stable code such as `too-small` or `tied-weight`, `detail` the sentence that a person reads.
    """

    site: str
    by: str
    verdict: str
    reason: str
    detail: str
