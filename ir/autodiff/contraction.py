"""The VJP rule of Einsum: each operand's gradient is the Einsum of the others and g, repeated along the letters that
only the operand has.
"""

import string

import onnx_ir

from ..errors import UnsupportedOp
from .context import NodeGradients
from .registry import Grads, vjp

DOTS = "..."


@vjp("Einsum")
def einsum(c: NodeGradients) -> Grads:
    terms, result = parsed(c.text("equation", ""))
    return [operand(c, terms, result, i) if c.needs(i) else None for i in range(len(terms))]


def parsed(equation: str) -> tuple[list[str], str]:
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        once = sorted(x for x in set(terms) - set(",.") if terms.count(x) == 1)
        result = (DOTS if DOTS in terms else "") + "".join(once)
    return terms.split(","), result


def operand(c: NodeGradients, terms: list[str], result: str, i: int) -> onnx_ir.Value:
    """A letter that the operand repeats reads its diagonal: the gradient is 0 off it."""
    others = [t for j, t in enumerate(terms) if j != i]
    values = [c.input(j) for j in range(len(terms)) if j != i]
    own, pairs = told_apart(terms[i], "".join([*terms, result]))
    for first, second, axis in pairs:
        others.append(first + second)
        values.append(identity(c, i, axis))
    known = "".join([*others, result])
    present = "".join(x for x in own.replace(DOTS, "") if x in known)
    target = kept_letters(own, present) if DOTS in own else (DOTS if DOTS in known else "") + present
    gradient = c.op("Einsum", *values, c.g, equation=",".join([*others, result]) + "->" + target)
    return in_shape(c, gradient, own, present, i)


def told_apart(term: str, taken: str) -> tuple[str, list[tuple[str, str, int]]]:
    """The term with a free letter for each repetition, and (letter, its stand-in, axis from the end) of those."""
    free = (x for x in string.ascii_letters if x not in taken)
    own, pairs = "", []
    for place, x in enumerate(term):
        repeated = x != "." and x in own
        own += next(free) if repeated else x
        if repeated:
            pairs.append((x, own[-1], place - len(term)))
    if pairs and DOTS in term and any(len(term) + axis < term.index(DOTS) for *_, axis in pairs):
        raise UnsupportedOp("no VJP rule with a repeated letter before an ellipsis")
    return own, pairs


def identity(c: NodeGradients, i: int, axis: int) -> onnx_ir.Value:
    """The identity matrix of the size of one axis of operand i."""
    size = c.shape(c.input(i), axis, axis + 1 or None)
    return c.op("EyeLike", c.op("Expand", 0.0, c.op("Concat", size, size, axis=0)))


def kept_letters(term: str, letters: str) -> str:
    return "".join(x for x in term if x == "." or x in letters)


def in_shape(c: NodeGradients, gradient: onnx_ir.Value, own: str, present: str, i: int) -> onnx_ir.Value:
    """The gradient with the missing axes back, summed where the operand was repeated along those of an ellipsis."""
    dotted = DOTS in c.text("equation", "")
    missing = [place for place, x in enumerate(own) if x != "." and x not in present]
    if missing:
        axes = from_the_end(own, missing) if dotted else missing
        gradient = c.op("Expand", c.op("Unsqueeze", gradient, axes), c.shape(c.input(i)))
    return c.unbroadcast_from(gradient, None, c.input(i)) if dotted else gradient


def from_the_end(own: str, places: list[int]) -> list[int]:
    """Axes counted from the end, which an ellipsis of any rank before them leaves alone."""
    if DOTS in own and places[0] < own.index(DOTS):
        raise UnsupportedOp("no VJP rule with a letter of its own before an ellipsis")
    return [place - len(own) for place in places]
