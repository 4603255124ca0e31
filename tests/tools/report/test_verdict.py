"""Verdicts: a table of situations, each with the one line that sums it up, and whether it is a warning."""

import math
from dataclasses import replace

import pytest
from kronnx.tools.report.drops import Certainty, Drop
from kronnx.tools.report.records import (
    AccuracyFigures,
    DivergenceFigures,
    Figures,
    GateRecord,
    OfferRecord,
    TimingRecord,
)
from kronnx.tools.report.verdict import (
    NearestMiss,
    Reach,
    gate_line,
    not_worth_having,
    not_worth_it,
    of_change,
    offering,
    out_of_reach,
    too_dear,
    with_more_samples,
)

BEFORE, AFTER = Figures(200, 400, 1000), Figures(100, 200, 500)
NO_LIMIT = GateRecord()
KEPT, BROKEN = GateRecord("kl", 0.01, 0.0042), GateRecord("kl", 0.01, 0.31, passed=False)
FASTER = TimingRecord(2.0, 1.8, 2.2, "faster")
SLOWER = TimingRecord(0.6, 0.5, 0.7, "slower")
UNSURE = TimingRecord(1.0, 0.9, 1.1, "cannot tell")
HARDLY, MUCH = DivergenceFigures(0.0042, 0.1, 0.995), DivergenceFigures(1.49, 3.0, 0.24)
VALUES, FAR_VALUES = DivergenceFigures(relative_error=0.0042), DivergenceFigures(relative_error=0.43)
TURNED = DivergenceFigures(relative_error=0.05, cosine_distance=0.0013)
BOTH = DivergenceFigures(0.0042, 0.1, 0.995, 0.43)
UNKNOWN = AccuracyFigures(0.9, 0.896, -0.011, 0.003, 0.2, 1000, 9, 5, "cannot tell", 0.0123, 0.005, 0.95, 41_234)
LOSS = AccuracyFigures(0.9125, 0.901, -0.018, -0.005, 0.01, 1000, 14, 3, "fell", 0.02, 0.005, 0.95)
SAME = AccuracyFigures(0.9, 0.9, -0.002, 0.002, 1.0, 10_000, 30, 30, "kept", 0.0021, 0.005, 0.95)
GAIN = AccuracyFigures(0.9, 0.92, 0.01, 0.03, 0.01, 1000, 0, 20, "kept", -0.01, 0.005, 0.95)

