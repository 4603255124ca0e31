"""Writes a model, whole or not at all."""

import os
import tempfile
from pathlib import Path

import onnx
import onnx_ir

from ..errors import InputError
from .weights import clone, graphs, nodes, replace_weights, weights

EXTERNAL_ABOVE = 1_800_000_000  # bytes of weights: a protobuf message ends at 2 GB, and the graph needs room
LOWEST_IR = 10


def save(model: onnx_ir.Model, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
    """Writes `model` to `path`; weights go to `<name>.data` beside it if `external_data`, or (None) if they are large.

    The files are written in a temporary folder beside `path` and renamed: on failure nothing is left and an older
    file stays. A model from `load` may be mapped from the very files that are replaced, and stays usable (one with
    tensors that open the file again, from onnx_ir.load, is not). The same model gives the same bytes.

    Raises InputError if the place can't be written or the weights don't fit into one file.
    """
    target = Path(path)
    size = sum(tensor.nbytes for _, tensor in weights(model))
    if external_data is False and size > EXTERNAL_ABOVE:
        raise InputError(f"{target}: {size} bytes of weights don't fit into one file of 2 GB; use external data")
    try:
        _write(model, target, size > EXTERNAL_ABOVE if external_data is None else external_data)
    except OSError as e:
        raise InputError(f"can't write {target}: {e.strerror or e}; choose a folder that can be written") from e


def needed_ir_version(model: onnx_ir.Model) -> int:
    """The lowest IR version, 10 or more, that has the operator sets and the tensor types of `model`."""
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in sorted(model.opset_imports.items())]
    by_opset = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    return max(LOWEST_IR, by_opset, *(IR_OF_TYPE.get(kind, 0) for kind in _types(model)))


IR_OF_TYPE = {
    onnx_ir.DataType.FLOAT4E2M1: 11,
    onnx_ir.DataType.FLOAT8E8M0: 12,
    onnx_ir.DataType.INT2: 13,
    onnx_ir.DataType.UINT2: 13,
}


def _types(model: onnx_ir.Model) -> set[onnx_ir.DataType]:
    made = {value.dtype for node in nodes(model) for value in node.outputs if value.dtype is not None}
    given = {value.dtype for graph in graphs(model) for value in graph.inputs if value.dtype is not None}
    return made | given | {tensor.dtype for _, tensor in weights(model)} | {onnx_ir.DataType.FLOAT}


def _write(model: onnx_ir.Model, target: Path, external: bool) -> None:
    if target.is_dir():
        raise IsADirectoryError(None, "it is a folder", str(target))
    data = target.with_name(target.name + ".data")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        staged = Path(folder) / target.name
        _stage(model, staged, data.name if external else None)
        if external and staged.with_name(data.name).exists():
            os.replace(staged.with_name(data.name), data)
            _invalidate(model, data)
        os.replace(staged, target)


def _stage(model: onnx_ir.Model, staged: Path, data_name: str | None) -> None:
    model = clone(model)
    model.ir_version = needed_ir_version(model)
    replace_weights(model, _embedded)
    if data_name is not None:
        onnx_ir.save(model, staged, external_data=data_name)
        return
    staged.write_bytes(onnx_ir.to_proto(model).SerializeToString(deterministic=True))


def _embedded(_: str, tensor: onnx_ir.TensorProtocol) -> onnx_ir.TensorProtocol:
    if not isinstance(tensor, onnx_ir.ExternalTensor):
        return tensor
    return onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)


def _invalidate(model: onnx_ir.Model, data: Path) -> None:
    """A tensor that would read `data` again finds other weights there; better an error than those."""
    for _, tensor in weights(model):
        if isinstance(tensor, onnx_ir.ExternalTensor) and os.path.realpath(tensor.path) == os.path.realpath(data):
            tensor.invalidate()
