"""The making of a training step: a model and what is to be minimised in, the step's graph out."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...ir.analyses import Analyses
from ...ir.autodiff import gradients
from ...ir.autodiff.emitter import Emitter
from ...ir.layers import find_layers
from ...ir.model import clone
from ...ir.output_heads import Head, distribution
from . import gates
from .clipping import clip_by_value, global_norm, norm_scale
from .dropout import add_dropout
from .kfac import Kfac, identities
from .kronecker import KroneckerBlock, blocks
from .losses import Loss, Losses
from .overwriting import overwritable
from .scalars import cast, double, number, once
from .step import COUNT, LABELS, LOSS, NORM, RATE, Objective, Rules, TrainingStep, gate_of, inverses_of, noise_of
from .trainable import Weight

FLOAT, INT64 = onnx_ir.DataType.FLOAT, onnx_ir.DataType.INT64
GATES_FASTER = 30.0  # times the rate of the weights: a gate has to come from open to closed in one training
HALF = (onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16)

Values = Mapping[str, onnx_ir.Value]


def training_step(
    model: onnx_ir.Model, heads: Sequence[Head], weights: Sequence[Weight], objective: Objective, rules: Rules
) -> TrainingStep:
    """The step that tunes `weights` of `model`, those that a gradient reaches."""
    return _Build(clone(model), heads, weights, objective, rules).step()


class _Build:
    def __init__(
        self,
        model: onnx_ir.Model,
        heads: Sequence[Head],
        weights: Sequence[Weight],
        objective: Objective,
        rules: Rules,
    ):
        self.model, self.heads, self.objective, self.rules = model, heads, objective, rules
        self.groups = Analyses(model).groups.found if rules.channels else {}
        self.weights = {weight.name: weight for weight in weights}
        self.state: dict[str, np.ndarray] = {}
        self.updates: dict[str, str] = {}
        self.targets: dict[str, str] = {}
        self.labels: onnx_ir.Value | None = None
        self.blocks: tuple[KroneckerBlock, ...] = ()
        self.masks = add_dropout(model, find_layers(model).found.values(), rules.dropout)
        self.sources = {name: self._source(name) for name in self.weights}
        self.emit = Emitter(model.graph)
        gated = [weight for weight in weights if rules.gates and weight.layer is not None]
        self.gated: dict[str, onnx_ir.Value] = {}
        self.gates = {gate_of(weight): self._gate(weight) for weight in gated}
        self.model.graph.sort()

    def step(self) -> TrainingStep:
        loss, seeds = self._seeds()
        wanted = {**self.sources, **self.gates}
        found = gradients(self.model, seeds, list(wanted.values()))
        reached = {name: found.values[v] for name, v in wanted.items() if v in found.values}
        norm = self._update(reached)
        self._finish({LOSS: loss, NORM: norm}, reached)
        return TrainingStep(
            model=self.model,
            state=self.state,
            updates=self.updates,
            in_place=overwritable(self.model.graph, self.updates),
            targets=self.targets,
            weights=tuple(w for name, w in self.weights.items() if name in reached),
            labelled=self.labels is not None,
            gated=tuple(w for w in self.weights.values() if gate_of(w) in reached),
            masks=self.masks,
            blocks=self.blocks,
            blocked={name: found.blocked[v] for name, v in self.sources.items() if v in found.blocked},
        )

    def _source(self, name: str) -> onnx_ir.Value:
        """The graph input in the place of an initializer; a weight of half precision is kept in float32."""
        old = self.model.graph.initializers.pop(name)
        assert old.dtype is not None
        dtype = FLOAT if old.dtype in HALF else old.dtype
        source = self._input(name, dtype, old.shape)
        self.state[name] = np.ascontiguousarray(self.weights[name].array.astype(dtype.numpy(), copy=False))
        old.replace_all_uses_with(source if dtype == old.dtype else self._narrowed(source, old))
        return source

    def _narrowed(self, source: onnx_ir.Value, like: onnx_ir.Value) -> onnx_ir.Value:
        assert like.dtype is not None
        attributes = onnx_ir.convenience.convert_attributes({"to": like.dtype.value})
        cast = onnx_ir.Node("", "Cast", [source], attributes, num_outputs=1, name=f"{source.name}/narrowed")
        value = cast.outputs[0]
        value.name, value.type, value.shape = cast.name, like.type, like.shape
        self.model.graph.insert_before(self.model.graph[0], cast)
        return value

    def _gate(self, weight: Weight) -> onnx_ir.Value:
        """Gates on the outputs of a layer, between its weight and all that reads it; their log alpha is returned."""
        assert weight.layer is not None
        source = self.sources[weight.name]
        array = gates.initial(weight.layer, np.random.default_rng(len(self.state)))
        self.state[gate_of(weight)] = array.astype(self.state[weight.name].dtype)
        log_alpha, noise = (
            self._input(name(weight), source.dtype or FLOAT, array.shape) for name in (gate_of, noise_of)
        )
        readers = list(source.uses())
        gated = gates.gated(self.emit, source, log_alpha, noise, weight.layer)
        for node, at in readers:
            node.replace_input_with(at, gated)
        self.gated[weight.name] = gated
        return log_alpha

    def _seeds(self) -> tuple[onnx_ir.Value, dict[onnx_ir.Value, onnx_ir.Value]]:
        """The loss, and its derivatives by the values that are compared."""
        losses: dict[onnx_ir.Value, list[Loss]] = {}
        for head in self.heads:
            student = distribution(self.model, head)
            losses.setdefault(student, []).append(self._of_head(head, student))
        for name in self.objective.matched:
            value = next(v for node in self.model.graph for v in node.outputs if v.name == name)
            losses.setdefault(value, []).append(self._of_feature(name, value))
        values = [cast(self.emit, loss.value, FLOAT) for found in losses.values() for loss in found]
        total = values[0] if len(values) == 1 else self.emit.op("Sum", *values)
        return total, {value: self._seed(value, found) for value, found in losses.items()}

    def _seed(self, value: onnx_ir.Value, losses: Sequence[Loss]) -> onnx_ir.Value:
        total = self._losses(value).total([loss.seed for loss in losses])
        if value.dtype is None or value.dtype not in HALF:
            return total
        return self.emit.op("Cast", total, to=value.dtype.value)

    def _of_feature(self, name: str, value: onnx_ir.Value) -> Loss:
        share, emit = self.objective.features / len(self.objective.matched), self._losses(value)
        return emit.mixed([(share, emit.squared(self._wide(value), self._wide(self._target(name, value))))])

    def _of_head(self, head: Head, student: onnx_ir.Value) -> Loss:
        emit, share, given = self._losses(student), self.objective.labels, self._wide(student)
        target = self._wide(self._target(head.output, student))
        loss = emit.of_head(head, given, target, self.objective.temperature)
        taken = self.labels is not None or head.kind != "categorical"
        if not share or taken or student.shape is None or len(student.shape) != 2:
            return loss
        self.labels = self._input(LABELS, INT64, onnx_ir.Shape([student.shape[0]]))
        return emit.mixed([(1 - share, loss), (share, emit.cross_entropy(given, self.labels))])

    def _losses(self, value: onnx_ir.Value) -> Losses:
        """What compares with the value; of half precision in float32, since a probability can be too small for it."""
        return Losses(self.emit, FLOAT if value.dtype is None or value.dtype in HALF else value.dtype)

    def _wide(self, value: onnx_ir.Value) -> onnx_ir.Value:
        return self.emit.op("Cast", value, to=FLOAT.value) if value.dtype in HALF else value

    def _target(self, name: str, like: onnx_ir.Value) -> onnx_ir.Value:
        """What the original gives for a value, in the shape of `like`: two axes may be one in one of the models."""
        if name in self.targets:  # an output that is matched too
            given = next(v for v in self.model.graph.inputs if v.name == self.targets[name])
            return next(node.outputs[0] for node in given.consumers())
        self.targets[name] = f"kronnx.target.{name}"
        given = self._input(self.targets[name], like.dtype or FLOAT, None)
        target = self.emit.op("Reshape", given, self.emit.op("Shape", like), allowzero=1)
        target.type, target.shape = like.type, like.shape
        return target

    def _input(
        self, name: str, dtype: onnx_ir.DataType, shape: onnx_ir.Shape | Sequence[int | str] | None
    ) -> onnx_ir.Value:
        value = onnx_ir.val(name, dtype, shape)
        self.model.graph.inputs.append(value)
        return value

    def _update(self, found: Values) -> onnx_ir.Value:
        """Emits the next state; returns the norm of the gradients."""
        rate, count = (self._input(name, FLOAT, []) for name in (RATE, COUNT))
        wanted = {name: self._penalized(name, gradient) for name, gradient in found.items()}
        norm = global_norm(self.emit, self._last_made_first(wanted)) if wanted else number(self.emit, 0.0, FLOAT)
        scale = None
        if self.rules.kfac is not None:
            wanted = self._natural(self.rules.kfac, wanted, rate, count)
        elif self.rules.largest_norm is not None:
            scale = norm_scale(self.emit, norm, self.rules.largest_norm)
        moved = {
            name: self._moved(name, self._clipped(name, gradient, scale), rate, count)
            for name, gradient in wanted.items()
        }
        for name, value in self._projected(moved, rate).items():
            self._next(name, value)
        return norm

    def _last_made_first(self, found: Values) -> list[onnx_ir.Value]:
        """ONNX Runtime runs nodes of the same rank from the last to the first: each gradient of a weight is then made
        as soon as that of its layer's output is there, which needn't be kept."""
        places = {v: number for number, node in enumerate(self.model.graph) for v in node.outputs}
        return sorted(found.values(), key=lambda gradient: -places[gradient])

    def _natural(self, kfac: Kfac, found: Values, rate: onnx_ir.Value, count: onnx_ir.Value) -> Values:
        """What is descended along by K-FAC; the inverses of its factors are states, which nothing here updates."""
        layers = (w.layer for w in self.weights.values() if w.layer is not None and w.name in found)
        self.blocks = blocks(layers, {name for name in found if name in self.weights})
        inverses = {block.layer: self._inverses(block) for block in self.blocks}
        held = {name for block in self.blocks for name in block.names}
        slots = {
            name: {slot: self._state(f"{name}/{slot}", array) for slot, array in kfac.slots(self.state[name]).items()}
            for name in found
            if name not in held
        }
        for name, gradient in found.items():
            gradient.dtype = self._dtype(name)
        directions = kfac.directions(self.emit, found, self.blocks, inverses, slots, rate, count)
        for name, after in directions.slots.items():
            for slot, value in after.items():
                self._next(f"{name}/{slot}", value)
        return {name: self._masked(name, directions.gradients[name]) for name in found}

    def _inverses(self, block: KroneckerBlock) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        dtype = self.state[block.weight].dtype
        pairs = zip(inverses_of(block.layer), identities(block), strict=True)
        left, right = (self._state(name, array.astype(dtype)) for name, array in pairs)
        return left, right

    def _state(self, name: str, array: np.ndarray) -> onnx_ir.Value:
        """A graph input that starts as `array`."""
        self.state[name] = array
        return self._input(name, self._dtype(name), array.shape)

    def _penalized(self, name: str, gradient: onnx_ir.Value) -> onnx_ir.Value:
        """The gradient without what a mask holds at zero, and with that of the penalty on gates."""
        if name in self.gates:
            penalty = gates.penalty_gradient(self.emit, self.gates[name], self.rules.gates)
            return self.emit.op("Add", gradient, penalty)
        return self._masked(name, gradient)

    def _masked(self, name: str, direction: onnx_ir.Value) -> onnx_ir.Value:
        mask = self.weights[name].mask if name in self.weights else None
        if mask is None:
            return direction
        return self.emit.op("Mul", direction, self.emit.constant(mask, self._dtype(name)))

    def _clipped(self, name: str, gradient: onnx_ir.Value, scale: onnx_ir.Value | None) -> onnx_ir.Value:
        if scale is not None:
            gradient = self.emit.op("Mul", gradient, cast(self.emit, scale, self._dtype(name)))
        if self.rules.largest_value is not None:
            gradient.dtype = self._dtype(name)
            gradient = clip_by_value(self.emit, gradient, self.rules.largest_value)
        return gradient

    def _dtype(self, name: str) -> onnx_ir.DataType:
        return onnx_ir.DataType.from_numpy(self.state[name].dtype)

    def _moved(self, name: str, gradient: onnx_ir.Value, rate: onnx_ir.Value, count: onnx_ir.Value) -> onnx_ir.Value:
        """What the optimizer makes of a weight; its slots are done with."""
        source, slots = self.sources.get(name) or self.gates[name], {}
        for slot, array in self.rules.optimizer.slots(self.state[name]).items():
            slots[slot] = self._state(f"{name}/{slot}", array)
        if name in self.gates:
            rate = once(self.emit, "Mul", double(self.emit, rate), double(self.emit, GATES_FASTER))
        updated = self.rules.optimizer.update(self.emit, source, gradient, slots, rate, count)
        for slot, value in updated.slots.items():
            self._next(f"{name}/{slot}", value)
        return updated.weight

    def _projected(self, moved: Values, rate: onnx_ir.Value) -> dict[str, onnx_ir.Value]:
        """The weights nearer to sparse ones, as far as they are of layers."""
        result = dict(moved)
        layers = {w.name: w.layer for w in self.weights.values() if w.layer is not None and w.name in moved}
        for name, layer in layers.items():
            result[name].dtype, result[name].shape = self._dtype(name), onnx_ir.Shape(self.state[name].shape)
            for projection in self.rules.projections:
                result[name] = projection.project(self.emit, result[name], rate, layer)
        if self.rules.channels is not None:
            by_layer = {layer.name: layer for layer in layers.values()}
            names = {layer.name: name for name, layer in layers.items()}
            values = {layer: result[name] for layer, name in names.items()}
            shrunk = self.rules.channels.project(self.emit, values, rate, self.groups.values(), by_layer)
            result |= {names[layer]: value for layer, value in shrunk.items()}
        return result

    def _next(self, name: str, value: onnx_ir.Value) -> None:
        value.name = self.updates[name] = f"{name}/next"
        value.dtype, value.shape = self._dtype(name), onnx_ir.Shape(self.state[name].shape)

    def _finish(self, numbers: Values, reached: Values) -> None:
        """The outputs; weights that no gradient reaches are constants again."""
        for name, source in self.sources.items():
            if name not in reached:
                self._restore(name, source)
        outputs = self.model.graph.outputs
        outputs.clear()
        for name, value in numbers.items():
            number = self.emit.op("Cast", value, to=FLOAT.value)
            number.name, number.dtype, number.shape = name, FLOAT, onnx_ir.Shape([])
            outputs.append(number)
        nexts = frozenset(self.updates.values())
        outputs.extend(v for node in self.model.graph for v in node.outputs if v.name in nexts)
        self.model.graph.sort()
        RemoveUnusedNodesPass()(self.model)

    def _restore(self, name: str, source: onnx_ir.Value) -> None:
        if name in self.gated:
            self._ungate(self.weights[name], source)
        self.model.graph.inputs.remove(source)
        source.const_value = onnx_ir.tensor(self.state.pop(name), name=name)
        self.model.graph.register_initializer(source)

    def _ungate(self, weight: Weight, source: onnx_ir.Value) -> None:
        """Takes the gates of a weight that isn't tuned out of the graph again."""
        self.gated[weight.name].replace_all_uses_with(source)
        del self.state[gate_of(weight)]
        for value in [v for v in self.model.graph.inputs if v.name in (gate_of(weight), noise_of(weight))]:
            self.model.graph.inputs.remove(value)
