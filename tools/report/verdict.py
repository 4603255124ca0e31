"""The words that sum up a run: what was measured in, one line out, with a unit beside every number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .accuracy import FELL, KEPT, sentence
from .drops import ACCURACY, COSINE, DEFAULTS, KL, NAMES, RELATIVE, ROWS, Drop, cosine, drop, drop_of, drops_of
from .quantities import percent, percent_of, rounded
from .records import AccuracyFigures, DivergenceFigures, Figures, GateRecord, OfferRecord, TimingRecord

SHORT = {KL: "KL"}
ASKED_FOR = 1_000_000  # samples: more are no advice
SAME_SIZE = 0.005  # of the bytes: what a change of size is not worth a word below


@dataclass(frozen=True)
class Verdict:
    """`warning` says that the outputs moved further than the default limit allows where no limit held them, or that
    accuracy was lost beyond chance."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class NearestMiss:
    """The cheapest change that was tried and is beyond the limit: its drop, and the shares of the bytes (measured) and
    of the layers' time (predicted) that it saves. `expected` is a drop after a recovery that was not made in full."""

    what: str
    drop: Drop
    size: float
    time: float
    expected: bool = False


@dataclass(frozen=True)
class Reach:
    """What an attempt comes to: the shares of the bytes and multiply-adds that are left, or the ratio of latencies,
    each where it was asked for, and the drop of the outputs where that is known."""

    drop: Drop | None
    size: float | None = None
    macs: float | None = None
    speedup: float | None = None


def of_change(
    before: Figures,
    after: Figures,
    timing: TimingRecord | None,
    gate: GateRecord,
    divergence: DivergenceFigures | None,
    accuracy: AccuracyFigures | None,
    compared: str = "outputs",
    more: str = "",
) -> Verdict:
    """What a change brought and what it did to the outputs, or to what was `compared` in their place, and to accuracy;
    that comes first where no limit held it. `more` is what more samples would buy."""
    gains = f"{_size(before, after)}, {_speed(timing)}"
    fell = accuracy is not None and accuracy.verdict == FELL
    loss = "" if accuracy is None or _said_by(gate, accuracy) else sentence(accuracy)
    if gate.metric is None or gate.limit is None:
        free = () if divergence is None else drops_of(divergence)
        moved = f"{compared} moved: {_figures(divergence, free)}" if divergence and free else f"{compared} not compared"
        beyond = any(one > DEFAULTS[one.metric] for one in free)
        return Verdict(_joined(moved, loss, "no limit was set", gains), beyond or fell)
    warning = fell and gate.metric != ACCURACY
    outputs = _joined(_kept(gate, compared), loss)
    return Verdict(_joined(gains, outputs, more) if gate.passed else _joined(outputs, gains), warning)


def left_alone(detail: str) -> str:
    """Of a model on which no pass is tried."""
    return f"left alone: {detail}"


def not_worth_it(metric: str, limit: float, miss: NearestMiss | None, rows: str = "", wanted: int | None = None) -> str:
    """Of a model that comes back as it was, since no change is worth it within the limit. `rows` says of which outputs
    the nearest one changes the number of rows, if it does, and what to do about it; so many samples are `wanted` to be
    sure of it."""
    held = metric if miss is None or miss.drop.metric == ROWS else miss.drop.metric
    said = f"returned unchanged: nothing is worth its price within {drop_of(held, limit)}"
    if miss is None:
        return f"{said}; no change that saves anything was found"
    time = f"{percent_of(abs(miss.time))} of the layers' time"
    saved = f"saves {percent_of(miss.size)} of the size and " + (time if miss.time >= 0 else f"costs {time}")
    verb = "gives" if miss.drop.metric == ROWS else "would cost" if miss.expected else "costs"
    how = " after recovery, going by short ones" if verb == "would cost" else ""
    costs = f"{verb} {_uncertain(miss.drop, limit)}{how}{rows}"
    return _joined(f"{said}; the nearest that was tried, {miss.what}, {costs} and {saved}", _would_do(wanted))


