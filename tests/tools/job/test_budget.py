"""Budgets: what `--max-drop` and its kin accept, mean and refuse."""

import pytest
from kronnx.ir.errors import UsageError
from kronnx.tools.job.budget import Budget, Limit, limit


@pytest.mark.parametrize(
    ("given", "labelled", "wanted"),
    [
        (None, True, None),
        (0.5, True, Limit("divergence", 0.5)),
        ("0.5", True, Limit("divergence", 0.5)),
        ("0.02", False, Limit("divergence", 0.02)),
        ("kl=0.02", True, Limit("kl", 0.02)),
        ("rel=0.05", False, Limit("rel", 0.05)),
        ("cos=1", False, Limit("cos", 0.0)),
        ("cos=0.75", False, Limit("cos", 0.25)),
        ("acc=0.5", True, Limit("acc", 0.5)),
        ("acc=0", True, Limit("acc", 0.0)),
    ],
)
def test_a_limit_is_read(given, labelled, wanted):
    assert limit(given, labelled) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("kk=1", "did you mean 'kl'"),
        ("acc=1", "accuracy needs --labels"),
        ("kl=x", "is no number"),
        ("", "is no number"),
        ("-1", "0 or more"),
        ("nan", "finite"),
        ("rel=5", "0.05 is 5 %"),
        ("cos=2", r"from 0.5 to 1 .*; 0.99 lets vectors turn by 8 degrees"),
        ("cos=0.01", "the least cosine similarity"),
        ("cos=-1", "from 0.5 to 1"),
        ("cos=nan", "from 0.5 to 1"),
        ("cosine=0.99", "did you mean 'cos'"),
    ],
)
def test_a_limit_that_can_not_be_meant_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        limit(given, labelled=False)


@pytest.mark.parametrize(
    "wrong", [{"speedup": 1.0}, {"speedup": 0.5}, {"size": 0.0}, {"size": 1.0}, {"macs": 50.0}, {"confidence": 1.0}]
)
def test_a_target_out_of_range_is_refused(wrong):
    with pytest.raises(UsageError, match=f"--{next(iter(wrong))} "):
        Budget(**wrong)


@pytest.mark.parametrize(
    ("given", "drop", "said"),
    [
        ("rel=0.01", 0.0512, "rel=0.052"),
        ("kl=0.01", 0.0205, "kl=0.021"),
        ("kl=0.01", 0.12, "kl=0.12"),
        ("acc=0.5", 1.24, "acc=1.3"),
        ("cos=0.999", 0.0121, "cos=0.987"),
    ],
)
def test_a_limit_is_raised_to_what_would_do(given, drop, said):
    raised = limit(given, labelled=True).raised(drop)
    assert str(raised) == said
    assert drop <= raised.value < 1.1 * drop


def test_a_limit_alone_is_no_target():
    assert not Budget(max_drop=Limit("kl", 0.1)).has_target
    assert Budget(speedup=2.0).has_target


def test_no_loss_of_accuracy_at_all_can_only_be_taken_from_the_samples():
    with pytest.raises(UsageError, match=r"acc=0: no number of samples .* acc=0.5, .* --confidence 0"):
        Budget(Limit("acc", 0.0))
    assert Budget(Limit("acc", 0.0), confidence=0.0).max_drop == Limit("acc", 0.0)
