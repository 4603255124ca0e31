"""What is known of one state of a model, each thing computed once, when it is first asked for."""

from dataclasses import dataclass
from functools import cached_property

import onnx_ir

from .channels.groups import Groups, find_groups
from .layers import Layers, find_layers


@dataclass(frozen=True)
class Analyses:
    """The analyses of `model`; a rewrite makes a new one, so nothing here outlives the graph that it describes."""

    model: onnx_ir.Model

    @cached_property
    def layers(self) -> Layers:
        return find_layers(self.model)

    @cached_property
    def groups(self) -> Groups:
        return find_groups(self.model, self.layers)