def offering(text: str, offer: OfferRecord | None) -> str:
    """`text` with what a larger limit would bring."""
    if offer is None:
        return text
    gains = [_speed(offer.timing)] if offer.timing.verdict == "faster" else []
    gains += [_size_ratio(1 / offer.size)] if offer.size < 1 - SAME_SIZE else []
    limit = f"about {offer.limit} after recovery" if offer.expected else offer.limit
    return f"{text}; at {limit}: {', '.join(gains)}"


def with_more_samples(wanted: int | None, miss: NearestMiss) -> str:
    """What so many samples might allow, if they are not too many to ask for."""
    if wanted is None or wanted > ASKED_FOR:
        return ""
    what = f"{1 / (1 - miss.size):.2f}x smaller" if miss.size > SAME_SIZE else f"{percent_of(miss.time)} less time"
    return f"with about {rounded(wanted)} samples {what} may be within the limit"


def _uncertain(found: Drop, limit: float) -> str:
    """What was measured, and where that keeps the limit what it rests on."""
    certainty = found.certainty
    if certainty is None or certainty.estimate > limit:
        return drop_of(found.metric, found.estimate)
    estimate = drop_of(found.metric, certainty.estimate)
    if found == math.inf:
        return f"{estimate} on too few samples ({certainty.samples}) to tell"
    return f"{estimate}, or by its {certainty.samples} samples {_as_far_as(found.metric)} {drop(found.metric, found)}"


def _as_far_as(metric: str) -> str:
    return "down to" if metric == COSINE else "up to"


def _would_do(wanted: int | None) -> str:
    return "" if wanted is None or wanted > ASKED_FOR else f"about {rounded(wanted)} samples would tell"


def rows_of(changed: Mapping[str, int]) -> str:
    """'found' in 2 batches, of outputs that have other numbers of rows."""
    return ", ".join(f"{name!r} in {n} batch{'es' if n != 1 else ''}" for name, n in changed.items())


def nothing_to_do() -> str:
    """Of a model that options which fix how much is taken don't change."""
    return "returned unchanged: the passes, as they are asked for, change nothing"


def not_worth_having(share: float, speed: str, ratio: float) -> str | None:
    """Of a change within the limit that leaves `share` of the bytes, and is 'faster', 'slower' or neither by `ratio`:
    why it is not worth having, if it isn't."""
    if speed == "slower":
        return (
            f"returned unchanged: the best within the limit has {percent_of(share)} of the size but is slower here "
            f"({ratio:.2f}x as fast); --size asks for it all the same"
        )
    if speed != "faster" and share > 1 - SAME_SIZE:
        return (
            "returned unchanged: the best within the limit is neither measurably faster nor smaller "
            f"({percent_of(share)} of the size)"
        )
    return None


def out_of_reach(targets: str, passes: str, fixed: bool, best: Reach) -> str:
    """Of a target that no attempt comes to. `fixed` says that the options leave nothing to search."""
    advice = "ask for less, or take more by their options" if fixed else "ask for less, or add passes"
    said = f"{targets} can't be reached with {passes}; {advice}"
    return f"{said} (the best seen: {_reached(best)})"


def too_dear(targets: str, least: Drop, limit: float) -> str:
    """Of a target that can only be reached beyond the limit."""
    if least.metric == ROWS:
        said = f"{targets} gives {drop_of(ROWS, least)}, which is beyond every limit"
        return f"{said}; ask for less, or compare inner values with --judge"
    beyond = "not surely within" if least.estimate <= limit else "beyond"
    return (
        f"{targets} costs {_uncertain(least, limit)}, {beyond} the limit of {drop(least.metric, limit)}; "
        f"ask for less, {'give more samples, ' if least.estimate <= limit else ''}or raise --max-drop"
    )


def not_so_fast(wanted: float, ratio: float) -> str:
    """Of a speed that the search saw and the longer measurement at the end did not."""
    return f"--speedup {wanted:g}: {ratio:.2f}x was measured in the end; ask for less, or add passes"


def gate_line(gate: GateRecord) -> str:
    """The limit and what was measured, or '' where there was no limit."""
    if gate.metric is None or gate.limit is None:
        return ""
    kept = "kept" if gate.passed else "NOT kept"
    if gate.metric == ROWS:
        return f"{NAMES[ROWS]}: {kept}"
    measured = f"{NAMES[gate.metric]} not measured" if gate.measured is None else _measured(gate)
    chose = "" if gate.samples is None or gate.bound is None else f" by {gate.samples:,} other samples"
    return f"{measured}{_at_most(gate)}{chose}, limit {drop(gate.metric, gate.limit)}: {kept}"


