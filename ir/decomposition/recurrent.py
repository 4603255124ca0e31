"""LSTM, GRU and RNN unrolled through time: one product with the input matrix over the whole sequence, and one with the
recurrent matrix at every step. The batch is the first axis throughout: x [n, T, in], states [n, 1, hidden].
"""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir

from . import activations
from .activations import Activation
from .registry import Outputs, decomposition
from .site import DecompositionSite, NotDecomposed

State = tuple[onnx_ir.Value, ...]
Step = Callable[[onnx_ir.Value, State], State]
"""From x W + b of one step [n, 1, gates * hidden] and the states to the next states, the output first."""

SUFFIXES = {"forward": ("",), "reverse": ("",), "bidirectional": (".forward", ".reverse")}
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Direction:
    """One direction of a recurrent node: its `index` in the weights, the suffix of its names, its activations."""

    site: DecompositionSite
    index: int
    suffix: str
    backwards: bool
    activations: tuple[Activation, ...]
    hidden: int

    @property
    def gates(self) -> int:
        return GATES[self.site.node.op_type]

    def input_matrix(self, x: onnx_ir.Value) -> onnx_ir.Value:
        """x W + b [n, T, gates * hidden]."""
        rows = self.gates * self.hidden
        weight = self.site.part(self.site.input(1), self.index, 0, rows, f"W{self.suffix}")
        y = self.site.op("MatMul", x, weight, name=f"{self.site.node.name}.W{self.suffix}")
        return self.with_bias(y, 0, rows, f"W{self.suffix}")

    def recurrent(self, label: str, first: int, last: int) -> Callable[[onnx_ir.Value], onnx_ir.Value]:
        """h R + b for the gates from `first` up to `last`: every call is one more node of the same layer."""
        start, stop = first * self.hidden, last * self.hidden
        weight = self.site.part(self.site.input(2), self.index, start, stop, f"{label}{self.suffix}")
        name, offset = f"{self.site.node.name}.{label}{self.suffix}", self.gates * self.hidden
        calls = 0

        def product(h: onnx_ir.Value) -> onnx_ir.Value:
            nonlocal calls
            y = self.site.op("MatMul", h, weight, name=f"{name}.{calls}" if calls else name)
            calls += 1
            return self.with_bias(y, offset + start, offset + stop, f"{label}{self.suffix}")

        return product

    def with_bias(self, y: onnx_ir.Value, start: int, stop: int, label: str) -> onnx_ir.Value:
        bias = self.site.optional(3)
        return y if bias is None else self.site.op("Add", y, self.site.part(bias, self.index, start, stop, label))

    def split(self, value: onnx_ir.Value, parts: int) -> tuple[onnx_ir.Value, ...]:
        """The gates in a value [n, 1, parts * hidden]."""
        return tuple(self.site.ops("Split", value, outputs=parts, axis=-1, num_outputs=parts))

    def peephole(self, gate: int) -> onnx_ir.Value | None:
        weight, h = self.site.optional(7), self.hidden
        if weight is None:
            return None
        return self.site.part(weight, self.index, gate * h, (gate + 1) * h, f"{'iof'[gate]}{self.suffix}")


@decomposition("LSTM", "GRU", "RNN")
def unrolled(site: DecompositionSite) -> Outputs:
    check(site)
    length, hidden = site.size(site.x, 0), site.size(site.input(2), 2)
    check_lengths(site, length)
    # the length is stated so that inference knows the sizes of all steps
    x = site.op("Reshape", site.op("Transpose", site.x, perm=[1, 0, 2]), [0, length, site.size(site.input(1), 2)])
    runs = []
    for direction in directions(site, hidden):
        steps = site.ops("Split", direction.input_matrix(x), outputs=length, axis=1, num_outputs=length)
        runs.append(run(direction, steps))
    sequence = None
    if site.wants(0):
        rows = [site.op("Concat", *(state[0] for state in states), axis=1) for states in runs]
        turned = [site.op("Transpose", row, perm=[1, 0, 2]) for row in rows]
        sequence = joined(site, [site.op("Unsqueeze", row, [1]) for row in turned], 1)
    return [sequence, *(last(site, runs, i) for i in range(1, len(site.node.outputs)))]


def check(site: DecompositionSite) -> None:
    """What is not decomposed."""
    site.require("clip" not in site.attributes, "the cell is clipped")
    site.require(site.attributes.get_int("layout", 0) == 0, "the batch is the first axis")
    site.require(site.attributes.get_int("input_forget", 0) == 0, "gates are coupled")


def check_lengths(site: DecompositionSite, length: int) -> None:
    """Only sequences that all have the full length are unrolled."""
    lengths = site.optional(4)
    if lengths is not None:
        known = site.known(lengths)
        site.require(known is not None and bool((known == length).all()), "sequences have lengths of their own")