SMALL_AND_FAST = "2.00x smaller, 2.00x faster (1.80 to 2.20x)"
FELL = "accuracy fell from 91.25 % to 90.10 % (−1.15 points, −1.80 to −0.50 points)"
UNTOLD = (
    "1,000 labelled samples can't tell whether accuracy fell by more than 0.5 points "
    "(at most 1.23 points with 95 % confidence; about 42,000 would do)"
)
SITUATIONS = [
    # timing, gate, divergence, accuracy, text, warning
    (
        FASTER,
        KEPT,
        HARDLY,
        None,
        f"{SMALL_AND_FAST}; outputs within the limit (mean KL 0.0042 nats of 0.01 nats)",
        False,
    ),
    (FASTER, BROKEN, MUCH, None, f"outputs BEYOND the limit (mean KL 0.31 nats of 0.01 nats); {SMALL_AND_FAST}", False),
    (
        *(SLOWER, GateRecord("rel", 0.01, 0.0042), VALUES, None),
        "2.00x smaller, but SLOWER here, 0.60x (0.50 to 0.70x); "
        "outputs within the limit (relative error 0.42 % of 1 %)",
        False,
    ),
    (
        *(UNSURE, GateRecord("acc", 0.5, 0.4), HARDLY, None),
        "2.00x smaller, no difference in speed could be measured (0.90 to 1.10x); "
        "outputs within the limit (accuracy lost 0.4 points of 0.5 points)",
        False,
    ),
    # no limit was set: the outputs come first, with a warning where the default limit would not have held
    (
        *(FASTER, NO_LIMIT, MUCH, None),
        f"outputs moved: KL 1.49 nats, same answer 24.00 %; no limit was set; {SMALL_AND_FAST}",
        True,
    ),
    (
        *(FASTER, NO_LIMIT, HARDLY, None),
        f"outputs moved: KL 0.0042 nats, same answer 99.50 %; no limit was set; {SMALL_AND_FAST}",
        False,
    ),
    (
        FASTER,
        NO_LIMIT,
        VALUES,
        None,
        f"outputs moved: relative error 0.42 %; no limit was set; {SMALL_AND_FAST}",
        False,
    ),
    (
        FASTER,
        NO_LIMIT,
        FAR_VALUES,
        None,
        f"outputs moved: relative error 43 %; no limit was set; {SMALL_AND_FAST}",
        True,
    ),
    (
        *(FASTER, NO_LIMIT, BOTH, None),
        f"outputs moved: KL 0.0042 nats, same answer 99.50 %, relative error 43 %; no limit was set; {SMALL_AND_FAST}",
        True,
    ),
    (
        *(FASTER, NO_LIMIT, DivergenceFigures(float("inf"), float("inf"), 0.1), None),
        f"outputs moved: KL inf nats, same answer 10.00 %; no limit was set; {SMALL_AND_FAST}",
        True,
    ),
    (None, NO_LIMIT, None, None, "outputs not compared; no limit was set; 2.00x smaller, not timed", False),
    # a loss of accuracy beyond chance is said whatever the limit is in, and warned of unless the limit is in accuracy
    (
        *(FASTER, KEPT, HARDLY, LOSS),
        f"{SMALL_AND_FAST}; outputs within the limit (mean KL 0.0042 nats of 0.01 nats); {FELL}",
        True,
    ),
    (
        *(FASTER, NO_LIMIT, HARDLY, LOSS),
        f"outputs moved: KL 0.0042 nats, same answer 99.50 %; {FELL}; no limit was set; {SMALL_AND_FAST}",
        True,
    ),
    (
        *(FASTER, GateRecord("acc", 2.0, 1.15), MUCH, LOSS),
        f"{SMALL_AND_FAST}; outputs within the limit (accuracy lost 1.15 points of 2 points); {FELL}",
        False,
    ),
    (
        *(FASTER, KEPT, HARDLY, UNKNOWN),
        f"{SMALL_AND_FAST}; outputs within the limit (mean KL 0.0042 nats of 0.01 nats); {UNTOLD}",
        False,
    ),
    (
        *(FASTER, KEPT, HARDLY, replace(UNKNOWN, enough=None)),
        f"{SMALL_AND_FAST}; outputs within the limit (mean KL 0.0042 nats of 0.01 nats); "
        "1,000 labelled samples can't tell whether accuracy fell by more than 0.5 points "
        "(at most 1.23 points with 95 % confidence)",
        False,
    ),
    (
        *(FASTER, NO_LIMIT, HARDLY, UNKNOWN),
        f"outputs moved: KL 0.0042 nats, same answer 99.50 %; {UNTOLD}; no limit was set; {SMALL_AND_FAST}",
        False,
    ),
    (
        *(FASTER, KEPT, HARDLY, SAME),
        f"{SMALL_AND_FAST}; outputs within the limit (mean KL 0.0042 nats of 0.01 nats); "
        "no loss of accuracy beyond 0.5 points (at most 0.21 points with 95 % confidence)",
        False,
    ),
    (
        *(FASTER, KEPT, HARDLY, GAIN),
        f"{SMALL_AND_FAST}; outputs within the limit (mean KL 0.0042 nats of 0.01 nats); "
        "no loss of accuracy beyond 0.5 points (at most 0 points with 95 % confidence)",
        False,
    ),
    # a limit in accuracy has said so
    (
        *(FASTER, GateRecord("acc", 0.5, 0.21), HARDLY, SAME),
        f"{SMALL_AND_FAST}; outputs within the limit (accuracy lost 0.21 points of 0.5 points)",
        False,
    ),
    (
        *(FASTER, GateRecord("acc", 0.5, 0.1, bound=0.48, confidence=0.95, samples=2000), HARDLY, UNKNOWN),
        f"{SMALL_AND_FAST}; outputs within the limit (accuracy lost 0.1 points, at most 0.48 points with 95 % "
        "confidence, of 0.5 points)",
        False,
    ),
    # where the limit is held by the estimate alone, it hasn't
    (
        *(FASTER, GateRecord("acc", 0.5, 0.4), HARDLY, UNKNOWN),
        f"{SMALL_AND_FAST}; outputs within the limit (accuracy lost 0.4 points of 0.5 points); {UNTOLD}",
        False,
    ),
    (
        *(FASTER, GateRecord("cos", 0.01, 0.0013, True, 0.0039, 0.95, 120, 90), TURNED, None),
        f"{SMALL_AND_FAST}; outputs within the limit (cosine 0.9987, at least 0.9961 with 95 % confidence, of 0.99)",
        False,
    ),
    (
        *(FASTER, NO_LIMIT, TURNED, None),
        f"outputs moved: relative error 5 %, cosine 0.9987; no limit was set; {SMALL_AND_FAST}",
        True,
    ),
    # of several kinds of outputs that which moved most is named
    (
        *(FASTER, GateRecord("rel", 0.01, 0.0042), BOTH, None),
        f"{SMALL_AND_FAST}; outputs within the limit (relative error 0.42 % of 1 %)",
        False,
    ),
    (
        *(FASTER, GateRecord("changed", 0.01, 0.02, passed=False), DivergenceFigures(0.004, changed=0.02), None),
        f"outputs BEYOND the limit (share of changed elements 2 % of 1 %); {SMALL_AND_FAST}",
        False,
    ),
    # other numbers of rows are beyond every limit
    (
        *(FASTER, GateRecord("rows", 0.01, math.inf, passed=False), DivergenceFigures(rows={"y": 2}), None),
        f"outputs BEYOND the limit (other numbers of rows); {SMALL_AND_FAST}",
        False,
    ),
    (
        *(FASTER, NO_LIMIT, DivergenceFigures(0.004, rows={"y": 2, "z": 1}), None),
        "outputs moved: other numbers of rows of 'y' in 2 batches, 'z' in 1 batch, KL 0.004 nats; no limit was set; "
        f"{SMALL_AND_FAST}",
        True,
    ),
    (
        *(FASTER, NO_LIMIT, DivergenceFigures(0.004, changed=0.02), None),
        f"outputs moved: KL 0.004 nats, share of changed elements 2 %; no limit was set; {SMALL_AND_FAST}",
        True,
    ),
]