def _size(before: Figures, after: Figures) -> str:
    return _size_ratio(before.bytes / after.bytes)


def _size_ratio(ratio: float) -> str:
    if abs(ratio - 1) <= SAME_SIZE:
        return "not smaller"
    return f"{ratio:.2f}x smaller" if ratio > 1 else f"{1 / ratio:.2f}x LARGER"


def _speed(timing: TimingRecord | None) -> str:
    if timing is None:
        return "not timed"
    interval = f"{timing.low:.2f} to {timing.high:.2f}x"
    if timing.verdict == "faster":
        return f"{timing.ratio:.2f}x faster ({interval})"
    if timing.verdict == "slower":
        return f"but SLOWER here, {timing.ratio:.2f}x ({interval})"
    return f"no difference in speed could be measured ({interval})"


def _kept(gate: GateRecord, compared: str) -> str:
    assert gate.metric is not None
    assert gate.limit is not None
    word = "within" if gate.passed else "BEYOND"
    if gate.metric == ROWS and gate.measured is not None:
        return f"{compared} {word} the limit ({drop_of(ROWS, gate.measured)})"
    limit = drop(gate.metric, gate.limit)
    if gate.bound is None or gate.confidence is None:
        return f"{compared} {word} the limit ({_measured(gate)} of {limit})"
    if gate.bound <= gate.limit or (gate.measured or 0) > gate.limit:
        return f"{compared} {word} the limit ({_measured(gate)}{_at_most(gate)}, of {limit})"
    return f"{compared} not surely within the limit ({_measured(gate)}{_at_most(gate)}, of {limit}{_lack(gate)})"


def _measured(gate: GateRecord) -> str:
    assert gate.metric is not None
    return "not measured" if gate.measured is None else f"{NAMES[gate.metric]} {drop(gate.metric, gate.measured)}"


def _at_most(gate: GateRecord) -> str:
    """The upper end, where there is one."""
    if gate.bound is None or gate.confidence is None or gate.metric is None:
        return ""
    if gate.bound == math.inf:
        return f"; too few samples ({gate.samples}) to be {percent_of(gate.confidence)} sure of anything"
    most = "at least" if gate.metric == COSINE else "at most"
    return f", {most} {drop(gate.metric, gate.bound)} with {percent_of(gate.confidence)} confidence"


def _lack(gate: GateRecord) -> str:
    return "" if gate.enough is None else f"; about {rounded(gate.enough)} samples would do"


def _figures(divergence: DivergenceFigures, measured: Sequence[Drop]) -> str:
    shown = {one.metric: f"{SHORT.get(one.metric, NAMES[one.metric])} {drop(one.metric, one)}" for one in measured}
    if divergence.rows:
        shown[ROWS] = f"other numbers of rows of {rows_of(divergence.rows)}"
    if divergence.agreement is not None and KL in shown:
        shown[KL] += f", same answer {percent(divergence.agreement)}"
    if divergence.cosine_distance is not None and RELATIVE in shown:
        shown[RELATIVE] += f", cosine {cosine(divergence.cosine_distance)}"
    return ", ".join(shown.values())


def _said_by(gate: GateRecord, accuracy: AccuracyFigures) -> bool:
    """Whether the limit has the words already, being in accuracy itself: what it must surely be, and that nothing was
    lost beyond it."""
    sure = gate.bound is not None or (gate.passed and accuracy.verdict == KEPT)
    return gate.metric == ACCURACY and sure and accuracy.verdict != FELL


def _reached(best: Reach) -> str:
    parts = [
        "" if best.speedup is None else f"{best.speedup:.2f}x as fast",
        "" if best.size is None else f"{percent_of(best.size)} of the size",
        "" if best.macs is None else f"{percent_of(best.macs)} of the multiply-adds",
        "" if best.drop is None else f"at {drop_of(best.drop.metric, best.drop)}",
    ]
    return ", ".join(part for part in parts if part)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
