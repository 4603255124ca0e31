"""What `--list-passes`, `--version` and `convert` print."""

import dataclasses
import inspect

import onnx_ir

from ...ir.errors import InputError
from ...ir.plugins import Extensions


def passes_text(passes: Extensions) -> str:
    """Each pass with the first sentence of its docstring, then its options: name, type, default; and those that are
    broken, with the reason."""
    working = [line for name in sorted(passes.working) for line in _lines(name, passes.working[name])]
    return "\n".join((*working, *(f"{name:<10}broken: {passes.broken[name]}" for name in sorted(passes.broken))))


def _lines(name: str, kind: type) -> list[str]:
    options = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    shown = [(f"    {option.name}={_default(option)}", _type(option)) for option in options]
    width = max((len(left) for left, _ in shown), default=0)
    return [f"{name:<10}{_first_sentence(kind)}", *(f"{left:<{width}}  {right}" for left, right in shown)]


def _first_sentence(kind: type) -> str:
    text = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".")


def _default(option: dataclasses.Field) -> str:
    if option.default_factory is not dataclasses.MISSING:
        return str(option.default_factory())
    return "" if option.default is dataclasses.MISSING else str(option.default)


def _type(option: dataclasses.Field) -> str:
    return option.type if isinstance(option.type, str) else inspect.formatannotation(option.type)


def versions_text() -> str:
    """Packages with their versions, then the providers that ran a small model just now."""
    from ...runtime.environment import versions

    return "\n".join(f"{name:<16}{version}" for name, version in [*versions().items(), ("providers", _providers())])


def _providers() -> str:
    from ...runtime.environment import working_providers

    try:
        return ", ".join(working_providers()) or "none works here"
    except InputError as e:
        return f"none: {e}"


def model_text(model: onnx_ir.Model) -> list[str]:
    """The inputs and outputs of a model, a line each, and the number of its nodes."""
    inputs = [f"input   {_port(value)}" for value in model.graph.inputs]
    outputs = [f"output  {_port(value)}" for value in model.graph.outputs]
    return [*inputs, *outputs, f"{len(model.graph)} nodes, opset {model.opset_imports['']}"]


def _port(value: onnx_ir.Value) -> str:
    dtype = "?" if value.dtype is None else value.dtype.name.lower()
    dims = () if value.shape is None else value.shape
    return f"{value.name} {dtype}[{', '.join(str(d) if isinstance(d, int) else d.value or '?' for d in dims)}]"
