"""Channel rules of the operators that compute: elementwise ones, normalisations, pools and reductions."""

from functools import partial

import onnx_ir

from ..dimensions import dims, integers
from ..layers import integer, is_constant
from .pieces import Sliced
from .rules import axes_of, first_input, rule
from .tracking import ChannelSite, Ledger, Track

ELEMENTWISE = (
    "Abs Add And BitShift Cast Ceil Celu Clip Cos Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or "
    "PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Tan Tanh "
    "ThresholdedRelu Where Xor"
)
POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"
REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)


@rule(ELEMENTWISE)
@rule("Gelu QuickGelu", "com.microsoft")
def _elementwise(node: onnx_ir.Node, ledger: Ledger) -> None:
    """Position by position under broadcasting. Channels that meet are the same; constants along the axis shrink with
    it."""
    ranks = [ledger.rank(v) for v in node.inputs if v is not None]
    if any(r is None for r in ranks):
        return ledger.block_node(node, "unknown-shape", "reads a value of unknown rank")
    tracks = ledger.tracked(node)
    lead = max(tracks, key=lambda t: len(t.ids))
    wide = [t for t in tracks if len(t.ids) == len(lead.ids)]
    if any(t.right != lead.right for t in wide):
        return ledger.block_node(node, "two-axes", "joins channels along different axes")
    sites: list[ChannelSite] = []
    for k, value in enumerate(node.inputs):
        if value is None or (value in ledger.tracks and len(ledger.tracks[value].ids) == len(lead.ids)):
            continue
        problem = _meet(node, k, value, lead, sites)
        if problem:
            return ledger.block_node(node, *problem)
    for track in tracks:
        if len(track.ids) == len(lead.ids):
            ledger.same(lead.ids, track.ids)
        else:
            ledger.block([track], "broadcast", f"{node.op_type} {node.name!r} spreads a single channel over many")
    ledger.sites.extend(sites)
    rank = max(r for r in ranks if r is not None)
    ledger.follow(node.outputs[0], rank - lead.right, rank, lead.ids)


def _meet(
    node: onnx_ir.Node, k: int, value: onnx_ir.Value, lead: Track, sites: list[ChannelSite]
) -> tuple[str, str] | None:
    """Notes what becomes of an operand that holds no channels of its own, or says why it stands in the way."""
    shape = dims(value)
    if shape is None:
        return "unknown-shape", f"reads {value.name!r}, whose shape is unknown"
    if len(shape) < lead.right or shape[-lead.right] == 1:
        return None
    axis = len(shape) - lead.right
    if is_constant(value) and shape[axis] == len(lead.ids):
        sites.append(ChannelSite(partial(Sliced, str(node.name), k, axis), lead.ids))
        return None
    return "computed-operand", f"joins the channels with {value.name!r}, which no removable layer makes"


@rule("BatchNormalization")
def _batch_normalization(node: onnx_ir.Node, ledger: Ledger) -> None:
    if integer(node, "training_mode", 0):
        return ledger.block_node(node, "training-mode", "is in training mode")
    _per_channel(node, ledger, 4)


@rule("InstanceNormalization")
def _instance_normalization(node: onnx_ir.Node, ledger: Ledger) -> None:
    _per_channel(node, ledger, 2)


def _per_channel(node: onnx_ir.Node, ledger: Ledger, count: int) -> None:
    """A normalisation of axis 1 with `count` constants of one element for each channel."""
    x = ledger.tracks.get(first_input(node))
    constants = node.inputs[1 : 1 + count]
    if x is None or x.axis != 1 or any(dims(c) != (len(x.ids),) or not is_constant(c) for c in constants):
        return ledger.block_node(node, "unsupported-op", "does not normalise the channels by constants")
    for k in range(1, 1 + count):
        ledger.sites.append(ChannelSite(partial(Sliced, str(node.name), k, 0), x.ids))
    ledger.follow(node.outputs[0], x.axis, x.rank, x.ids)


@rule(POOLS)
def _pool(node: onnx_ir.Node, ledger: Ledger) -> None:
    x = ledger.tracked(node)[0]
    if x.axis != 1:
        return ledger.block_node(node, "pooled", "pools over the channels")
    ledger.follow(node.outputs[0], x.axis, x.rank, x.ids)


@rule("LpNormalization Softmax LogSoftmax Hardmax CumSum")
def _along_one_axis(node: onnx_ir.Node, ledger: Ledger) -> None:
    """Mixes the positions of one axis only."""
    x = ledger.tracks.get(first_input(node))
    axes = integers(node.inputs[1]) if node.op_type == "CumSum" else [integer(node, "axis", -1)]
    if x is None or axes is None or axes[0] % x.rank == x.axis:
        return ledger.block_node(node, "normalised", "runs over the channels")
    ledger.follow(node.outputs[0], x.axis, x.rank, x.ids)


@rule("LayerNormalization RMSNormalization")
def _layer_normalization(node: onnx_ir.Node, ledger: Ledger) -> None:
    x = ledger.tracks.get(first_input(node))
    if x is None or integer(node, "axis", -1) % x.rank <= x.axis:
        return ledger.block_node(node, "normalised", "normalises over the channels")
    ledger.follow(node.outputs[0], x.axis, x.rank, x.ids)


@rule(REDUCTIONS)
def _reduce(node: onnx_ir.Node, ledger: Ledger) -> None:
    x = ledger.tracks.get(first_input(node))
    axes = axes_of(node, 1)
    if axes == [] and integer(node, "noop_with_empty_axes", 0) == 0:
        axes = None
    if x is None or axes is None or x.axis in {a % x.rank for a in axes}:
        return ledger.block_node(node, "reduced", "runs over the channels")
    if integer(node, "keepdims", 1):
        return ledger.follow(node.outputs[0], x.axis, x.rank, x.ids)
    gone = {a % x.rank for a in axes}
    ledger.follow(node.outputs[0], x.axis - sum(a < x.axis for a in gone), x.rank - len(gone), x.ids)


@rule("ArgMax ArgMin")
def _arg(node: onnx_ir.Node, ledger: Ledger) -> None:
    x = ledger.tracked(node)[0]
    axis = integer(node, "axis", 0) % x.rank
    if axis == x.axis:
        return ledger.block_node(node, "reduced", "runs over the channels")
    kept = integer(node, "keepdims", 1)
    ledger.follow(
        node.outputs[0], x.axis if kept or axis > x.axis else x.axis - 1, x.rank if kept else x.rank - 1, x.ids
    )
