"""What is known of a value before it is run: its dimensions, its rank, its constant."""

import numpy as np
import onnx_ir

Dim = int | str | None  # a size, a symbol that stands for one size in the whole model, or unknown


def dims(value: onnx_ir.Value | None) -> tuple[Dim, ...] | None:
    """The dimensions of a value, or None where not even the rank is known: a constant has those of its array,
    whatever is stated of it."""
    if value is None:
        return None
    tensor = constant_tensor(value)
    shape = value.shape if tensor is None else tensor.shape
    return None if shape is None else tuple(d if isinstance(d, int) else d.value for d in shape)


def static(sizes: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    """The dimensions as integers, or None unless all are known."""
    if sizes is None:
        return None
    known = tuple(d for d in sizes if isinstance(d, int))
    return known if len(known) == len(sizes) else None


def same(a: Dim, b: Dim) -> bool:
    """True where both are surely equal in every run."""
    return a is not None and a == b


def constant_tensor(value: onnx_ir.Value | None) -> onnx_ir.TensorProtocol | None:
    """The tensor of a value that no feed can change, an initializer's or a Constant node's; None for any other."""
    if value is None or value.is_graph_input():
        return None
    return onnx_ir.convenience.get_const_tensor(value)


def constant(value: onnx_ir.Value | None) -> np.ndarray | None:
    """The array of a value that no feed can change, or None."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def integers(value: onnx_ir.Value | None) -> list[int] | None:
    """The elements of a constant of whole numbers, or None."""
    array = constant(value)
    return None if array is None else [int(number) for number in array.reshape(-1)]
