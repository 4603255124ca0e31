from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kronnx.ir.cost import Cost
from kronnx.passes.planning.choice import Option, choose, options
from kronnx.passes.planning.proposal import Candidate


def candidate(site: str, predicted: float, saving: float, touches: tuple[str, ...] = ()) -> Candidate:
    """A candidate that saves `saving` parameters; `choice` holds that."""
    return Candidate(site, f"{saving:g}", predicted, (), (), frozenset(touches or (site,)), saving)


def options_of(*candidates: Candidate) -> list[Option]:
    return options(candidates, lambda c: Cost(parameters=c.choice), lambda cost: cost.parameters / 100)


def net(chosen: list[Option] | tuple[Option, ...], price: float) -> float:
    return sum(price * o.worth - o.candidate.predicted for o in chosen)


def names(chosen: list[Option]) -> set[tuple[str, str]]:
    return {(o.candidate.site, o.candidate.label) for o in chosen}


settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow], deadline=None)  # on a busy machine
settings.load_profile("busy")

SAVINGS = st.floats(-10, 90, allow_subnormal=False)  # a hundredth of one is nothing, if the smallest float is one
CANDIDATES = st.lists(st.builds(candidate, st.sampled_from("abc"), st.floats(0, 5), SAVINGS), min_size=1, max_size=10)


def test_worth_is_the_saving_in_the_unit_of_the_budget() -> None:
    (option,) = options_of(candidate("a", 0.1, 25))
    assert (option.saving, option.worth) == (Cost(parameters=25), 0.25)


def test_dominated_options_are_dropped() -> None:
    found = options_of(
        candidate("a", 0.1, 10), candidate("a", 0.2, 10), candidate("a", 0.3, 9), candidate("a", 0.3, 30),
        candidate("b", 0.5, 5), candidate("b", 0.5, 7),
    )  # fmt: skip
    assert names(found) == {("a", "10"), ("a", "30"), ("b", "7")}


def test_what_saves_nothing_is_no_option() -> None:
    assert options_of(candidate("a", 0.0, 0), candidate("a", 0.0, -3)) == []


@given(CANDIDATES)
def test_every_dropped_candidate_is_dominated_by_one_that_is_kept(found: list[Candidate]) -> None:
    kept = options_of(*found)
    for c in found:
        assert c.choice <= 0 or any(
            o.candidate.site == c.site and o.candidate.predicted <= c.predicted and o.candidate.choice >= c.choice
            for o in kept
        )


def test_a_price_of_nothing_buys_nothing() -> None:
    assert choose(options_of(candidate("a", 0.0, 10), candidate("b", 1e-9, 90)), 0.0) == []


def test_a_price_beyond_all_buys_the_most_at_each_site() -> None:
    found = options_of(*(candidate(s, size**2, size) for s in "ab" for size in (10, 20, 30)))
    assert names(choose(found, 1e9)) == {("a", "30"), ("b", "30")}


@given(CANDIDATES, st.floats(0, 50))
def test_the_choice_is_the_best_of_all_where_sites_are_apart(found: list[Candidate], price: float) -> None:
    available = options_of(*found)
    sites = {o.candidate.site for o in available}
    every = product(*([None, *(o for o in available if o.candidate.site == site)] for site in sorted(sites)))
    best = max((net([o for o in chosen if o is not None], price) for chosen in every), default=0.0)
    assert net(choose(available, price), price) == pytest.approx(best, abs=1e-9)


@given(CANDIDATES, st.floats(0.01, 50), st.floats(1.01, 10))
def test_a_higher_price_never_saves_less(found: list[Candidate], price: float, factor: float) -> None:
    available = options_of(*found)
    low, high = (choose(available, p) for p in (price, price * factor))
    assert sum(o.worth for o in high) >= sum(o.worth for o in low) - 1e-12
    assert sum(o.candidate.predicted for o in high) >= sum(o.candidate.predicted for o in low) - 1e-12


def test_of_two_that_touch_one_layer_the_better_stays() -> None:
    found = options_of(
        candidate("a + b", 0.1, 40, ("a", "b")),
        candidate("b", 0.1, 30),
        candidate("a", 0.05, 5),
        candidate("c", 0.1, 20),
    )
    assert names(choose(found, 1.0)) == {("a + b", "40"), ("c", "20")}


@given(
    st.lists(
        st.builds(
            candidate,
            st.sampled_from("abcde"),
            st.floats(0, 1),
            st.floats(1, 90),
            st.sets(st.sampled_from("stuv"), min_size=1, max_size=3).map(tuple),
        ),
        max_size=12,
    ),
    st.floats(0.1, 9),
)
def test_conflicts_are_resolved_and_never_at_a_loss(found: list[Candidate], price: float) -> None:
    chosen = choose(options_of(*found), price)
    touched = [name for o in chosen for name in o.candidate.touches]
    assert len(touched) == len(set(touched))
    assert len({o.candidate.site for o in chosen}) == len(chosen)
    assert all(net((o,), price) > 0 for o in chosen)
    alone = max((net((o,), price) for o in options_of(*found)), default=0.0)
    assert net(chosen, price) >= max(alone, 0.0) - 1e-9


def test_the_plan_is_within_the_greedy_bound_of_brute_force(rng: np.random.Generator) -> None:
    """Sites in pairs: each pair either one shared change or one for each; no pick is worse than half of the best."""
    for _ in range(40):
        losses, savings = rng.uniform(0, 0.2, 6), rng.uniform(5, 50, 6)
        touches = (("a",), ("b",), ("a", "b"), ("c",), ("d",), ("c", "d"))
        found = options_of(
            *(candidate(f"s{k}", p, s, t) for k, (p, s, t) in enumerate(zip(losses, savings, touches, strict=True)))
        )
        best = 0.0
        for picks in product((False, True), repeat=len(found)):
            chosen = [o for o, pick in zip(found, picks, strict=True) if pick]
            touched = [n for o in chosen for n in o.candidate.touches]
            if len(touched) == len(set(touched)):
                best = max(best, net(chosen, 1.0))
        assert net(choose(found, 1.0), 1.0) >= best / 2
