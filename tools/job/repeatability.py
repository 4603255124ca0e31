"""Whether a model gives the same outputs for the same samples: run once more in its session, and in a fresh one."""

from collections.abc import Iterator, Sequence

import onnx_ir

from ...ir.errors import VerifyError
from ...ir.output_heads import Head
from ...ir.random_operators import random_nodes
from ...runtime.comparison import Outputs, compare
from ...runtime.data.dataset import Feed
from ...runtime.messages import Source
from ...runtime.sessions import Session
from ..report.drops import ROWS, drop_of, drops_of
from .gate import Judge

ROUNDING = 1e-3  # nats, or a share: outputs that differ by less are taken for the same
SHOWN = 3  # names of operators in a message


def unrepeatable(source: Source, model: onnx_ir.Model, session: Session, judge: Judge) -> str | None:
    """Why nothing can be compared with `model`: its outputs are random or depend on the run. None where they are the
    same again.

    `source` is what `session` was made of; `judge` holds the outputs of `session` on its samples. A seeded draw of ONNX
    Runtime goes on from run to run in one session and begins anew in a fresh one: both are compared. All samples are
    run again where the graph draws, else the first batch.
    """
    drawn = random_nodes(model)
    feeds = list(judge.data.batches) if drawn else list(judge.data.batches[:1])
    for difference in _differences(source, session, judge, feeds):
        if difference is not None:
            return _said(difference, drawn)
    return None


def _differences(source: Source, session: Session, judge: Judge, feeds: Sequence[Feed]) -> Iterator[str | None]:
    reference = judge.reference[: len(feeds)]
    yield difference(reference, [session.run(feed) for feed in feeds], judge.heads)
    fresh = Session(source, session.target, given=True)
    yield difference(reference, [fresh.run(feed) for feed in feeds], judge.heads)


def difference(one: Outputs, other: Outputs, heads: Sequence[Head]) -> str | None:
    """How far outputs for the same feeds are apart, None where that is no more than rounding."""
    try:
        found = drops_of(compare(one, other, heads))
    except VerifyError:
        return "outputs of other shapes"
    difference = next((one for one in found if one > ROUNDING), None)
    if difference is None:
        return None
    return "outputs of other shapes" if difference.metric == ROWS else drop_of(difference.metric, difference)


def _said(difference: str, drawn: Sequence[onnx_ir.Node]) -> str:
    seen = f"two runs on the same samples are {difference} apart"
    if not drawn:
        return f"its outputs depend on the run, {seen}: nothing can be compared with them; no operator in it draws"
    return (
        f"its outputs are random, {seen}: nothing can be compared with them; export the model for inference, without "
        f"{_named(drawn)}"
    )


def random_note(model: onnx_ir.Model) -> tuple[str, ...]:
    """What is to be said of a graph that draws, even where ONNX Runtime leaves the drawing out and runs agree."""
    drawn = random_nodes(model)
    if not drawn:
        return ()
    return (f"{_named(drawn)} may draw at random in other runtimes or settings; export the model for inference.",)


def _named(drawn: Sequence[onnx_ir.Node]) -> str:
    names = ", ".join(f"{node.op_type} {node.name!r}" for node in drawn[:SHOWN])
    return f"{names} and {len(drawn) - SHOWN} more" if len(drawn) > SHOWN else names
