"""What some candidates of each site cost, measured: predictions in, costs out."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

NEAR = 2.0  # a measurement speaks for predictions of half to twice as much
LEAST, MOST = 1e-9, 1e3  # nats: less is nothing, and more no worse


@dataclass(frozen=True)
class Point:
    """A cost in nats, and the number of the metric whose candidate cost that."""

    cost: float
    metric: int


@dataclass
class Corrections:
    """Costs by site of a stage (the key) and prediction.

    Between two measurements the logarithm of the cost is interpolated over that of the prediction, and never falls;
    beyond them their factor stays.
    """

    points: dict[Hashable, dict[float, Point]] = field(default_factory=dict)

    def add(self, key: Hashable, predicted: float, point: Point) -> None:
        known = max(predicted, LEAST)
        cost = float(np.clip(point.cost, LEAST, MOST))
        self.points.setdefault(key, {})[known] = Point(cost, point.metric)

    def is_known(self, key: Hashable, predicted: float) -> bool:
        """Whether a measurement is near so large a prediction."""
        near = self._nearest(key, predicted)
        return near is not None and near / NEAR < max(predicted, LEAST) < near * NEAR

    def metric(self, key: Hashable, predicted: float) -> int:
        """The number of the metric whose candidate costs least, where so much is predicted."""
        near = self._nearest(key, predicted)
        return 0 if near is None else self.points[key][near].metric

    def cost(self, key: Hashable, predicted: float) -> float:
        """What a candidate costs for which so much is predicted."""
        points = self.points.get(key)
        if not points:
            return predicted
        known = np.array(sorted(points))
        costs = np.maximum.accumulate([points[one].cost for one in known])
        within = float(np.clip(predicted, known[0], known[-1]))
        return float(np.exp(np.interp(np.log(within), np.log(known), np.log(costs)))) * predicted / within

    def _nearest(self, key: Hashable, predicted: float) -> float | None:
        logarithm = np.log(max(predicted, LEAST))
        return min(self.points.get(key, ()), key=lambda known: abs(np.log(known) - logarithm), default=None)
