"""The kinds of outputs, and how a person says them: `--head NAME=KIND`. Imports nothing, so that a command can show
them at once."""

from dataclasses import dataclass

CATEGORICAL, BERNOULLI, GAUSSIAN, DISCRETE = "categorical", "bernoulli", "gaussian", "discrete"

KINDS = (CATEGORICAL, BERNOULLI, GAUSSIAN)
"""What an output of floating-point numbers can be; any other is discrete."""


@dataclass(frozen=True)
class AskedKind:
    """A kind that a person says, and the axis of the classes if they say that too."""

    kind: str
    axis: int | None = None

    @classmethod
    def of(cls, text: str) -> "AskedKind":
        """`bernoulli`, or `categorical@1`. Raises ValueError for what is neither."""
        kind, at, axis = text.partition("@")
        if kind not in KINDS or (at and (kind != CATEGORICAL or not axis.removeprefix("-").isdecimal())):
            raise ValueError(f"the kind is {', '.join(KINDS)} or {CATEGORICAL}@AXIS, which says where the classes lie")
        return cls(kind, int(axis) if at else None)
