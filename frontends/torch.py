"""PyTorch modules and exported programs, by `torch.export` and the exporter of `torch.onnx`."""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from ..ir.errors import InputError, UnsupportedOp, UsageError
from ..ir.model import clone
from .examples import BATCH, Dims, Examples, apart, doubled, sample_outputs, undeclared
from .exported_program import load
from .finishing import finished, weight_of
from .formats import kind_of
from .frontend import Frontend, Lowered, Probe, Step, required
from .messages import one_line, quiet

OPSET = 20
SCOPES = "pkg.torch.onnx.name_scopes"
FIXED = re.compile(
    r"L\['(\w+)'\]\.size\(\)\[(\d+)\] as dynamic but your code specialized it to be a constant \((\d+)\)"
)


class Torch(Frontend):
    """PyTorch: `torch.export` programs (`.pt2`) and live modules."""

    name = "torch"

    def reads(self, source: object) -> bool:
        if isinstance(source, Path):
            return kind_of(source) == "exported"
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(source, torch.nn.Module | torch.export.ExportedProgram)

    def lower(self, source: object, examples: Examples) -> Lowered:
        torch = required("torch", "torch", "a PyTorch model")
        if isinstance(source, Path):
            source = load(source, torch)
        if isinstance(source, torch.export.ExportedProgram):
            return _of_program(source, examples, torch)
        module = getattr(source, "_orig_mod", source)  # what torch.compile wraps
        with _inference(module):
            return _of_module(module, examples, torch)


@contextmanager
def _inference(module: Any) -> Iterator[None]:
    """Within it the module and its parts are in inference mode; afterwards each is as it was, its buffers too."""
    training = [part for part in module.modules() if part.training]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
        for buffer, value in buffers:
            buffer.data.copy_(value)


def _of_module(module: Any, examples: Examples, torch: Any) -> Lowered:
    names = _parameters(module)
    if not examples.given:
        raise UsageError(
            f"a PyTorch module doesn't say what its inputs are: give them with --input, such as --input "
            f"'{names[0] if names else 'x'}=float32[batch,3,224,224]', or --example-inputs (in Python: inputs=, "
            "example_inputs=)"
        )
    arrays = examples.named(names)
    _check_complete(module, arrays)
    dims = examples.dims(arrays)
    arrays = doubled(arrays, dims)
    answers = _asked(module, arrays, torch)
    program, dims, notes = _exported(module, arrays, dims, bool(examples.declared), torch)
    lowered = _lowered(program, arrays, dims, answers, notes, torch)
    return replace(lowered, again=partial(_asked, module, arrays, torch))


def _parameters(module: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds]
    if not names:
        raise UsageError(
            f"forward of {type(module).__name__} names no tensors (it takes *args, or nothing): give a module around "
            "it whose forward does, as file.py:function"
        )
    return names


def _check_complete(module: Any, arrays: Mapping[str, np.ndarray]) -> None:
    own = inspect.signature(module.forward).parameters.values()
    missing = [p.name for p in own if p.default is p.empty and p.name in _parameters(module) and p.name not in arrays]
    if missing:
        raise UsageError(
            f"no input {', '.join(map(repr, missing))} was given, only {', '.join(map(repr, arrays)) or 'nothing'}; "
            "forward needs it: add it to --input or --example-inputs"
        )


def _exported(
    module: Any, arrays: Mapping[str, np.ndarray], dims: Mapping[str, Dims], declared: bool, torch: Any
) -> tuple[Any, Mapping[str, Dims], tuple[str, ...]]:
    """The program with the varying sizes that `dims` names; without them, and with a note, where nobody declared them
    and the model fixes them."""
    try:
        return _export(module, arrays, dims, torch), dims, ()
    except Exception as e:  # torch.export raises anything, also what the user's code raises
        if declared:
            raise _refused(e, dims) from e
        fixed = {name: array.shape for name, array in arrays.items()}
        try:
            program = _export(module, arrays, fixed, torch)
        except Exception as again:
            raise _refused(again, dims) from again
        size = next(iter(arrays.values())).shape[0]
        return program, fixed, (f"The batch is fixed at {size}: the model could not be traced with another size.",)


