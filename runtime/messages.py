"""ONNX Runtime's exceptions turned into Kronnx's: which node, which operator, what to do, on one line."""

import os
import re
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx_ir

from ..ir.errors import BuiltGraphError, DataError, InputError

NO_MEMORY = re.compile(r"bad_alloc|bad allocation|[Ff]ailed to allocate memory|out of memory")

Source = onnx_ir.Model | str | os.PathLike[str]


@contextmanager
def loading(runtime: types.ModuleType, model: Source, given: bool = True) -> Iterator[None]:
    """Turns what ONNX Runtime raises while it loads `model` into an InputError that says what is wrong with it; or, of
    a model that isn't the one that was given, into a BuiltGraphError."""
    try:
        yield
    except errors(runtime) as e:
        said = _explained(str(e), model)
        raise InputError(f"ONNX Runtime doesn't accept the model: {said}") if given else _own_fault(said) from e


@contextmanager
def running(runtime: types.ModuleType, feeds: Mapping[str, np.ndarray], given: bool = True) -> Iterator[None]:
    """Turns what ONNX Runtime raises in a run into a DataError (the feed doesn't fit) or InputError (a node failed); of
    a model that isn't the one that was given, into a BuiltGraphError."""
    try:
        yield
    except errors(runtime) as e:
        said, fed = _bare(str(e)), ", ".join(f"{n} {array.dtype}{list(array.shape)}" for n, array in feeds.items())
        if not given:
            raise _own_fault(f"{said} (given: {fed})") from e
        if isinstance(e, runtime.capi.onnxruntime_pybind11_state.InvalidArgument):
            raise DataError(f"the data doesn't fit the model: {said} (given: {fed})") from e
        raise InputError(f"the model failed on the data: {said} (given: {fed})") from e


def _own_fault(said: str) -> InputError | BuiltGraphError:
    """What is wrong with a graph that Kronnx built; only a lack of memory isn't its fault."""
    if NO_MEMORY.search(said):
        return InputError(f"out of memory: {said}; give fewer samples or a lower --memory-limit")
    return BuiltGraphError(
        f"ONNX Runtime refuses a graph that Kronnx made of the model: {said}; this is a fault of Kronnx and not of the "
        "model, please report it with the model"
    )


def errors(runtime: types.ModuleType) -> tuple[type[Exception], ...]:
    """All that ONNX Runtime raises: its own exceptions have no common root, its Python layer uses two built-in ones."""
    state = runtime.capi.onnxruntime_pybind11_state
    own = [e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception)]
    return (*own, RuntimeError, ValueError)


def _bare(message: str) -> str:
    """The message without ONNX Runtime's error number, source file and C++ signature, on one line."""
    message = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message)
    message = re.sub(r"\S*onnxruntime/core/\S+:\d+ .*?\) (?=[A-Z])", "", message, flags=re.DOTALL)
    return " ".join(message.split())


def _explained(message: str, model: Source) -> str:
    bare = _bare(message)
    if found := re.search(r"([\w.]*):(\w+)\(-?\d+\) is not a registered", bare):
        return f"it has no operator {found[2]!r} of domain {found[1]!r}{_first_node(found[1], found[2], model)}"
    if found := re.search(r"No Op registered for (\w+) with domain_version of (\d+)", bare):
        return f"opset {found[2]} has no operator {found[1]!r}{_first_node('', found[1], model)}"
    if "IR version" in bare or "till opset" in bare:
        return f"{bare.rstrip('.')}; save it with a lower version, or install a newer onnxruntime"
    if "xternal data" in bare:
        return f"external data is missing or damaged: {bare}"
    return bare


def _first_node(domain: str, op: str, model: Source) -> str:
    try:
        graph = (onnx_ir.load(model) if isinstance(model, str | os.PathLike) else model).graph
    except Exception:  # only the node's name is lost; the message is already one about a broken model
        return ""
    nodes = (n for n in graph.all_nodes() if (n.domain, n.op_type) == (domain, op))
    named = [n.name or f"the one that makes {n.outputs[0].name}" for n in nodes]
    return f" (node {named[0]!r})" if named else ""
