"""Models that run: an `onnx_ir.Model` or a file in, arrays out, on exactly the provider and the threads asked for."""

import os
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from ..ir.atomic_files import StagingFolder
from ..ir.errors import DataError, InputError, UsageError
from ..ir.extras import install
from ..ir.model.external_data import refers_to_files, self_contained
from ..ir.model.protobuf import to_proto
from ..ir.model.saving import EXTERNAL_ABOVE
from ..ir.model.weights import weight_bytes
from .environment import PROVIDERS, onnxruntime, preload_gpu_libraries
from .messages import Source, loading, running
from .time_limit import TimeLimit


@dataclass(frozen=True)
class Target:
    """Where a model runs: `cpu` or `cuda`, the number of threads inside one operator, and how long the job may take."""

    provider: str = "cpu"
    threads: int = 1
    limit: TimeLimit | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise UsageError(f"unknown target {self.provider!r}; it is one of {', '.join(PROVIDERS)}")
        if self.threads < 1:
            raise UsageError(f"the number of threads must be at least 1, not {self.threads}")


class Session:
    """A model loaded into ONNX Runtime.

    `outputs` names the values to give, by default all of the model's outputs that are tensors: sequences, maps and
    optional values are computed and not given. `optimize=False` turns the
    runtime's own graph optimizations off. `arena=False` gives memory back as soon as a value isn't needed any more,
    which takes a little more time and much less memory than to keep it for the next run; `planned=False` doesn't
    reserve one block for all values of a run, much of which a large graph leaves unused. `fused=False` leaves
    QuantizeLinear and DequantizeLinear as they are written. Operators that the GPU lacks
    run on the CPU; a session that gets no GPU at all is an InputError, as is every model that ONNX Runtime doesn't
    accept. That is said of a file, and of a model that was `given`; any other is one that Kronnx built, and what is
    wrong with that is a BuiltGraphError.
    """

    def __init__(
        self,
        model: Source,
        target: Target | None = None,
        outputs: Sequence[str] | None = None,
        optimize: bool = True,
        arena: bool = True,
        planned: bool = True,
        fused: bool = True,
        given: bool = False,
    ) -> None:
        self.target = target or Target()
        self._folder = StagingFolder.temporary() if _is_large(model) else None
        self._runtime = onnxruntime()
        options = _options(self._runtime, self.target, optimize, arena)
        options.enable_mem_pattern = planned
        if not fused:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._given = given or not isinstance(model, onnx_ir.Model)
        stop = partial(options.set_load_cancellation_flag, True)
        with self._stoppable(stop), loading(self._runtime, model, self._given):
            self._session = _session(self._runtime, model, self.target, options, self._folder)
        self._check_provider()
        self.input_shapes: dict[str, tuple[int | str | None, ...]] = {
            v.name: tuple(v.shape) for v in self._session.get_inputs()
        }
        self.output_names: tuple[str, ...] = self._chosen(outputs)

    @property
    def handle(self) -> Any:
        """ONNX Runtime's own session, for what stands on this class in this package."""
        return self._session

    @property
    def runtime(self) -> types.ModuleType:
        """The module onnxruntime that the session belongs to."""
        return self._runtime

    @property
    def given(self) -> bool:
        """Whether the model is what a person gave, and no graph that Kronnx built."""
        return self._given

    @property
    def providers(self) -> list[str]:
        """The providers that the session really has, first choice first, by ONNX Runtime's names."""
        return self._session.get_providers()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Output name -> array for one feed of all inputs.

        Raises DataError for names, types or shapes that aren't the model's; InputError if an operator fails, of a model
        that Kronnx built BuiltGraphError.
        """
        self._check_names(feeds)
        options = self._runtime.RunOptions()
        stop = partial(setattr, options, "terminate", True)
        with self._stoppable(stop), running(self._runtime, feeds, self._given):
            return dict(zip(self.output_names, self._run(feeds, options), strict=bool(self.output_names)))

    def runner(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """A function that runs the model on these very arrays, for timing: inputs and outputs stay on the device.

        Strings can't be bound to a device, and nothing is where no output is a tensor: then it is a plain run.
        """
        self._check_names(feeds)
        if not self.output_names or any(array.dtype.kind in "OUS" for array in feeds.values()):
            return lambda: self._run(feeds)
        with running(self._runtime, feeds, self._given):
            return self._bound(feeds)

    def _stoppable(self, stop: Callable[[], object]) -> AbstractContextManager[None]:
        return nullcontext() if self.target.limit is None else self.target.limit.stoppable(stop)

    def _run(self, feeds: Mapping[str, np.ndarray], options: Any = None) -> list[np.ndarray]:
        return self._session.run(self.output_names or None, dict(feeds), options)

    def _bound(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        device, value = self.target.provider, self._runtime.OrtValue
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, value.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0))
        for name in self.output_names:
            binding.bind_output(name, device, 0)
        run = self._session.run_with_iobinding
        run(binding)
        return lambda: run(binding)

    def _check_provider(self) -> None:
        if PROVIDERS[self.target.provider] not in self.providers:
            raise InputError(
                f"the session asked for {self.target.provider} but got {', '.join(self.providers)}: no usable "
                f"NVIDIA GPU, driver or CUDA libraries; check nvidia-smi, {install('gpu')}, or use --target cpu"
            )

    def _chosen(self, outputs: Sequence[str] | None) -> tuple[str, ...]:
        kinds = {v.name: v.type for v in self._session.get_outputs()}
        unknown = [name for name in outputs or () if name not in kinds]
        if unknown:
            raise InputError(f"the model has no output {', '.join(map(repr, unknown))}; it has {', '.join(kinds)}")
        tensors = (name for name, kind in kinds.items() if kind.startswith("tensor("))
        return tuple(tensors if outputs is None else outputs)

    def _check_names(self, feeds: Mapping[str, np.ndarray]) -> None:
        missing = [name for name in self.input_shapes if name not in feeds]
        extra = [name for name in feeds if name not in self.input_shapes]
        if missing or extra:
            raise DataError(
                f"the feed doesn't fit the model: missing {missing or 'nothing'}, unknown {extra or 'nothing'}; "
                f"the inputs are {list(self.input_shapes)}"
            )


def _session(
    runtime: types.ModuleType,
    model: Source,
    target: Target,
    options: Any,
    folder: StagingFolder | None,
) -> Any:
    providers = _providers(runtime, target)
    source = _source(model, folder)
    # enable_fallback=0: no second try on the CPU with a print
    return runtime.InferenceSession(source, options, providers=providers, enable_fallback=0)


def _providers(runtime: types.ModuleType, target: Target) -> list[str]:
    wanted, offered = PROVIDERS[target.provider], runtime.get_available_providers()
    if wanted not in offered:
        raise InputError(
            f"this onnxruntime ({runtime.__version__}) has no {wanted}, only {', '.join(offered)}; for a GPU: "
            f"pip uninstall -y onnxruntime && {install('gpu')}, or use --target cpu"
        )
    if target.provider == "cuda":
        preload_gpu_libraries(runtime)
    return list(dict.fromkeys((wanted, PROVIDERS["cpu"])))


def _options(runtime: types.ModuleType, target: Target, optimize: bool, arena: bool) -> Any:
    levels = runtime.GraphOptimizationLevel
    options = runtime.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.enable_cpu_mem_arena = arena
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what 3 would print is raised as well
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return options


def _source(model: Source, folder: StagingFolder | None) -> bytes | str:
    if not isinstance(model, onnx_ir.Model):
        if not Path(model).is_file():
            raise InputError(f"no such model file: {os.fspath(model)}")
        return os.fspath(model)
    try:
        return _serialized(model) if folder is None else _spilled(model, folder.path)
    except OSError as e:
        raise InputError(f"the weights of the model can't be read, or written to {tempfile.gettempdir()}: {e}") from e


def _serialized(model: onnx_ir.Model) -> bytes:
    whole = self_contained(model) if refers_to_files(model) else model
    return to_proto(whole).SerializeToString()


def _spilled(model: onnx_ir.Model, folder: Path) -> str:
    path = folder / "model.onnx"
    onnx_ir.save(self_contained(model), path, external_data="weights.bin")
    return str(path)


def _is_large(model: Source) -> bool:
    return isinstance(model, onnx_ir.Model) and weight_bytes(model) > EXTERNAL_ABOVE
