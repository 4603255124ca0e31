"""The stage `recover`: options of a pipeline in; how long and how a training goes out, and what comes of one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ...ir.errors import UsageError
from ...ir.remarks import Remark
from .least_squares.refit import KINDS
from .optimizers.adam import Adam, AdaMax, AdamW
from .optimizers.gradient_descent import Sgd
from .optimizers.kfac import Kfac
from .optimizers.optimizer import Optimizer
from .regularization.sparsity import ChannelLasso, GroupLasso, Lasso, Projection, TopK
from .training.loop import TrainingPlan
from .training.schedule import Schedule
from .training.update import Rules

KFAC = "kfac"
BRIEF_LOOKS = 5
AUTO, ORDINARY, NONE = "auto", "ordinary", "none"
OPTIMIZERS: dict[str, type[Optimizer]] = {one.name: one for one in (Sgd, Adam, AdamW, AdaMax)}
RATES = {"adam": 1e-3, "adamax": 2e-3, "adamw": 1e-3, "sgd": 0.02, KFAC: 0.02}


@dataclass(frozen=True)
class Recover:
    """A short retraining: what is left of the weights is tuned so that the model gives the original's outputs again.

    `steps` batches of `batch` samples; fewer where `minutes` say so, or after `patience` of the `looks` looks at the
    held-out divergence without a new best.
    `rate` is the optimizer's, after a warm-up of the share `warmup` and before a `decay` (cosine, linear, constant);
    `clip` and `clip_value` limit the norm of all gradients and each element, 0 is no limit. `optimizer` is adam, adamw,
    adamax, sgd or kfac. `temperature` is that of the KL, `features` weighs what both models compute on the way,
    `labels` is the share of cross-entropy. `refit` (ordinary, total, none) fits layer by layer before that;
    auto is ordinary where a tenth of the training alone doesn't come as far. `lasso`,
    `group_lasso` (rows), `channel_lasso`, `gates` (L0) and `keep` (the share of weights that stay) train sparsity in,
    `dropout` drops features. `layers` is a pattern, `tables` tunes embeddings too, `augment` is `file.py:function`.
    Of weights in few bits the scales are tuned, and with `quantized` also which codes their numbers are rounded to.
    """

    name: ClassVar[str] = "recover"
    steps: int = 1000
    minutes: float | None = None
    batch: int = 64
    rate: float | None = None
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float | None = None
    warmup: float = 0.05
    decay: str = "cosine"
    clip: float = 1.0
    clip_value: float = 0.0
    temperature: float = 1.0
    features: float = 0.0
    labels: float = 0.0
    refit: str = AUTO
    lasso: float = 0.0
    group_lasso: float = 0.0
    channel_lasso: float = 0.0
    gates: float = 0.0
    keep: float = 1.0
    dropout: float = 0.0
    looks: int = 20
    patience: int = 20
    layers: str = "*"
    tables: bool = False
    quantized: bool = False
    augment: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "looks", "patience"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("momentum", "dropout"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        for name in ("warmup", "labels"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        for name in ("clip", "clip_value", "features", "lasso", "group_lasso", "channel_lasso", "gates"):
            self._check(name, 0 <= getattr(self, name) < float("inf"), "finite and at least 0")
        self._check("keep", 0 < self.keep <= 1, "a share above 0 and up to 1")
        self._check("temperature", 0 < self.temperature < float("inf"), "above 0")
        self._check("weight_decay", self.weight_decay is None or 0 <= self.weight_decay < float("inf"), "at least 0")
        self._check("minutes", self.minutes is None or self.minutes > 0, "above 0")
        self._check("rate", self.rate is None or 0 < self.rate < float("inf"), "above 0")
        self._check("optimizer", self.optimizer in RATES, f"one of {', '.join(RATES)}")
        refits = AUTO, *KINDS, NONE
        self._check("refit", self.refit in refits, f"one of {', '.join(refits)}")
        self.plan()
        self.rules()

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise UsageError(f"recover{{{name}={getattr(self, name)}}}: it must be {wanted}")

    @property
    def sparsifies(self) -> bool:
        """Whether sparsity is trained in: then what it ends with counts, at any divergence."""
        return self.keep < 1 or max(self.lasso, self.group_lasso, self.channel_lasso, self.gates) > 0

    def plan(self) -> TrainingPlan:
        """How long it trains and how often it looks."""
        rate = RATES[self.optimizer] if self.rate is None else self.rate
        schedule = Schedule(rate, self.steps, round(self.warmup * self.steps), self.decay)
        seconds = None if self.minutes is None else 60 * self.minutes
        return TrainingPlan(schedule, max(1, self.steps // self.looks), self.patience, seconds, self.sparsifies)

    def tenth(self) -> "Recover":
        """A tenth of it, with looks enough to go back from where a model that is nearly right was made worse."""
        minutes = None if self.minutes is None else self.minutes / 10
        return replace(self, steps=max(1, self.steps // 10), minutes=minutes, looks=BRIEF_LOOKS)

    def rules(self) -> Rules:
        """How it trains."""
        projections: list[Projection] = [Lasso(self.lasso)] if self.lasso else []
        projections += [GroupLasso(self.group_lasso)] if self.group_lasso else []
        projections += [TopK(self.keep)] if self.keep < 1 else []
        channels = ChannelLasso(self.channel_lasso) if self.channel_lasso else None
        limits = self.clip or None, self.clip_value or None
        kfac = Kfac() if self.optimizer == KFAC else None
        return Rules(self._optimizer(), kfac, *limits, tuple(projections), channels, self.gates, self.dropout)

    def _optimizer(self) -> Optimizer:
        if self.optimizer in (KFAC, Sgd.name):
            return Sgd(momentum=self.momentum, weight_decay=self.weight_decay or 0.0)
        known = OPTIMIZERS[self.optimizer]
        return known() if self.weight_decay is None else known(**{"weight_decay": self.weight_decay})


@dataclass(frozen=True)
class Retrained:
    """New values for constants of a model, by name: none where nothing made it better. `before` and `after` are the
    divergence on the samples that chose them, where it looks better than on others."""

    weights: Mapping[str, np.ndarray]
    before: float
    after: float
    steps: int = 0
    seconds: float = 0.0
    remarks: tuple[Remark, ...] = ()
