"""Brings a model into the one form that analyses and passes read, without changing any result."""

from functools import partial

import onnx_ir
from onnx_ir.passes.common import (
    InlinePass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from ..model.descriptions import restore_descriptions
from ..model.ir_version import WORKING, needed_ir_version
from ..model.node_names import name_nodes
from ..model.shape_inference import infer_shapes
from ..model.signature import restore_signature
from ..model.stated_shapes import restate, stated_shapes
from ..model.weights import clone
from .constant_folding import fold, lift_constants
from .guarded_step import CleanupStep, attempt, in_order
from .opset_conversion import convert

OPSET = 18
ROUNDS = 4  # shapes fold into constants that make more shapes known; real models need two or three rounds


def normalize(model: onnx_ir.Model, opset: int = OPSET) -> onnx_ir.Model:
    """`normalize_with_notes` without the notes."""
    return normalize_with_notes(model, opset)[0]


def normalize_with_notes(model: onnx_ir.Model, opset: int = OPSET) -> tuple[onnx_ir.Model, tuple[str, ...]]:
    """A new model with the same signature and results, and a note for each step that had to be left out.

    Functions are inlined, the IR version is at least 10, Constant nodes become initializers, an opset below 18 is
    converted to 18, and then one below `opset` to that (others stay), shape arithmetic is folded, shapes are inferred
    (and kept where the file says more), unused nodes go, and every node has a unique name. Names of values and of nodes
    are kept. A weight that is read twice stays one weight.
    """
    notes: list[str] = []
    result = clone(model)
    result.ir_version = max(WORKING, model.ir_version)  # first: of an old one tools want the weights among the inputs
    for what, step in _steps(model, opset):
        result = attempt(what, step, result, notes)
    result = name_nodes(clone(result))
    result.ir_version = needed_ir_version(result)
    restate(result, stated_shapes(model))
    restore_descriptions(result, model)
    restore_signature(result, model)
    return result, tuple(notes)


def _steps(model: onnx_ir.Model, opset: int) -> list[tuple[str, CleanupStep]]:
    remove_functions = (RemoveUnusedFunctionsPass(), RemoveUnusedOpsetsPass())
    steps: list[tuple[str, CleanupStep]] = [("naming nodes", name_nodes)]
    if model.functions:
        steps.append(("inlining functions", in_order(InlinePass(), *remove_functions)))
    steps.append(("lifting constants", lift_constants))
    for wanted in sorted({OPSET, opset}):
        if model.opset_imports.get("", OPSET) < wanted:
            steps.append((f"converting to opset {wanted}", partial(_converted, opset=wanted)))
    return [*steps, ("lifting constants", lift_constants), ("folding constants", _fold)]


def _converted(model: onnx_ir.Model, opset: int) -> onnx_ir.Model:
    return convert(infer_shapes(model), opset)


def _fold(model: onnx_ir.Model) -> onnx_ir.Model:
    tidy = RemoveUnusedNodesPass()
    for _ in range(ROUNDS):
        before = len(model.graph)
        model = tidy(lift_constants(fold(infer_shapes(model)))).model
        if len(model.graph) == before:
            break
    return infer_shapes(model)
