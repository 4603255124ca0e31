"""The lossless clean-up: the same outputs from fewer operators, by the passes and rules of onnx_ir and onnxscript."""

import onnx_ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

from ..model.descriptions import restore_descriptions
from ..model.hiding import hidden
from ..model.node_names import name_nodes, recall_names
from ..model.shape_inference import infer_shapes
from ..model.signature import restore_signature
from ..model.stated_shapes import restate, stated_shapes
from ..model.weights import clone, nodes
from ..random_operators import RANDOM
from .batchnorm_folding import absorb, fold_batchnorms
from .constant_folding import fold_all, lift_constants
from .duplicate_weights import merge_duplicates
from .einsum import contract
from .gelu import fuse_gelus
from .guarded_step import CleanupStep, attempt
from .layer_normalization import fuse_layer_norms

# Left out of onnxscript's default rules, each for a result that it can change: x + c and x * c with a c that is only
# nearly 0 or 1 (the epsilon of a normalization), auto_pad with dilations, Min and Max as Clip, Slices as Split.
LAYOUT_RULES = (
    *(rules.no_op_cast_rule, rules.no_op_transpose_rule, rules.no_op_expand_rule, rules.transpose_transpose_rule),
    *(rules.reshape_reshape_rule, rules.unsqueeze_unsqueeze_rule),
    *(rules.collapse_slice_rule, rules.collapse_slice2_rule),
)
RESHAPE_RULES = (rules.materialize_reshape_shape_rule,)
PAD_RULES = (rules.fuse_pad_into_conv_rule,)


def clean(model: onnx_ir.Model) -> onnx_ir.Model:
    """`clean_with_notes` without the notes."""
    return clean_with_notes(model)[0]


def clean_with_notes(model: onnx_ir.Model) -> tuple[onnx_ir.Model, tuple[str, ...]]:
    """A new model that does the same with less, and a note for each step that failed or broke it and was left out.

    Outputs change by rounding at most, where BatchNormalization or other scales and shifts go into the weight and bias
    before them, where an Einsum becomes a MatMul, where LayerNormalization and Gelu take the place of their parts and
    where constants are computed ahead of time: some 1e-6 of the largest output in float32, 1e-3 in float16.
    """
    notes: list[str] = []
    result = model
    for what, step in STEPS:
        result = attempt(what, step, result, notes)
    result = recall_names(clone(result), model)
    restate(result, stated_shapes(model))
    restore_descriptions(result, model)
    restore_signature(result, model)
    return name_nodes(result), tuple(notes)


def _remove_identities(model: onnx_ir.Model) -> onnx_ir.Model:
    with hidden(model, [node for node in nodes(model) if node.op_type == "Identity" and _is_needed(node)]):
        return IdentityEliminationPass()(model).model


def _is_needed(identity: onnx_ir.Node) -> bool:
    """An output of a graph must be made in it, and only once."""
    x, y = identity.inputs[0], identity.outputs[0]
    return y.is_graph_output() and x is not None and (x.graph is not identity.graph or x.is_graph_output())


def _merge_equal_nodes(model: onnx_ir.Model) -> onnx_ir.Model:
    """Nodes that draw, or that do who knows what, give a different value each time."""
    own = [node for node in nodes(model) if node.op_type in {*RANDOM, "Dropout"} or node.domain]
    with hidden(model, own):
        return CommonSubexpressionEliminationPass()(model).model


def _fix_reshapes(model: onnx_ir.Model) -> onnx_ir.Model:
    """A size of 0 beside one to be inferred can't be written into a shape."""
    empty = [node for node in nodes(model) if node.op_type == "Reshape" and _may_be_empty(node)]
    with hidden(model, empty):
        return RewritePass(RESHAPE_RULES)(infer_shapes(model)).model


def _may_be_empty(node: onnx_ir.Node) -> bool:
    return any(value is not None and value.shape is not None and 0 in value.shape.dims for value in node.inputs)


def _rewrite(*some) -> CleanupStep:
    return lambda model: RewritePass(some)(infer_shapes(model)).model


def _tidy(model: onnx_ir.Model) -> onnx_ir.Model:
    RemoveUnusedNodesPass()(lift_constants(model))
    RemoveUnusedOpsetsPass()(model)
    return infer_shapes(model)


STEPS: tuple[tuple[str, CleanupStep], ...] = (
    ("removing identities", _remove_identities),
    ("merging equal weights", merge_duplicates),
    ("fixing the shapes of Reshape", _fix_reshapes),
    ("writing Einsum as MatMul", contract),
    ("folding constants", fold_all),
    ("merging layout operators", _rewrite(*LAYOUT_RULES)),
    ("merging pads into convolutions", _rewrite(*PAD_RULES)),
    ("folding BatchNormalization", fold_batchnorms),
    ("fusing LayerNormalization", fuse_layer_norms),
    ("fusing Gelu", fuse_gelus),
    ("removing unused nodes", _tidy),
    ("folding scales and shifts into layers", absorb),
    ("merging equal nodes", _merge_equal_nodes),
    ("merging equal weights", merge_duplicates),
    ("removing identities", _remove_identities),
    ("removing unused nodes", _tidy),
)