def directions(site: DecompositionSite, hidden: int) -> list[Direction]:
    name = site.attributes.get_string("direction", "forward")
    suffixes, count = SUFFIXES[name], len(DEFAULTS[site.node.op_type])
    functions = site.attributes.get_strings("activations", DEFAULTS[site.node.op_type] * len(suffixes))
    alphas, betas = (iter(site.attributes.get_floats(f"activation_{k}", ())) for k in ("alpha", "beta"))
    found = tuple(activations.recurrent(site, f, alphas, betas) for f in functions)
    if len(found) != count * len(suffixes):
        raise NotDecomposed(f"{len(found)} activations")
    return [
        Direction(site, i, suffix, name == "reverse" or i == 1, found[i * count : (i + 1) * count], hidden)
        for i, suffix in enumerate(suffixes)
    ]


def run(direction: Direction, steps) -> list[State]:
    """The states after every step, in the order of the sequence."""
    site, step = direction.site, CELLS[direction.site.node.op_type](direction)
    state = tuple(initial(direction, i) for i in ((5, 6) if site.node.op_type == "LSTM" else (5,)))
    states = []
    for x in reversed(steps) if direction.backwards else steps:
        state = step(x, state)
        states.append(state)
    return states[::-1] if direction.backwards else states


def initial(direction: Direction, i: int) -> onnx_ir.Value:
    """The state [n, 1, hidden] before the first step: input i [directions, n, hidden], or zeros."""
    site, given = direction.site, direction.site.optional(i)
    if given is None:
        sizes = site.op("Concat", site.op("Shape", site.x, start=1, end=2), [1, direction.hidden], axis=0)
        return site.op("Expand", 0.0, sizes)
    k = direction.index
    return site.op("Transpose", site.op("Slice", given, [k], [k + 1], [0]), perm=[1, 0, 2])


def last(site: DecompositionSite, runs: list[list[State]], output: int) -> onnx_ir.Value | None:
    """The state [directions, n, hidden] of output 1 or 2 after the last step."""
    if not site.wants(output):
        return None
    ends = [states[0 if backwards(site, i) else -1][output - 1] for i, states in enumerate(runs)]
    return joined(site, [site.op("Transpose", end, perm=[1, 0, 2]) for end in ends], 0)


def backwards(site: DecompositionSite, index: int) -> bool:
    return index == 1 or site.attributes.get_string("direction", "forward") == "reverse"


def joined(site: DecompositionSite, values: list[onnx_ir.Value], axis: int) -> onnx_ir.Value:
    return values[0] if len(values) == 1 else site.op("Concat", *values, axis=axis)


def lstm(d: Direction) -> Step:
    """Gates i, o, f, c: c' = f c + i g, h' = o tanh(c'); the peepholes of i and f read c, that of o reads c'."""
    op, product = d.site.op, d.recurrent("R", 0, 4)
    gate, inner, outer = d.activations
    peepholes = [d.peephole(k) for k in range(3)]

    def seen(value: onnx_ir.Value, c: onnx_ir.Value, k: int) -> onnx_ir.Value:
        weight = peepholes[k]
        return value if weight is None else op("Add", value, op("Mul", c, weight))

    def step(x: onnx_ir.Value, state: State) -> State:
        h, c = state
        i, o, f, g = d.split(op("Add", x, product(h)), 4)
        kept = op("Mul", gate(seen(f, c, 2)), c)
        c = op("Add", kept, op("Mul", gate(seen(i, c, 0)), inner(g)))
        return op("Mul", gate(seen(o, c, 1)), outer(c)), c

    return step


def gru(d: Direction) -> Step:
    """Gates z, r, h: h' = (1 - z) g(...) + z h; the reset gate r scales h before its matrix, or the product behind it
    (linear_before_reset).
    """
    op, (gate, inner) = d.site.op, d.activations
    after = d.site.attributes.get_int("linear_before_reset", 0) != 0
    product = d.recurrent("R", 0, 3 if after else 2)
    candidate = None if after else d.recurrent("Rh", 2, 3)

    def step(x: onnx_ir.Value, state: State) -> State:
        (h,) = state
        xz, xr, xh = d.split(x, 3)
        z, r, *rest = d.split(product(h), 3 if after else 2)
        z, r = gate(op("Add", xz, z)), gate(op("Add", xr, r))
        pulled = op("Mul", r, rest[0]) if candidate is None else candidate(op("Mul", r, h))
        new = inner(op("Add", xh, pulled))
        return (op("Add", op("Mul", op("Sub", 1.0, z), new), op("Mul", z, h)),)

    return step


def rnn(d: Direction) -> Step:
    """h' = f(x W + h R + b)."""
    product, (function,) = d.recurrent("R", 0, 1), d.activations
    return lambda x, state: (function(d.site.op("Add", x, product(state[0]))),)


CELLS = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