def _export(module: Any, arrays: Mapping[str, np.ndarray], dims: Mapping[str, Dims], torch: Any) -> Any:
    varying = torch.export.Dim.DYNAMIC
    shapes = {
        name: {axis: varying for axis, size in enumerate(sizes) if isinstance(size, str)}
        for name, sizes in dims.items()
    }
    with quiet("torch"), torch.no_grad():
        return torch.export.export(module, (), _tensors(module, arrays, torch), dynamic_shapes=shapes, strict=False)


def _tensors(module: Any, arrays: Mapping[str, np.ndarray], torch: Any) -> dict[str, Any]:
    parts = (*module.parameters(), *module.buffers())
    device = parts[0].device if parts else "cpu"
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}


def _refused(error: Exception, dims: Mapping[str, Dims]) -> InputError:
    shown = ", ".join(f"{name}[{','.join(map(str, sizes))}]" for name, sizes in dims.items())
    fixed = [
        f"the model fixes {dims[name][int(axis)]!r} of {name!r} at {size}"
        for name, axis, size in FIXED.findall(str(error))
        if name in dims
    ]
    why = "; ".join(dict.fromkeys(fixed)) or one_line(error)
    return InputError(
        f"torch.export can't trace the model on {shown}: {why}; write a size that can't vary as a number in --input, "
        "and see docs/frontends.md, 'When PyTorch can't trace a model'"
    )


def _asked(module: Any, arrays: Mapping[str, np.ndarray], torch: Any) -> dict[str, np.ndarray]:
    """What the module gives in inference mode; it is left as it was."""
    try:
        with _inference(module), torch.no_grad(), quiet("torch"):
            return _named(module(**_tensors(module, arrays, torch)), arrays, torch)
    except InputError:
        raise
    except Exception as e:  # the user's code may raise anything
        raise InputError(
            f"the PyTorch model fails on example inputs: {one_line(e)}; give others with --example-inputs"
        ) from e


def _named(result: Any, inputs: Iterable[str], torch: Any) -> dict[str, np.ndarray]:
    """Output name -> array: the keys of a dict, else `output`, or `output_0`, `output_1`, ..."""
    paths, _ = torch.utils._pytree.tree_flatten_with_path(result)
    tensors = [(path, leaf) for path, leaf in paths if isinstance(leaf, torch.Tensor)]
    keys = [
        ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", "")))) for k in path) for path, _ in tensors
    ]
    if any(key.isdigit() or not key for key in keys):
        keys = ["output"] if len(keys) == 1 else [f"output_{i}" for i in range(len(keys))]
    if not tensors:
        raise InputError(f"the PyTorch model returns no tensor but {type(result).__name__}; let it return its outputs")
    return {key: _array(tensor, torch) for key, (_, tensor) in zip(apart(keys, inputs), tensors, strict=True)}


