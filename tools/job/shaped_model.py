"""A model on one feed: what its layers read and give there, and batches of the same data that fit into memory."""

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir

from ...ir.analyses import Analyses
from ...ir.batch_axes import batch_axes
from ...ir.forms import structure_of
from ...ir.layers import Layer
from ...passes.curvature import Feed
from ...passes.planning.stages import Shapes
from ...runtime.data.named_data import Dataset

LARGEST_PATCHES = 64_000_000  # elements that the patches of one layer may take, 256 MB
LARGEST_BATCH = 64
LARGEST_RUN = 1_500_000_000  # bytes
BYTES_OF_AN_ELEMENT = (
    12  # of what layers read and give, as measured of an encoder and a ResNet: with gradients, and more
)


@dataclass(frozen=True)
class ShapedModel:
    """`shapes` are those of what every layer of `model` reads and gives on `sample`, by value name."""

    model: onnx_ir.Model
    sample: Feed
    shapes: Shapes

    def feeds(self, data: Dataset, memory_limit: int | None = None) -> tuple[Feed, ...]:
        """The samples in batches of at most LARGEST_BATCH, for which the patches of the widest layer stay below
        LARGEST_PATCHES and a run with gradients below LARGEST_RUN and half of `memory_limit`, both in bytes; two at
        least where there are two samples, so that curvature is cross-fitted.

        What is free counts for nothing: the same options give the same batches.
        """
        samples = batch_axes(self.model).samples(self.sample)
        run = LARGEST_RUN if memory_limit is None else min(LARGEST_RUN, memory_limit / 2)
        each = BYTES_OF_AN_ELEMENT * sum(prod(shape) for shape in self.shapes.values()) / samples
        size = min(LARGEST_PATCHES / max(self._widest() / samples, 1), run / max(each, 1))
        most = max(min(LARGEST_BATCH, -(-data.samples // 2)), 1)
        return tuple(data.rebatch(int(np.clip(size, 1, most))).batches)

    def _widest(self) -> int:
        layers = Analyses(self.model).layers.found.values()
        return max((self._patches(layer) for layer in layers), default=1)

    def _patches(self, layer: Layer) -> int:
        positions = 0
        for use in layer.uses:
            shape = structure_of(layer).factors[0].output_shape(self.shapes[str(use.input.name)])
            positions += prod(shape) // (layer.groups * layer.out)
        return positions * layer.groups * layer.inputs
