"""The statistics of the practice's claim: closed forms, scipy's own tests, and the table."""

from types import SimpleNamespace

import numpy as np
import pytest
from kronnx.tools.bench import practice as bench_practice
from kronnx.tools.bench.practice import (
    Outcome,
    clustered_mcnemar,
    holm,
    main,
    mcnemar,
    mean_interval,
    outcomes,
    practice,
    row,
    rows,
    t_test,
    table,
    wilcoxon,
)
from networks import parsed, set_weight
from scipy import stats


def changes(lost: int, won: int, samples: int = 200) -> np.ndarray:
    return np.array([-1] * lost + [1] * won + [0] * (samples - lost - won))


def outcome(seed: int, lost: int, won: int, share: float = 0.5) -> Outcome:
    """A model that gets all images right but those that it wins, out of 200."""
    change = changes(lost, won)
    return Outcome(seed, share, change < 1, change > -1, share - 0.01, 1000 + seed)


@pytest.mark.parametrize(("lost", "won", "p_value"), [(0, 0, 1.0), (0, 5, 2 / 32), (6, 0, 2 / 64), (1, 3, 10 / 16)])
def test_mcnemar_is_the_binomial_of_what_changed(lost, won, p_value):
    assert mcnemar(changes(lost, won)) == pytest.approx(p_value)


def test_strata_of_mcnemar_are_pooled_as_mantel_and_haenszel_do():
    strata = np.array([changes(30, 50), changes(20, 45)])
    chi_square = (95 - 50) ** 2 / (95 + 50)  # each pair is a stratum
    assert mcnemar(strata) == pytest.approx(stats.chi2.sf(chi_square, 1), rel=0.25)  # exact against asymptotic
    assert mcnemar(strata) == mcnemar(strata[::-1, ::-1])


def test_images_that_all_seeds_share_count_once():
    once = changes(40, 60)
    assert clustered_mcnemar(np.array([once])) == pytest.approx(2 * stats.norm.sf(20 / 10))
    assert clustered_mcnemar(np.array([once] * 5)) == pytest.approx(clustered_mcnemar(np.array([once])))
    assert mcnemar(np.array([once] * 5)) < 1e-3 < mcnemar(once)
    assert clustered_mcnemar(np.zeros((5, 200), int)) == 1


def test_the_tests_over_seeds_are_those_of_scipy(rng):
    values = rng.normal(0.3, 1, 8)
    reference = stats.ttest_1samp(values, 0)
    assert t_test(values) == pytest.approx(reference.pvalue)
    assert mean_interval(values) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert wilcoxon(values) == stats.wilcoxon(values, method="exact").pvalue


def test_five_seeds_of_one_sign_are_the_least_that_the_signed_rank_test_can_say():
    assert wilcoxon(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 2**5)


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1), (0.1, 0)])
def test_values_that_do_not_vary_have_a_p_value(value, p_value):
    assert t_test(np.full(5, value)) == p_value
    assert wilcoxon(np.zeros(5)) == 1


def test_holm_steps_down_and_never_turns_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm, 1979, as in R's p.adjust
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_a_row_sums_up_its_seeds():
    found = row([outcome(0, 30, 5), outcome(1, 20, 4), outcome(2, 3, 5)])
    assert (found.lost, found.won, found.up, found.down) == (53, 14, 0, 2)
    assert found.change == pytest.approx(-39 / 600) == found.after - found.before
    assert found.low < found.change < found.high
    assert (found.size, found.parameters) == (pytest.approx(0.49), 1001)


def test_a_gain_is_found_too():
    found = row([outcome(seed, 5, 30 + seed) for seed in range(6)])
    assert (found.up, found.down) == (6, 0)
    assert found.low > 0
    assert max(found.t_test, found.wilcoxon, found.pooled, found.clustered) < 0.05


def test_a_share_that_one_seed_reached_has_no_row():
    found = rows([outcome(0, 1, 2), outcome(1, 2, 1), outcome(0, 9, 1, share=0.1)], (0.5, 0.1))
    assert [one.share for one in found] == [0.5]


def test_the_table_has_adjusted_p_values():
    text = table([row([outcome(0, 9, 1, s), outcome(1, 8, 1, s), outcome(2, 10, 1, s)]) for s in (0.5, 0.1)])
    single = row([outcome(0, 9, 1), outcome(1, 8, 1), outcome(2, 10, 1)])
    assert len(text.splitlines()) == 4
    assert "−4.00 (−5.24 to −2.76)" in text
    assert f"| {2 * single.t_test:.2g} | {single.wilcoxon:.2g} | 0 / 3 | 27 / 3 |" in text


@pytest.fixture
def example(monkeypatch, rng) -> SimpleNamespace:
    """In the place of the practice: a linear network of rank 2 and its images, whose classes are what it says."""
    model = parsed("""(float[N, 64] image) => (float[N, 10] classes) <float[64, 10] w> {
        logits = MatMul(image, w)  classes = Softmax(logits) }""")
    w = (rng.normal(size=(64, 2)) @ rng.normal(size=(2, 10))).astype(np.float32)
    set_weight(model, "w", w)
    x = rng.normal(size=(400, 64)).astype(np.float32)
    images = SimpleNamespace(x_train=x[:200], x_test=x[200:], y_test=(x[200:] @ w).argmax(-1))
    monkeypatch.setattr(bench_practice, "_trained", lambda *_: model)
    found = SimpleNamespace(load_images=lambda name: images, CALIBRATION_IMAGES=200)
    monkeypatch.setattr(bench_practice, "practice", lambda: found)
    return found


def test_a_network_is_judged_before_and_after_at_every_share_that_can_be_reached(
    example, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (found,) = outcomes(3, (0.5, 0.001), 10, tmp_path)
    assert (found.seed, found.share) == (3, 0.5)
    assert found.before.all()
    assert found.after.mean() > 0.98  # rank 2 is enough; what is left is rounding and shrinkage
    assert found.size <= 0.5
    assert "seed 3, 0.001: --size 0.001 can't be reached" in capsys.readouterr().err


def test_one_seed_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench.practice", "--seeds", "1"])
    assert main() == 2
    assert "no interval over fewer than 2" in capsys.readouterr().err


def test_the_practice_is_the_example():
    pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    pytest.importorskip("matplotlib")
    assert practice().lenet5((28, 28, 1)).count_params() == 61_706