@pytest.mark.parametrize(("timing", "gate", "divergence", "accuracy", "text", "warning"), SITUATIONS)
def test_the_verdict_of_a_change(timing, gate, divergence, accuracy, text, warning):
    found = of_change(BEFORE, AFTER, timing, gate, divergence, accuracy)
    assert (found.text, found.warning) == (text, warning)


@pytest.mark.parametrize(
    ("bytes_", "said"), [(2000, "2.00x LARGER"), (1004, "not smaller"), (997, "not smaller"), (800, "1.25x smaller")]
)
def test_the_verdict_says_what_became_of_the_size(bytes_, said):
    found = of_change(BEFORE, Figures(200, 400, bytes_), None, KEPT, HARDLY, None)
    assert found.text.startswith(f"{said}, not timed; ")


MISS = NearestMiss("low rank 9 of fc1", Drop(0.034, "kl"), 0.12, 0.03)


@pytest.mark.parametrize(
    ("metric", "limit", "miss", "said"),
    [
        (
            *("kl", 0.01, MISS),
            "within a mean KL of 0.01 nats; the nearest that was tried, low rank 9 of fc1, costs a mean KL of 0.034 "
            "nats and saves 12 % of the size and 3 % of the layers' time",
        ),
        (
            *("kl", 0.01, replace(MISS, time=-0.03)),
            "within a mean KL of 0.01 nats; the nearest that was tried, low rank 9 of fc1, costs a mean KL of 0.034 "
            "nats and saves 12 % of the size and costs 3 % of the layers' time",
        ),
        (
            *("rel", 0.05, replace(MISS, drop=Drop(0.034, "rel"))),
            "within a relative error of 5 %; the nearest that was tried, low rank 9 of fc1, costs a relative error of "
            "3.4 % and saves 12 % of the size and 3 % of the "
            "layers' time",
        ),
        (
            *("kl", 0.01, replace(MISS, expected=True)),
            "within a mean KL of 0.01 nats; the nearest that was tried, low rank 9 of fc1, would cost a mean KL of "
            "0.034 nats after recovery, going by short ones and saves 12 % of the size and 3 % of the layers' time",
        ),
        (
            *("cos", 0.01, replace(MISS, drop=Drop(0.034, "cos"))),
            "within a cosine of 0.99; the nearest that was tried, low rank 9 of fc1, costs a cosine of 0.966 and saves "
            "12 % of the size and 3 % of the layers' time",
        ),
        (
            *("cos", 0.01, replace(MISS, drop=Drop(0.03, "cos", Certainty(0.004, 40, 900)))),
            "within a cosine of 0.99; the nearest that was tried, low rank 9 of fc1, costs a cosine of 0.996, or by "
            "its 40 samples down to 0.97 and saves 12 % of the size and 3 % of the layers' time",
        ),
        ("acc", 0.5, None, "within 0.5 points of accuracy; no change that saves anything was found"),
    ],
)
def test_where_nothing_is_worth_it_the_nearest_miss_is_said(metric, limit, miss, said):
    assert not_worth_it(metric, limit, miss) == f"returned unchanged: nothing is worth its price {said}"


