"""Moments of several metrics along the rewrites of an attempt."""

from collections.abc import Callable, Mapping, Sequence

from ...ir.rewriter import Rewrite
from ..curvature.moments import Moments, after


class Followed:
    """Moments by the number of a metric: as `measured` gives them for the model after as many rewrites as `log` has
    now, asked for when they are first needed, and carried along the rewrites that follow."""

    def __init__(self, measured: Callable[[int], Mapping[str, Moments]], log: Sequence[Rewrite]):
        self._measured, self._log, self._begun = measured, log, len(log)
        self._known: dict[int, tuple[int, dict[str, Moments]]] = {}

    def now(self, metric: int) -> dict[str, Moments]:
        """The moments of the layers that there are now."""
        known = self._known.get(metric)
        begun, moments = (self._begun, dict(self._measured(metric))) if known is None else known
        return self.set(metric, after(moments, self._log[begun:]))

    def set(self, metric: int, moments: dict[str, Moments]) -> dict[str, Moments]:
        """Takes these for the moments now; gives them back."""
        self._known[metric] = len(self._log), moments
        return moments