def _array(tensor: Any, torch: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _of_program(program: Any, examples: Examples, torch: Any) -> Lowered:
    undeclared(examples, "an exported program")
    tree = torch.utils._pytree
    places = [spec.arg for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    own = [] if program.example_inputs is None else tree.tree_leaves(program.example_inputs)
    stored = {place.name: leaf for place, leaf in zip(places, own, strict=False) if isinstance(leaf, torch.Tensor)}
    names = [place.name for place in places if not hasattr(place, "value")]
    arrays = {**{name: _array(tensor, torch) for name, tensor in stored.items()}, **examples.named(names)}
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(f"the program holds no example inputs: give {', '.join(missing)} with --example-inputs")
    arrays = {name: arrays[name] for name in names}
    dims = _program_dims(program, names)
    given = [
        torch.from_numpy(np.ascontiguousarray(arrays[place.name])) if place.name in arrays else place.value
        for place in places
    ]
    arguments, named = tree.tree_unflatten(given, program.call_spec.in_spec)
    with torch.no_grad(), quiet("torch"):
        try:
            result = program.module()(*arguments, **named)
        except Exception as e:  # PyTorch raises anything for inputs that don't fit
            raise InputError(f"the program fails on its example inputs: {one_line(e)}") from e
    return _lowered(program, arrays, dims, _named(result, names, torch), (), torch)


def _program_dims(program: Any, names: Sequence[str]) -> dict[str, Dims]:
    """The sizes of the inputs; what varies on a first axis is called `batch`, if it is the same for all inputs."""
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.name in names}
    symbols = {name: [size if isinstance(size, int) else str(size) for size in shapes[name]] for name in names}
    first = {sizes[0] for sizes in symbols.values() if sizes and isinstance(sizes[0], str)}
    called = dict.fromkeys(first, BATCH) if len(first) == 1 else {}
    return {name: tuple(called.get(str(size), size) for size in sizes) for name, sizes in symbols.items()}


def _lowered(
    program: Any,
    feed: Mapping[str, np.ndarray],
    dims: Mapping[str, Dims],
    answers: Mapping[str, np.ndarray],
    notes: tuple[str, ...],
    torch: Any,
) -> Lowered:
    by = f"PyTorch {torch.__version__.partition('+')[0]}, torch.onnx"
    converted = _converted(program, torch)
    model = converted.model
    for value, name in zip(model.graph.inputs, feed, strict=True):
        value.name = name
    result = finished(model, _layer, dims, sample_outputs(feed, dims, answers), "torch.onnx")
    return Lowered(result, by, feed, answers, partial(_probe, result, converted.exported_program, feed, torch), notes)


def _converted(program: Any, torch: Any) -> Any:
    with quiet("torch"):
        try:
            return torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=True, verbose=False)
        except Exception as e:  # the exporter raises anything
            cause = e
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise UnsupportedOp(
                f"torch.onnx can't convert the model: {one_line(cause)}; see docs/frontends.md, 'When an operator is "
                "not supported'"
            ) from e


def _layer(node: onnx_ir.Node) -> str:
    """The module that the node's weight belongs to, or in whose forward it was traced."""
    weight = weight_of(node)
    if weight is not None and str(weight.name).endswith(".weight") and len(weight.uses()) == 1:
        return str(weight.name).removesuffix(".weight")
    scopes = node.metadata_props.get(SCOPES)
    modules = ast.literal_eval(scopes)[:-1] if scopes else []
    return modules[-1] if modules and not modules[-1].startswith("_") else ""


def _probe(model: onnx_ir.Model, program: Any, feed: Mapping[str, np.ndarray], torch: Any) -> Probe:
    """The model with those of its values as outputs that PyTorch has too: the exporter keeps the names of the trace."""
    values = _values(program, feed, torch)
    probing = clone(model)
    found = {str(value.name): (node, value) for node in probing.graph for value in node.outputs}
    steps = []
    for name, array in values.items():
        if name in found and not found[name][1].is_graph_output():
            node, value = found[name]
            probing.graph.outputs.append(value)
            steps.append(Step(str(node.name), name, array))
    return Probe(probing, tuple(steps))


def _values(program: Any, feed: Mapping[str, np.ndarray], torch: Any) -> dict[str, np.ndarray]:
    """What each node of the traced program gives, by its name, in order."""
    found: dict[str, np.ndarray] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            if n.op == "call_function" and isinstance(result, torch.Tensor):
                found[n.name] = _array(result, torch)
            return result

    held = {**program.state_dict, **program.constants}
    fed = iter(feed.values())

    def argument(spec: Any) -> Any:
        if spec.kind.name != "USER_INPUT":
            return held[spec.target]
        return spec.arg.value if hasattr(spec.arg, "value") else torch.from_numpy(np.ascontiguousarray(next(fed)))

    arguments = [argument(spec) for spec in program.graph_signature.input_specs]
    with torch.no_grad(), quiet("torch"):
        Recorder(program.graph_module).run(*arguments)
    return found