@pytest.mark.parametrize(
    ("share", "timing", "said"),
    [
        (0.5, FASTER, None),
        (1.2, FASTER, None),
        (0.5, UNSURE, None),
        (0.998, UNSURE, "the best within the limit is neither measurably faster nor smaller (99.8 % of the size)"),
        (
            *(0.5, SLOWER),
            "the best within the limit has 50 % of the size but is slower here (0.60x as fast); "
            "--size asks for it all the same",
        ),
    ],
)
def test_a_change_that_is_not_worth_having_says_why(share, timing, said):
    assert not_worth_having(share, timing.verdict, timing.ratio) == (
        None if said is None else f"returned unchanged: {said}"
    )


@pytest.mark.parametrize(
    ("fixed", "best", "said"),
    [
        (
            *(False, Reach(None, size=0.62)),
            "ask for less, or add passes (the best seen: 62 % of the size)",
        ),
        (
            *(False, Reach(Drop(0.83, "kl"), speedup=2.31)),
            "ask for less, or add passes (the best seen: 2.31x as fast, at a mean KL of 0.83 nats)",
        ),
        (
            *(True, Reach(Drop(0.2, "rel"), size=0.93, macs=0.5)),
            "ask for less, or take more by their options (the best seen: 93 % of the size, 50 % of the multiply-adds, "
            "at a relative error of 20 %)",
        ),
    ],
)
def test_a_target_out_of_reach_says_what_can_be_reached(fixed, best, said):
    assert out_of_reach("--speedup 10", "svd, prune", fixed, best) == (
        f"--speedup 10 can't be reached with svd, prune; {said}"
    )


@pytest.mark.parametrize(
    ("metric", "least", "limit", "said"),
    [
        ("kl", 0.3, 0.01, "a mean KL of 0.3 nats, beyond the limit of 0.01 nats"),
        ("rel", 0.3, 0.01, "a relative error of 30 %, beyond the limit of 1 %"),
        ("acc", 2.5, 0.5, "2.5 points of accuracy, beyond the limit of 0.5 points"),
        ("acc", 2.5, 1.0, "2.5 points of accuracy, beyond the limit of 1 point"),
    ],
)
def test_a_target_that_costs_too_much_says_what_it_costs(metric, least, limit, said):
    assert too_dear("--macs 0.05", Drop(least, metric), limit).startswith(f"--macs 0.05 costs {said}; ")


def test_a_target_that_moves_rows_is_beyond_every_limit():
    said = too_dear("--size 0.5", Drop(math.inf, "rows"), 0.01)
    assert said.startswith("--size 0.5 gives other numbers of rows, which is beyond every limit; ")


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        (OfferRecord("rel=0.052", 0.8, FASTER), "at rel=0.052: 2.00x faster (1.80 to 2.20x), 1.25x smaller"),
        (OfferRecord("cos=0.987", 0.999, FASTER), "at cos=0.987: 2.00x faster (1.80 to 2.20x)"),
        (OfferRecord("kl=0.04", 0.5, UNSURE), "at kl=0.04: 2.00x smaller"),
        (OfferRecord("kl=0.04", 0.5, UNSURE, expected=True), "at about kl=0.04 after recovery: 2.00x smaller"),
    ],
)
def test_what_a_larger_limit_would_bring_is_said(offer, said):
    assert offering("nothing", offer) == f"nothing; {said}"
    assert offering("nothing", None) == "nothing"


