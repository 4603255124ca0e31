"""onnx's own backend test models, which come with the package `onnx`: a model, inputs, and the outputs they give."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnx_ir
import onnxruntime
from kronnx.ir.model import load, save, signature
from onnx import numpy_helper

KINDS = ("simple", "pytorch-operator", "pytorch-converted")
DATA = Path(onnx.backend.test.__file__).parent / "data"
GROWTH, SOME_BYTES = 1.02, 200  # a file that is cleaned up may be so much larger
RTOL, ATOL = 1e-3, 1e-7  # the tolerance of onnx's own runner

Arrays = dict[str, object]
"""By name: an array, or a list of them for a sequence, or None for an empty optional."""


@dataclass(frozen=True)
class NodeModel:
    """One test model with its data sets: (inputs, expected outputs)."""

    name: str
    proto: onnx.ModelProto
    sets: tuple[tuple[Arrays, Arrays], ...]

    def frozen(self) -> "NodeModel | None":
        """The same with all inputs but the first as initializers, so that there is something to fold and to fuse."""
        inputs, expected = self.sets[0]
        if self.proto.ir_version < 4 or not all(isinstance(x, np.ndarray) for x in inputs.values()):
            return None
        names = [value.name for value in self.proto.graph.input]
        if len(names) < 2 or set(inputs) != set(names):
            return None
        free, *fixed = names
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        del proto.graph.input[1:]
        proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(inputs[name]), name) for name in fixed)
        return NodeModel(f"{self.name}/frozen", proto, (({free: inputs[free]}, expected),))


def node_models(kinds: Sequence[str] = KINDS) -> Iterator[NodeModel]:
    """Every test model of one node, then those of the other kinds, in the order of their names."""
    yield from (_case(case) for case in sorted(_cases(), key=lambda case: case.name))
    for kind in kinds:
        for folder in sorted((DATA / kind).iterdir()):
            if (folder / "model.onnx").is_file():
                yield _stored(f"{kind}/{folder.name}", folder)


def _cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the cases compute overflows and divisions by zero
        from onnx.backend.test.loader import load_model_tests

        return load_model_tests(kind="node")


def _case(case) -> NodeModel:
    graph = case.model.graph
    sets = [(_named(graph.input, inputs), _named(graph.output, outputs)) for inputs, outputs in case.data_sets]
    return NodeModel(case.name, case.model, tuple(sets))


def _named(values, arrays) -> Arrays:
    plain = [numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in arrays]
    return dict(zip((value.name for value in values), plain, strict=False))


def _stored(name: str, folder: Path) -> NodeModel:
    proto = onnx.load(folder / "model.onnx")
    sets = [
        (_read(one, "input", proto.graph.input), _read(one, "output", proto.graph.output))
        for one in sorted(folder.glob("test_data_set_*"))
    ]
    return NodeModel(name, proto, tuple(sets))


@dataclass(frozen=True)
class Runnable:
    """A model that ONNX Runtime runs, with its outputs for each data set; `steady` are those that no chance changes."""

    model: NodeModel
    outputs: list[Arrays]
    steady: frozenset[str]


def runnable(models: Iterable[NodeModel]) -> list[Runnable]:
    """Those of the models that ONNX Runtime runs as they are."""
    return [found for found in map(_try, models) if found is not None]


def _try(model: NodeModel) -> Runnable | None:
    content = model.proto.SerializeToString()
    try:
        first, second = run(content, model.sets), run(content, model.sets)
    except Exception:  # onnxruntime raises many kinds for types, operators and versions that it doesn't know
        return None
    pairs = list(zip(first, second, strict=True))
    return Runnable(model, first, frozenset(name for name in first[0] if all(same(a[name], b[name]) for a, b in pairs)))


def fault(case: Runnable, step: Callable[[onnx_ir.Model], onnx_ir.Model], folder: Path) -> str | None:
    """What is wrong after load, `step` and save: an error, another signature or opset, a file that grew, or other
    outputs. None if nothing is."""
    source, target = folder / "source.onnx", folder / "target.onnx"
    source.write_bytes(case.model.proto.SerializeToString())
    try:
        original = load(source)
        save(step(original), target)
        if signature(load(target)) != signature(original):
            return f"{case.model.name}: the signature changed to {signature(load(target))}"
        versions = [found.opset_imports.get("") for found in (original, load(target))]
        if versions[1] not in (versions[0], None):
            return f"{case.model.name}: opset {versions[0]} became {versions[1]}"
        before, after = source.stat().st_size, target.stat().st_size
        if after > GROWTH * before + SOME_BYTES:
            return f"{case.model.name}: the file grew from {before} to {after} bytes"
        given = run(target.read_bytes(), case.model.sets)
    except Exception as e:  # every kind of failure is a finding of this test
        return f"{case.model.name}: {type(e).__name__}: {e}"
    return _difference(case, given)


def _difference(case: Runnable, given: list[Arrays]) -> str | None:
    for wanted, got in zip(case.outputs, given, strict=True):
        for name in case.steady:
            if not same(wanted[name], got[name], rtol=1e-5, atol=1e-6):  # the order of float32 sums may change
                return f"{case.model.name}: the output {name!r} changed from {wanted[name]} to {got[name]}"
    return None


@cache
def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def run(model: bytes, sets: Sequence[tuple[Arrays, Arrays]]) -> list[Arrays]:
    """The outputs for each data set, from ONNX Runtime on one thread. Raises what it raises for what it can't run."""
    session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feeds), strict=True)) for feeds, _ in sets]


def same(a: object, b: object, rtol: float = RTOL, atol: float = ATOL) -> bool:
    """Equal types, shapes and values (NaN equals NaN); floats within the tolerance."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y, rtol, atol) for x, y in zip(a, b, strict=True))
    if a is None or b is None:
        return a is b
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if x.dtype.kind in "fc" or x.dtype.kind == "V":
        return np.allclose(_wide(x), _wide(y), rtol=rtol, atol=atol, equal_nan=True)
    return np.array_equal(x, y)


def _wide(x: np.ndarray) -> np.ndarray:
    return x if x.dtype.kind == "c" else x.astype(np.float64)


def _read(folder: Path, kind: str, values) -> Arrays:
    files = [folder / f"{kind}_{i}.pb" for i in range(len(values))]
    return {value.name: _value(file, value.type) for value, file in zip(values, files, strict=True) if file.is_file()}


def _value(file: Path, kind: onnx.TypeProto) -> object:
    content = file.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))
