"""The student of a distillation: a model to retrain in; the step that brings its outputs to the original's out."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir

from ...ir.decomposition import decompose
from ...passes.curvature import Feed, open_to_gradients
from ...passes.recovery.stage import Recover
from ...passes.recovery.trainable import opened_to_training
from ...passes.recovery.training.feature_matching import matched
from ...passes.recovery.training.objective import Objective
from ...passes.recovery.training.training_step import TrainingStep, training_step
from ...passes.recovery.training.update import Rules
from ...runtime.data.batches import signature
from ...runtime.data.named_data import Dataset
from .distillation import has_rows
from .subject import Subject

KFAC_STEP = 1e-4  # of the divergence at the beginning: what one step of K-FAC may be predicted to change


def student_step(
    model: onnx_ir.Model,
    original: onnx_ir.Model,
    subject: Subject,
    feeds: Sequence[Feed],
    nats: Callable[[onnx_ir.Model], float],
    settings: Recover,
) -> TrainingStep:
    """`feeds` are some that both models run on; `nats` measures how far a model is from the original."""
    data = subject.samples.training
    assert data is not None
    taken_apart = decompose if _several_lengths(data) else lambda given: open_to_gradients(given, feeds)
    chosen = settings.layers, settings.tables, settings.quantized
    apart, weights = opened_to_training(model, taken_apart, *chosen)
    features = matched(original, apart) if settings.features else ()
    objective = Objective(settings.temperature, settings.labels, settings.features, features)
    rules = _bounded(_fitting(settings.rules(), data), lambda: nats(model), settings)
    return training_step(apart, subject.heads, weights, objective, rules, subject.seed)


def _several_lengths(data: Dataset) -> bool:
    """Whether the samples differ in length: only loops through time of one length can be taken apart step by step."""
    feeds = {id(piece.feed): piece.feed for pieces in data.parts for piece in pieces}
    return len({signature(data.axes, feed) for feed in feeds.values()}) > 1


def _fitting(rules: Rules, data: Dataset) -> Rules:
    """Without dropout where its masks, which have a row for each sample, don't fit."""
    return rules if has_rows(data) else replace(rules, dropout=0.0)


def _bounded(rules: Rules, nats: Callable[[], float], settings: Recover) -> Rules:
    """With a bound on the steps of K-FAC that goes with how far the model is off."""
    if rules.kfac is None:
        return rules
    least = rules.kfac.clip if settings.sparsifies else float(np.finfo(np.float32).tiny)
    return replace(rules, kfac=replace(rules.kfac, clip=max(KFAC_STEP * nats(), least)))