def test_a_nearest_miss_that_moves_rows_says_of_which_outputs():
    miss = replace(MISS, drop=Drop(math.inf, "rows"))
    said = not_worth_it("rel", 0.01, miss, " of 'y' in 1 batch (judge s)")
    assert "low rank 9 of fc1, gives other numbers of rows of 'y' in 1 batch (judge s) and saves 12 %" in said


def test_the_values_that_were_judged_are_named_in_the_place_of_outputs():
    said = of_change(BEFORE, AFTER, FASTER, KEPT, HARDLY, None, "'boxes' and 'scores'").text
    assert "'boxes' and 'scores' within the limit" in said


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (NO_LIMIT, ""),
        (KEPT, "mean KL 0.0042 nats, limit 0.01 nats: kept"),
        (GateRecord("rel", 0.01, 0.02, passed=False), "relative error 2 %, limit 1 %: NOT kept"),
        (GateRecord("cos", 0.01, 2e-7), "cosine 0.9999998, limit 0.99: kept"),
        (GateRecord("cos", 0.01, math.inf, passed=False), "cosine undefined, limit 0.99: NOT kept"),
        (GateRecord("acc", 0.5), "accuracy lost not measured, limit 0.5 points: kept"),
        (GateRecord("rows", 0.01, math.inf, passed=False), "numbers of rows: NOT kept"),
    ],
)
def test_the_gate_has_a_line_with_its_units(gate, said):
    assert gate_line(gate) == said


SURE = GateRecord("kl", 0.01, 0.0052, bound=0.0094, confidence=0.95, samples=300, enough=260)
UNSURE_OF_IT = replace(SURE, passed=False, bound=0.014, enough=900)


@pytest.mark.parametrize(
    ("gate", "said", "line"),
    [
        (
            SURE,
            f"{SMALL_AND_FAST}; outputs within the limit (mean KL 0.0052 nats, at most 0.0094 nats with 95 % "
            "confidence, of 0.01 nats)",
            "mean KL 0.0052 nats, at most 0.0094 nats with 95 % confidence by 300 other samples, limit 0.01 nats: kept",
        ),
        (
            UNSURE_OF_IT,
            "outputs not surely within the limit (mean KL 0.0052 nats, at most 0.014 nats with 95 % confidence, of "
            f"0.01 nats; about 900 samples would do); {SMALL_AND_FAST}",
            "mean KL 0.0052 nats, at most 0.014 nats with 95 % confidence by 300 other samples, limit 0.01 nats: "
            "NOT kept",
        ),
        (
            replace(UNSURE_OF_IT, measured=0.011, enough=None),
            "outputs BEYOND the limit (mean KL 0.011 nats, at most 0.014 nats with 95 % confidence, of 0.01 nats); "
            f"{SMALL_AND_FAST}",
            "mean KL 0.011 nats, at most 0.014 nats with 95 % confidence by 300 other samples, limit 0.01 nats: "
            "NOT kept",
        ),
    ],
)
def test_a_limit_is_said_to_hold_as_far_as_the_samples_are_sure_of_it(gate, said, line):
    assert of_change(BEFORE, AFTER, FASTER, gate, HARDLY, None).text == said
    assert gate_line(gate) == line


UNSURE_DROP = Drop(0.014, "kl", Certainty(0.0052, 300, 900))


def test_a_miss_for_lack_of_samples_says_how_many_would_tell():
    said = not_worth_it("kl", 0.01, replace(MISS, drop=UNSURE_DROP), wanted=3000)
    assert "costs a mean KL of 0.0052 nats, or by its 300 samples up to 0.014 nats and saves" in said
    assert said.endswith("; about 3,000 samples would tell")
    few = replace(MISS, drop=Drop(math.inf, "kl", Certainty(0.0001, 3, 8)))
    assert "costs a mean KL of 0.0001 nats on too few samples (3) to tell" in not_worth_it("kl", 0.01, few)


def test_a_target_that_samples_are_not_sure_of_says_so():
    said = too_dear("--size 0.5", UNSURE_DROP, 0.01)
    assert "up to 0.014 nats, not surely within the limit of 0.01 nats; ask for less, give more samples" in said


@pytest.mark.parametrize(("wanted", "said"), [(2010, "with about 2,100 samples 1.14x smaller may be within the limit")])
def test_what_more_samples_would_buy(wanted, said):
    assert with_more_samples(wanted, MISS) == said
    assert with_more_samples(None, MISS) == with_more_samples(10**9, MISS) == ""
