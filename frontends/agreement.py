"""Whether a lowered model does what the framework's model does: both run, and the first layer that differs is found."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ..ir.errors import InputError, VerifyError
from ..ir.inner_values import inferred
from ..ir.model import clone
from ..ir.model.weights import replace_weights
from ..ir.row_counts import RowCounts
from .frontend import Arrays, Lowered

Execute = Callable[[onnx_ir.Model], Callable[[Arrays], Mapping[str, np.ndarray]]]

MARGIN = 16
"""How many times the effect of one rounding of every weight two right implementations may differ. Both effects add up
about one rounding for each product in a sum, at different places."""

LEAST = 16
"""Roundings of the output itself that are always allowed; a difference in half of its digits never is."""


@dataclass(frozen=True)
class Agreement:
    """The largest relative difference of an output, ||y' - y|| / ||y||, and the noise floor that it was held to."""

    difference: float
    floor: float


def agreement(lowered: Lowered, execute: Execute) -> Agreement:
    """Compares the lowered model with the framework's answers; `execute` gives a function that runs a model.

    The noise floor is measured: by how much the outputs of the lowered model move when each weight is changed by one
    rounding of its type, up or down at random (after Higham, 2002, section 1.5: rounding errors are like such changes).

    Of an output that has as many rows as the data asks for, and others than the framework gives, the layers are
    compared: rounding can decide on a row. Raises VerifyError naming the first layer that differs by more, or the
    output where no layer does, and InputError where the framework's own outputs are no numbers.
    """
    for name, wanted in lowered.answers.items():
        if wanted.dtype.kind == "f" and not np.isfinite(wanted).any():
            raise InputError(
                f"the original's output {name!r} holds nothing but NaN and infinity on the example inputs; repair the "
                "model, or give real inputs with --example-inputs"
            )
    given, moved = (execute(model)(lowered.feed) for model in (lowered.model, _shaken(lowered.model)))
    found: list[Agreement] = []
    for name, wanted in lowered.answers.items():
        if _is_another_shape(name, given.get(name), wanted, lowered):
            found.append(_of_layers(name, lowered, execute))
            continue
        one = Agreement(distance(given[name], wanted), _floor(given[name], moved[name]))
        if not one.difference <= one.floor:
            _check_repeats(name, one, lowered)
            raise VerifyError(_explained(name, one, lowered, execute))
        found.append(one)
    return max(found, key=lambda one: one.difference)


def _check_repeats(name: str, found: Agreement, lowered: Lowered) -> None:
    again = lowered.answers if lowered.again is None else lowered.again()
    if not distance(again[name], lowered.answers[name]) <= found.floor:
        raise InputError(
            f"the original gives another output {name!r} each time that it is asked: it draws random numbers also in "
            "inference, such as dropout that is always on; make it deterministic"
        )


def tells_little(lowered: Lowered) -> bool:
    """Whether all samples of the example inputs have the same outputs, so that their agreement says little."""
    answers = [array for array in lowered.answers.values() if array.ndim and len(array) > 1]
    return bool(answers) and all((array == array[:1]).all() for array in answers)


def distance(given: np.ndarray, wanted: np.ndarray) -> float:
    """||given - wanted|| / ||wanted|| in float64; infinite where the two are not finite at the same places, and for
    different shapes."""
    if given.shape != wanted.shape:
        return float("inf")
    y, z = (np.asarray(array).astype(np.float64) for array in (wanted, given))
    finite = np.isfinite(y)
    if not np.array_equal(finite, np.isfinite(z)) or not np.array_equal(y[~finite], z[~finite], equal_nan=True):
        return float("inf")
    norm, error = (float(np.linalg.norm(array[finite])) for array in (y, z - y))
    return error / norm if norm else (0.0 if error == 0 else float("inf"))


def _floor(given: np.ndarray, moved: np.ndarray) -> float:
    unit = _rounding(given.dtype)
    floor = MARGIN * distance(moved, given) + LEAST * unit
    return min(floor, math.sqrt(unit)) if unit else floor


def _rounding(dtype: np.dtype) -> float:
    """The unit roundoff of a type of floating-point numbers, 0 of any other."""
    return float(np.finfo(dtype).eps) / 2 if dtype.kind == "f" else 0.0


def _shaken(model: onnx_ir.Model) -> onnx_ir.Model:
    """The model with each number of its matrices and kernels multiplied by 1 + u or 1 - u, u one rounding."""
    random = np.random.default_rng(0)

    def change(name: str, tensor: onnx_ir.TensorProtocol) -> onnx_ir.TensorProtocol:
        array = tensor.numpy()
        unit = _rounding(array.dtype)
        if not unit or array.ndim < 2:  # scalars and vectors may be masks and switches
            return tensor
        signs = random.integers(0, 2, array.shape) * 2 - 1
        return onnx_ir.tensor((array * (1 + 2 * unit * signs)).astype(array.dtype), name=name)

    shaken = clone(model)
    replace_weights(shaken, change)
    return shaken


def _is_another_shape(name: str, given: np.ndarray | None, wanted: np.ndarray, lowered: Lowered) -> bool:
    """Whether there are other numbers of rows, which may be. Raises VerifyError for what may not be."""
    if given is not None and given.shape == wanted.shape:
        return False
    if given is not None and given.ndim == wanted.ndim and name in RowCounts.of(inferred(lowered.model)).counted:
        return True
    found = "missing" if given is None else f"{list(given.shape)}"
    raise VerifyError(
        f"the model that {lowered.by} gave is not the original: its output {name!r} is {found} and should be "
        f"{list(wanted.shape)}; please report this model"
    )


def _of_layers(name: str, lowered: Lowered, execute: Execute) -> Agreement:
    """The worst one of the layers. Raises VerifyError if one differs, or there is none."""
    found = [one for _, one in _layers(lowered, execute)]
    if not found or any(not one.difference <= one.floor for one in found):
        raise VerifyError(_explained(name, Agreement(float("inf"), 0.0), lowered, execute))
    return max(found, key=lambda one: one.difference)


def _explained(name: str, found: Agreement, lowered: Lowered, execute: Execute) -> str:
    where = _first_difference(lowered, execute)
    return (
        f"the model that {lowered.by} gave is not the original: the output {name!r} differs by "
        f"{found.difference:.2g} of its size, and rounding explains {found.floor:.2g}; {where}. Nothing was done with "
        "it; see docs/frontends.md, 'When a layer is lowered wrongly'"
    )


def _first_difference(lowered: Lowered, execute: Execute) -> str:
    for layer, one in _layers(lowered, execute):
        if not one.difference <= one.floor:
            return f"the first layer that differs is {layer!r} (by {one.difference:.2g}, rounding: {one.floor:.2g})"
    return "no layer by itself differs"


def _layers(lowered: Lowered, execute: Execute) -> Iterator[tuple[str, Agreement]]:
    """How far each layer is from the framework's, without those whose number of rows is found and is another."""
    probe = lowered.probe()
    given, moved = (execute(model)(lowered.feed) for model in (probe.model, _shaken(probe.model)))
    counted = RowCounts.of(inferred(probe.model)).counted
    for step in probe.steps:
        array = given[step.output]
        if array.shape == step.value.shape:
            yield step.layer, Agreement(distance(array, step.value), _floor(array, moved[step.output]))
        elif array.ndim != step.value.ndim or step.output not in counted:
            yield step.layer, Agreement(float("inf"), 0.0)
