"""Random networks through everything: the clean-up, the default limit, ranks that are fixed, and retraining."""

from collections.abc import Callable
from pathlib import Path

import pytest
from generated import claims
from generated.network import OPSETS, Network, generate

SEEDS = range(300)
CHECKS = (claims.check_cleanup, claims.check_limited, claims.check_fixed, claims.check_recovered)
SAMPLE = [(seed, CHECKS[seed // 2 % len(CHECKS)]) for seed in range(8)]


def test_a_few_seeds_in_a_row_have_every_kind_and_opset() -> None:
    networks = [generate(seed) for seed in range(8)]
    assert {n.model.opset_import[0].version for n in networks} == set(OPSETS)
    assert {n.kind for n in networks} == {"image", "sequence", "signal", "tokens", "table"}
    assert {n.batch for n in networks} == {None, 2}


def test_a_seed_makes_one_network() -> None:
    assert generate(7).model.SerializeToString() == generate(7).model.SerializeToString()


@pytest.mark.parametrize(("seed", "check"), SAMPLE, ids=lambda x: x.__name__ if callable(x) else str(x))
def test_a_network_of_the_sample(seed: int, check: Callable[[Network, Path], None], tmp_path: Path) -> None:
    check(generate(seed), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_goes_through_all_of_them(seed: int, tmp_path: Path) -> None:
    for check in CHECKS:
        check(generate(seed), tmp_path)
