"""The pass `quantize`: the values of a matrix in few bits, and what it reads, of least predicted divergence."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import isfinite
from typing import ClassVar, get_args

import onnx_ir

from ..ir.analyses import Analyses
from ..ir.errors import UsageError
from ..ir.integer_regions import integer_regions
from ..ir.integers import Integers
from ..ir.layers import Layer, find_embeddings, tied_embeddings
from ..ir.remarks import Remark
from ..ir.rewriter import Rewriter
from .curvature.moments import Want
from .planning.proposal import Candidate, Context, Pass, Proposal
from .quantization.chains import Chained, Chains
from .quantization.embeddings import Rows, of_table
from .quantization.holding import Held
from .quantization.reach import excluded, unjudged
from .quantization.readings import Readings
from .quantization.rounding import Method

ROUNDINGS = get_args(Method)
ACTIVATIONS = ("static", "dynamic", "none")
BITS = (8, 4, 3, 2)
BLOCK = 32  # inputs that share a scale where a number has 4 bits or fewer
PRODUCTS = ("MatMul", "Gemm")
FLOAT, HALF = onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16
FOUR_BITS_SINCE = 21  # the operator set of ONNX
HALVES_SINCE = 19  # that in which codes become float16


@dataclass(frozen=True)
class Quantize(Pass):
    """Weights, and mostly what they are multiplied with, as integers of few bits, rounded under curvature.

    `bits` (8, 4, 3 or 2) and `activations` (`static`: ranges from calibration; `dynamic`: from what is read; `none`:
    weights alone) fix what is done at every layer that `layers` matches; without either the budget chooses. `rounding`
    is `two-sided` (under inputs and gradients), `column` (inputs alone) or `nearest`. With `portable` weights of 8 bits
    keep to 7, so that processors whose products saturate give the same. With `equalize` inputs or rows are scaled one
    by one before they are rounded with one step for all, where that is predicted to cost less.
    """

    name: ClassVar[str] = "quantize"
    bits: int | None = None
    activations: str | None = None
    rounding: Method = "two-sided"
    layers: str = "*"
    portable: bool = True
    equalize: bool = True

    def __post_init__(self) -> None:
        if self.bits is not None and self.bits not in BITS:
            raise UsageError(f"quantize{{bits={self.bits}}}: there are forms of {_listed(BITS)} bits")
        if self.activations is not None and self.activations not in ACTIVATIONS:
            raise UsageError(f"quantize{{activations={self.activations}}}: one of {_listed(ACTIVATIONS)} is needed")
        if self.rounding not in ROUNDINGS:
            raise UsageError(f"quantize{{rounding={self.rounding}}}: one of {_listed(ROUNDINGS)} is needed")
        if self.bits is not None and self.bits < 8 and self.activations in ("static", "dynamic"):
            raise UsageError(
                f"quantize{{bits={self.bits} activations={self.activations}}}: only weights of 8 bits are multiplied "
                "with integers; leave activations out, or bits"
            )

    @property
    def fixed(self) -> bool:
        return self.bits is not None or self.activations is not None

    @property
    def opset(self) -> int:
        return 0 if self.activations in ("static", "dynamic") else FOUR_BITS_SINCE

    @property
    def for_speed(self) -> bool:
        return True

    @property
    def machine_bound(self) -> bool:
        return not self.portable and self._multiplied is not None

    def wants(self, analyses: Analyses) -> Iterable[Want]:
        layers = (*self._layers(analyses), *self._tables(analyses))
        return [Want(x.name, True, rows=True) for x in layers if excluded(x) is None]

    def propose(self, context: Context) -> Proposal:
        remarks: list[Remark] = []
        judged: dict[str, Layer] = {}
        for layer in self._layers(context.analyses):
            reason = excluded(layer) or unjudged(layer, context.moments.get(layer.name))
            if reason is None:
                judged[layer.name] = layer
            else:
                remarks.append(self.missed(layer.name, *reason))
        tables, left = self._of_tables(context)
        remarks += left
        candidates = [*self._of_products(judged, context), *self._of_convolutions(judged, context), *tables]
        opset = _opset(context)
        reached = {name for candidate in candidates for name in candidate.touches}
        remarks += [
            self.missed(name, "no-form", self._no_form(x, opset)) for name, x in judged.items() if name not in reached
        ]
        remarks += self._caught(judged, context) if self.fixed else []
        if not self.fixed and opset < FOUR_BITS_SINCE:
            remarks.append(self.missed("model", "old-opset", _too_old(4, FOUR_BITS_SINCE, opset)))
        return Proposal(tuple(candidates), tuple(remarks), self.fixed)

    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        choice = candidate.choice
        if isinstance(choice, Chained):
            choice.apply(context, rewriter)
        elif isinstance(choice, Rows):
            choice.apply(candidate.site, rewriter)
        else:
            choice.apply(rewriter.analyses.layer(candidate.site), context, rewriter)

    def _layers(self, analyses: Analyses) -> list[Layer]:
        return [x for x in analyses.layers.found.values() if fnmatchcase(x.name, self.layers)]

    def _tables(self, analyses: Analyses) -> list[Layer]:
        return [x for x in find_embeddings(analyses.model).values() if fnmatchcase(x.name, self.layers)]

    def _of_tables(self, context: Context) -> tuple[list[Candidate], list[Remark]]:
        """Tables of embeddings in rows of 8 bits, and a remark for each one that stays."""
        candidates: list[Candidate] = []
        tied = tied_embeddings(context.analyses.model)
        remarks = [
            self.missed(name, "tied-weight", f"the table is read by {others} too")
            for name, others in tied.items()
            if fnmatchcase(name, self.layers)
        ]
        for layer in self._tables(context.analyses):
            reason = excluded(layer) or unjudged(layer, context.moments.get(layer.name))
            if reason is None and (self.bits or 8) != 8:
                reason = "no-form", "a table of embeddings has rows of 8 bits, and no fewer"
            if reason is None:
                candidates.append(of_table(layer, context))
            else:
                remarks.append(self.missed(layer.name, *reason))
        return candidates, remarks

    @property
    def _multiplied(self) -> Held | None:
        """How weights are held that are multiplied with integers, if the options allow that."""
        if (self.bits or 8) != 8 or self.activations == "none":
            return None
        return Held(Integers(7 if self.portable else 8), self.rounding)

    def _alone(self, layer: Layer, opset: int) -> Held | None:
        """How weights are held where they alone are in few bits, if the options ask for that, or leave open what is
        done and it can be faster: 4 bits of a matrix product."""
        possible = self.fixed or (layer.op in PRODUCTS and layer.dtype == FLOAT)
        bits = self.bits or (8 if self.fixed else 4)
        if self.activations in ("static", "dynamic") or not possible or _unwritable(layer, bits, opset):
            return None
        return Held(Integers(bits, BLOCK if bits <= 4 and layer.op in PRODUCTS else None), self.rounding)

    def _of_products(self, layers: Mapping[str, Layer], context: Context) -> Iterator[Candidate]:
        readings = Readings({name: layer for name, layer in layers.items() if layer.op in PRODUCTS}, context)
        for layer in readings.products.values():
            ways = [
                (held, held.loss(layer, context) + readings.cost(layer, held)) for held in self._ways(layer, readings)
            ]
            least = sorted(ways, key=lambda way: way[1])
            for held, loss in least[:1] if self.fixed else ways:
                yield context.replacement(layer, held.structure(layer), loss, held)

    def _ways(self, layer: Layer, readings: Readings) -> Iterator[Held]:
        """The ways in which a matrix product can be held, under these options."""
        multiplied, alone = self._multiplied, self._alone(layer, _opset(readings.context))
        whole = layer.dtype == FLOAT and readings.bounded(layer)
        if multiplied is not None and whole:
            yield from self._multiplications(layer, multiplied, readings)
        if alone is not None and not (multiplied is not None and whole and self.fixed):
            yield alone

    def _multiplications(self, layer: Layer, multiplied: Held, readings: Readings) -> Iterator[Held]:
        if self.activations != "static":
            yield replace(multiplied, activations="dynamic")
            columns = readings.columns(layer, multiplied.integers) if self.equalize else None
            if columns is not None:
                yield replace(multiplied, activations="dynamic", columns=columns)
        if self.activations == "static" or not self.fixed:
            yield replace(multiplied, activations=readings.grid(layer))

    def _equalized(self, held: Held, layer: Layer, readings: Readings) -> Iterator[Held]:
        """The ways that scale what is read before one step rounds it."""
        columns = readings.columns(layer, held.integers)
        if columns is not None:
            yield replace(held, activations="dynamic", columns=columns)
        if layer.inputs > 1 and isfinite(readings.cost(layer, rows := replace(held, activations="by-row"))):
            yield rows

    def _of_convolutions(self, layers: Mapping[str, Layer], context: Context) -> Iterator[Candidate]:
        multiplied, found = self._multiplied, {name: x for name, x in layers.items() if x.op == "Conv"}
        reached: set[str] = set()
        if multiplied is not None and self.activations != "dynamic":
            for region in integer_regions(context.analyses.model, found):
                for candidate in Chains(region, found, multiplied, context).candidates(whole=self.fixed):
                    reached |= candidate.touches
                    yield candidate
        for layer in (x for name, x in found.items() if name not in reached):
            held = self._alone(layer, _opset(context))
            if held is not None:
                yield context.replacement(layer, held.structure(layer), held.loss(layer, context), held)

    def _caught(self, layers: Mapping[str, Layer], context: Context) -> list[Remark]:
        """A remark for each convolution that stays as it is, and that ONNX Runtime puts on integers all the same."""
        if self._multiplied is None or self.activations == "dynamic":
            return []
        regions = integer_regions(context.analyses.model, layers)
        reading = {node for region in regions for node in region.reading}
        giving = {node for region in regions for node in region.giving}
        caught = [str(node.name) for node in context.analyses.model.graph if node in reading & giving]
        why = "it stands between rounded values, where ONNX Runtime rounds its weights, too, by tensor and to nearest"
        return [self.missed(name, "between-integers", why) for name in caught]

    def _no_form(self, layer: Layer, opset: int) -> str:
        multiplied = self.activations in ("static", "dynamic")
        if layer.dtype != FLOAT and (multiplied or not self.fixed):
            return f"it computes in {_said(layer)}; integers are multiplied with float32 activations alone"
        if self.activations == "dynamic" and layer.op == "Conv":
            return f"{layer.op} has no form with activations={self.activations}"
        why = None if multiplied else _unwritable(layer, self.bits or 8, opset)
        return why or "what it reads or gives is not finite on some samples, or was not seen"


def _unwritable(layer: Layer, bits: int, opset: int) -> str | None:
    """Why weights of the layer can't be held in so many bits, if they can't."""
    if layer.dtype not in (FLOAT, HALF):
        return f"it computes in {_said(layer)}; integers become float32 or float16 alone"
    since = FOUR_BITS_SINCE if bits <= 4 else HALVES_SINCE if layer.dtype == HALF else 0
    return _too_old(bits, since, opset) if opset < since else None


def _too_old(bits: int, since: int, opset: int) -> str:
    return f"weights in {bits} bits are of opset {since}, to which the model could not be brought from opset {opset}"


def _opset(context: Context) -> int:
    return context.analyses.model.opset_imports.get("", 0)


def _said(layer: Layer) -> str:
    return "an unknown type" if layer.dtype is None else layer.dtype.name.lower()


def _listed(options: Sequence[object]) -> str:
    *first, last = map(str, options)
    return f"{', '.join(first)} or {last}"
