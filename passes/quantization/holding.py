"""Layers whose weights are held as integers: a layer, its moments and how it is to be held in; the form and its cost in
nats out."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...ir.coded_forms import Coded, Multiplied, coded
from ...ir.forms import Form, structure_of
from ...ir.integers import Affine, Integers
from ...ir.layers import Layer
from ...ir.rewriter import Rewriter
from ...ir.scaled_forms import Scaled, scaled
from ..curvature.moments import Moments, divergence
from ..low_rank.factorization import shifted_bias
from ..planning.proposal import Context
from .equalization import Columns
from .grids import Grid
from .reach import read_moment
from .rounding import Method, rounded
from .scales import searched

Activations = Literal["dynamic", "by-row"]


@dataclass(frozen=True)
class Held:
    """How a layer's weights are held, by which rounding they become so, and how what they are multiplied with is
    rounded, if it is: on a grid of what is read each time (`dynamic`), which can be scaled by `columns` before, of each
    row (`by-row`), or on one that is given."""

    integers: Integers
    rounding: Method
    activations: Activations | Affine | None = None
    columns: Columns | None = None

    def structure(self, layer: Layer) -> Coded | Multiplied | Scaled:
        plain = self.plain(layer)
        return Scaled(plain) if isinstance(plain, Multiplied) and self.columns is not None else plain

    def plain(self, layer: Layer) -> Coded | Multiplied:
        """The structure without what is done to its inputs before."""
        chain = structure_of(layer)
        if self.activations is None:
            return Coded(chain, self.integers)
        read = self.activations if isinstance(self.activations, Affine) else None
        return Multiplied(chain, self.integers, read, self.activations == "by-row")

    def form(self, layer: Layer, context: Context) -> Form:
        """The layer's weight, rounded once for its moments."""
        form = coded(self.plain(layer), [self._codes(layer, context)])
        return form if self.columns is None else scaled(form, self.columns.factors)

    def loss(self, layer: Layer, context: Context) -> float:
        """What the rounding of the weight costs, in nats per sample: 1/2 tr(G D A D^T), the mean left to the bias."""
        moments = context.moments[layer.name]
        inner = read_moment(layer, moments)
        change = self.form(layer, context).dense() - layer.matrix()
        return divergence(moments.compressed(change), inner, moments.gradient)

    def apply(self, layer: Layer, context: Context, rewriter: Rewriter) -> None:
        """Runs the layer so; its bias takes up the mean of the change."""
        form = self.form(layer, context)
        rewriter.replace(layer, form, shifted_bias(layer, form.dense(), context.moments[layer.name]))

    def _codes(self, layer: Layer, context: Context) -> tuple[np.ndarray, np.ndarray]:
        key = "codes", layer.name, self.integers, self.rounding, self.columns
        return context.remembered(key, [layer.name], lambda: self._rounded(layer, context.moments[layer.name]))

    def _rounded(self, layer: Layer, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
        integers, weight, inner = self.integers, layer.matrix(), read_moment(layer, moments)
        if self.columns is not None:
            factors = self.columns.factors
            weight, inner = weight / factors, inner * np.outer(factors, factors)
        grid = Grid(integers.lowest, integers.highest, integers.block or "row")
        assert layer.dtype is not None
        scale = searched(weight, grid, inner, moments.gradient, self.rounding, dtype=layer.dtype.numpy())
        return rounded(weight, scale, grid, inner, moments.gradient, self.rounding), scale


def cost_of_reading(layer: Layer, moments: Moments, squares: float) -> float:
    """What it costs, in nats per sample, that every number that the layer reads is off by `squares`, squared, in the
    mean: 1/2 squares tr(W^T G W)."""
    weight = moments.compressed(layer.matrix())
    return 0.5 * squares * float(np.einsum("goi,goi->", moments.gradient @ weight, weight))


def cost_of_giving(moments: Moments, squares: float) -> float:
    """What it costs, in nats per sample, that every number that a layer gives is off by `squares`, squared, in the
    mean: 1/2 squares tr(G)."""
    return 0.5 * squares * float(np.trace(moments.gradient, axis1=1, axis2=2).sum())
