"""What a frontend is: a model of a framework in; an ONNX model, and the framework's own answers to judge it by, out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import onnx_ir

from ..ir.errors import InputError
from ..ir.extras import install
from .examples import Examples

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """What one layer gives in the framework: `value` is to be what the lowered model's output `output` is."""

    layer: str
    output: str
    value: np.ndarray


@dataclass(frozen=True)
class Probe:
    """A lowered model that also gives what its layers do: `steps`, in the order of execution, name its outputs."""

    model: onnx_ir.Model
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Lowered:
    """An ONNX model that was made of a framework's model, and what to check it with.

    `feed` are example inputs by the names of the ONNX inputs, `answers` what the framework itself makes of them, by
    the names of the ONNX outputs. `probe` is asked for where the two differ. `by` names the framework and the converter
    with their versions; `notes` say what a user should know about the conversion. `again`, if it can be had, asks the
    framework once more, to tell a model that draws random numbers from one that was lowered wrongly.
    """

    model: onnx_ir.Model
    by: str
    feed: Arrays
    answers: Arrays
    probe: Callable[[], Probe]
    notes: tuple[str, ...] = ()
    again: Callable[[], Arrays] | None = None


class Frontend(ABC):
    """Lowers the models of one framework. Those of other packages are found by the entry point `kronnx.frontends`."""

    name: ClassVar[str]

    @abstractmethod
    def reads(self, source: object) -> bool:
        """Whether `source`, a path that exists or a live model, is one of this framework's. Imports no framework."""

    @abstractmethod
    def lower(self, source: object, examples: Examples) -> Lowered:
        """The model as ONNX, valid by onnx.checker, with named inputs, outputs and layers.

        Raises InputError or UsageError for what can't be lowered, saying which part and what to do.
        """


def required(module: str, extra: str, what: str) -> Any:
    """The imported `module`. Raises InputError with the pip command if it isn't there; `what` needs it."""
    if find_spec(module.partition(".")[0]) is None:
        raise InputError(f"{what} needs {module}, which is not installed; run: {install(extra)}")
    try:
        return import_module(module)
    except Exception as e:  # a broken installation of a framework raises anything
        raise InputError(
            f"{what} needs {module}, which can't be imported ({type(e).__name__}: {e}); "
            f"repair it with: {install(extra, '--force-reinstall')}"
        ) from e
