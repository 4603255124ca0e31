"""The search for the price, on a runner without a model whose drop and worth are known functions of the price."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from kronnx.tools.job.price_search import Search
from kronnx.tools.report.drops import Certainty, Drop


@dataclass(frozen=True)
class Try:
    """As much of an attempt as the search looks at; `taken` is how much was done."""

    taken: int
    drop: Drop

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(range(self.taken))

    @property
    def key(self) -> tuple[int, ...]:
        return (self.taken,)

    @property
    def worth(self) -> float:
        return self.taken


@dataclass
class Ladder:
    """Takes `levels` steps, one more for every factor of 1.1 in the price above `first`; step k costs drop(k)."""

    drop: Callable[[int], float]
    first: float = 1e-4
    levels: int = 200
    prices: list[float] = field(default_factory=list)

    def attempt(self, price: float) -> Try:
        self.prices.append(price)
        taken = 0 if price < self.first else min(self.levels, 1 + int(math.log(price / self.first) / math.log(1.1)))
        return Try(taken, Drop(self.drop(taken), "kl"))


def search(runner: Ladder) -> Search:
    return Search(runner, lambda attempt: attempt.drop)


def exponential(steps: int) -> float:
    return 1e-6 * 1.1**steps if steps else 0.0


def test_the_nearest_miss_is_the_cheapest_attempt_beyond_the_limit():
    tried = search(Ladder(lambda steps: 0.5 + steps if steps else 0.0))
    assert tried.within(0.01, 1e-2) == []
    assert tried.nearest_miss is not None
    assert tried.nearest_miss[1] == 1.5


@dataclass(frozen=True)
class Share(Try):
    """What takes `taken` thousandths of the model away."""

    @property
    def worth(self) -> float:
        return self.taken / 1000


class Shares(Ladder):
    def attempt(self, price: float) -> Try:
        found = super().attempt(price)
        return Share(found.taken, found.drop)


def test_an_offer_is_the_nearest_attempt_that_is_worth_telling():
    tried = search(Shares(lambda steps: 1e-4 * 1.02**steps))
    tried.within(1e-5, 1e-3)
    tried.look_further(1e-5)
    attempt, drop = tried.offer
    assert attempt.worth >= 0.05
    assert drop == min(d for (taken,), d in tried.drops.items() if taken >= 50)


def test_what_is_worth_less_is_offered_where_nothing_is_worth_more_and_the_looking_ends():
    runner = Shares(lambda steps: 1e-4, levels=30)
    tried = search(runner)
    tried.within(1e-5, 1e-3)
    made = len(runner.prices)
    tried.look_further(1e-5)
    assert tried.offer[0].taken == 30
    assert len(runner.prices) == made + 4


@pytest.mark.parametrize("drop", [0.31, math.inf, math.nan])
def test_what_no_one_would_take_is_no_offer(drop):
    runner = Shares(lambda steps: drop if steps else 0.0)
    tried = search(runner)
    tried.within(0.01, 1.0)
    made = len(runner.prices)
    tried.look_further(0.01)
    assert tried.offer is None
    assert len(runner.prices) == made + 1


def test_where_nothing_is_beyond_the_limit_there_is_no_miss():
    tried = search(Ladder(lambda steps: 0.0))
    tried.within(0.01, 1e-2)
    assert tried.nearest_miss is None


@pytest.mark.parametrize("limit", [1e-5, 1e-3, 0.05])
@pytest.mark.parametrize("start", [1e-7, 1e-2, 1e3])
def test_the_limit_is_met_from_below_and_nearly_used_up(limit, start):
    best, drop = search(Ladder(exponential)).within(limit, start)[0]
    assert 0.7 * limit <= drop <= limit
    assert drop == best.drop


def test_the_attempts_come_with_the_largest_worth_first():
    found = search(Ladder(exponential)).within(0.01, 1e-3)
    assert [a.worth for a, _ in found] == sorted((a.worth for a, _ in found), reverse=True)
    assert len({a.key for a, _ in found}) == len(found)


def test_the_best_attempt_that_more_samples_might_allow_is_held_back():
    """The upper end is three times the estimate: up to a third of the limit is taken, up to all of it held back."""
    runner = Ladder(exponential)
    tried = Search(runner, lambda attempt: Drop(3 * attempt.drop, "kl", Certainty(attempt.drop, 50, 300)))
    best, _ = tried.within(0.01, 1e-3)[0]
    assert tried.held_back is not None
    assert best.drop <= 0.01 / 3 < tried.held_back[0].drop <= 0.01


def test_nothing_is_held_back_where_the_samples_leave_no_doubt():
    tried = search(Ladder(exponential))
    tried.within(0.01, 1e-3)
    assert tried.held_back is None


def test_nothing_is_found_where_every_step_is_beyond_the_limit():
    assert search(Ladder(lambda steps: 1.0 if steps else 0.0)).within(0.01, 0.1) == []


def test_everything_is_taken_where_nothing_costs():
    (best, drop), *_ = search(Ladder(lambda steps: 0.0)).within(0.01, 0.1)
    assert (best.taken, drop) == (200, 0.0)


def test_a_drop_that_is_not_finite_is_beyond_the_limit():
    best, _ = search(Ladder(lambda steps: math.nan if steps > 50 else 0.0)).within(0.01, 1.0)[0]
    assert 0 < best.taken <= 50


def test_a_limit_of_zero_ends_and_takes_only_what_is_free():
    found = search(Ladder(lambda steps: max(0.0, steps - 3.0))).within(0.0, 1.0)
    assert all(drop == 0 for _, drop in found)


@pytest.mark.parametrize("drop", [exponential, lambda steps: 1.0, lambda steps: 0.0])
def test_the_steps_are_bounded_and_no_attempt_is_measured_twice(drop):
    runner, measured = Ladder(drop), []
    Search(runner, lambda attempt: measured.append(attempt.key) or attempt.drop).within(0.01, 1.0)
    assert len(runner.prices) <= 12
    assert len(measured) == len(set(measured))


def test_twelve_attempts_are_made_and_no_more():
    """Each is a forward pass over the samples: on a plateau just below the limit the price grows by what is least."""
    runner = Ladder(lambda steps: 0.0099)
    search(runner).within(0.01, 1.0)
    assert runner.prices == pytest.approx([1.5**k for k in range(12)])


def test_on_a_plateau_just_beyond_the_limit_the_price_falls_by_what_is_least():
    runner = Ladder(lambda steps: 0.0101)
    assert search(runner).within(0.01, 1.0) == []
    assert runner.prices == pytest.approx([1.5**-k for k in range(12)])


@pytest.mark.parametrize(("drop", "growth"), [(1e-6, 16), (0.0, 16), (0.003, 10 / 3), (0.5, 0.02), (1e3, 1 / 64)])
def test_the_price_follows_the_drop_within_bounds_while_one_side_is_open(drop, growth):
    runner = Ladder(lambda steps: drop)
    search(runner).within(0.01, 1.0)
    assert runner.prices[1] == pytest.approx(growth)


@pytest.mark.parametrize("wanted", [1, 30, 200])
def test_a_target_is_reached_at_the_lowest_price(wanted):
    ((attempt, drop),) = search(Ladder(exponential)).reaching(lambda a: a.taken >= wanted, 0.01)
    assert wanted <= attempt.taken <= wanted + 1
    assert drop == exponential(attempt.taken)


def test_a_target_out_of_reach_is_given_up():
    runner = Ladder(exponential)
    assert search(runner).reaching(lambda a: a.taken > 200, 0.01) == []
    assert len(runner.prices) <= 36


def test_a_target_that_needs_nothing_is_reached_by_nothing():
    ((attempt, _),) = search(Ladder(exponential)).reaching(lambda a: True, 0.01)
    assert attempt.taken == 0
