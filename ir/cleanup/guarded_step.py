"""A step by a tool that may fail or break the model: its result is taken only if it is a valid model."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir
from onnx_ir.passes.common import CheckerPass

from ..model.names import separate
from ..model.signature import restore_signature
from ..model.weights import clone

CleanupStep = Callable[[onnx_ir.Model], onnx_ir.Model]


def attempt(what: str, step: CleanupStep, model: onnx_ir.Model, notes: list[str]) -> onnx_ir.Model:
    """`step` of a copy of `model`, with the signature of `model`; or `model` itself, and in `notes` why.

    Refused are an exception, another signature, and a result that onnx.checker rejects while it accepts `model`.
    """
    try:
        with _quiet():
            result = separate(step(clone(model)))
        restore_signature(result, model)
        fault = fault_of(result)
    except Exception as e:  # whatever a tool raises, the model without its step is right
        notes.append(f"{what} left out: {_one_line(e)}")
        return model
    if fault and not fault_of(model):
        notes.append(f"{what} left out, as it broke the model: {fault}")
        return model
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """What the tools log is no news to the user: it is in the notes, or doesn't matter."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def fault_of(model: onnx_ir.Model) -> str | None:
    """What onnx.checker says against `model`, if anything; large weights are not looked at."""
    try:
        CheckerPass()(clone(model))
    except Exception as e:  # onnx_ir wraps what the checker and the serialization raise
        return _one_line(e)
    return None


def in_order(*passes: onnx_ir.passes.PassBase) -> CleanupStep:
    """The passes one after the other, as a step."""
    return lambda model: onnx_ir.passes.Sequential(*passes)(model).model


def _one_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
