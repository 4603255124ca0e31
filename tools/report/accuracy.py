"""What can be said of an accuracy: the change and a margin in, figures with their verdict and words out."""

from dataclasses import asdict

from ...runtime.comparison import CONFIDENCE, AccuracyChange, loss_bound, samples_for_fall, samples_for_loss
from .drops import ACCURACY, drop
from .quantities import percent, percent_of, rounded, signed
from .records import AccuracyFigures

MARGIN = 0.005  # a share: what a loss must surely be below to be called none, where no limit says it
FELL, KEPT, UNSURE = "fell", "kept", "cannot tell"


def judged(change: AccuracyChange, margin: float = MARGIN, confidence: float = CONFIDENCE) -> AccuracyFigures:
    """Whether the accuracy fell, was kept within `margin`, a share, or which of these can't be told."""
    seen = change.lost, change.won, change.samples
    bound = loss_bound(*seen, confidence)
    verdict = FELL if change.high < 0 else KEPT if bound <= margin else UNSURE
    numbers = (samples_for_loss(*seen, margin, confidence), samples_for_fall(*seen)) if verdict == UNSURE else ()
    enough = min((n for n in numbers if n is not None), default=None)
    return AccuracyFigures(
        **asdict(change), verdict=verdict, bound=bound, margin=margin, confidence=confidence, enough=enough
    )


def sentence(figures: AccuracyFigures) -> str:
    """What the verdict of a run says, or '' of figures without a verdict."""
    if figures.verdict == FELL:
        return _fell(figures)
    if figures.bound is None or figures.margin is None or figures.confidence is None:
        return ""
    margin, most = drop(ACCURACY, 100 * figures.margin), drop(ACCURACY, 100 * max(figures.bound, 0.0))
    sure = f"{percent_of(figures.confidence)} confidence"
    if figures.verdict == KEPT:
        return f"no loss of accuracy beyond {margin} (at most {most} with {sure})"
    advice = "" if figures.enough is None else f"; about {rounded(figures.enough)} would do"
    return (
        f"{figures.samples:,} labelled samples can't tell whether accuracy fell by more than {margin} "
        f"(at most {most} with {sure}{advice})"
    )


def cell(figures: AccuracyFigures) -> str:
    """What the table says: the change, its interval and the verdict."""
    change = f"{signed(100 * (figures.after - figures.before))} pt"
    if figures.low is not None and figures.high is not None:
        change += f" ({signed(100 * figures.low)} to {signed(100 * figures.high)} pt)"
    if figures.verdict == KEPT and figures.margin is not None:
        return f"{change}, no loss beyond {100 * figures.margin:.3g} pt"
    return f"{change}, {figures.verdict}" if figures.verdict else change


def _fell(figures: AccuracyFigures) -> str:
    assert figures.low is not None
    assert figures.high is not None
    low, high, change = (signed(100 * x) for x in (figures.low, figures.high, figures.after - figures.before))
    return (
        f"accuracy fell from {percent(figures.before)} to {percent(figures.after)} "
        f"({change} points, {low} to {high} points)"
    )
