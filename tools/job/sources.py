"""What a person gives a job to work on: a model and samples for it, as they were named or handed over, nothing read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.errors import UsageError

if TYPE_CHECKING:
    from ...runtime.data.named_data import Data, Labels

LARGEST_CALIBRATION = 2048


@dataclass(frozen=True)
class Sources:
    """`model` is a path, `module:function`, or a live model; `example_inputs` and `inputs` say what it reads where it
    doesn't itself. `data` guides, `eval_data` is reported; `labels` are those of `eval_data`, or of `data` without
    that, `train_labels` those of `data`. At most `calibration` samples guide. `heads` are kinds by the names of
    outputs; `judge` names the values, one or several, that are compared in the place of the outputs; `seed` fixes every
    draw.

    Raises UsageError for samples that are labelled twice.
    """

    model: object
    example_inputs: object = None
    inputs: Sequence[str] | str | None = None
    data: "Data | None" = None
    eval_data: "Data | None" = None
    labels: "Labels | None" = None
    train_labels: "Labels | None" = None
    calibration: int = LARGEST_CALIBRATION
    heads: Mapping[str, str] | None = None
    judge: Sequence[str] | str = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.eval_data is None and self.labels is not None and self.train_labels is not None:
            raise UsageError(
                "--labels and --train-labels both label --data: give one of them, or --eval-data for --labels"
            )

    @property
    def judged(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([self.judge] if isinstance(self.judge, str) else self.judge))

    @property
    def labels_of_data(self) -> "Labels | None":
        return self.labels if self.eval_data is None and self.train_labels is None else self.train_labels
