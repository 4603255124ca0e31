"""What this machine can run: the onnxruntime package, versions, providers that really work, and thread pools."""

import platform
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path

from ..ir.errors import InputError
from ..ir.extras import install

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
REPORTED = ("kronnx", "onnx", "onnx-ir", "onnxscript", "numpy", "scipy")


def onnxruntime() -> types.ModuleType:
    """The module onnxruntime, imported on the first call: it takes a fifth of a second.

    Raises InputError if it is missing or broken, or if two of its packages are installed: they own the
    same folder, and the one that was installed last has overwritten the other.
    """
    packages = installed_runtimes()
    if len(packages) > 1:
        raise InputError(
            f"both {' and '.join(packages)} are installed and overwrite each other; remove them all and install one: "
            f"pip uninstall -y {' '.join(packages)} && pip install {packages[0]}"
        )
    try:
        return import_module("onnxruntime")
    except ModuleNotFoundError as e:
        raise InputError(
            f"onnxruntime is not installed; install it with: {install('cpu')} "
            "(gpu in the place of cpu for an NVIDIA GPU)"
        ) from e
    except (ImportError, OSError) as e:
        raise InputError(f"onnxruntime is installed but can't be loaded ({e}); install it again") from e


def installed_runtimes() -> list[str]:
    """The installed packages that provide the import name `onnxruntime`; more than one is a broken installation."""
    return [name for name in RUNTIMES if _version(name) is not None]


def versions() -> dict[str, str]:
    """Package name -> version of Kronnx, of what it stands on, of Python and of the ONNX Runtime packages in use.

    A package that isn't installed is `not installed`; nothing is imported.
    """
    found = {name: _version(name) or "not installed" for name in REPORTED}
    runtimes = {name: _version(name) or "" for name in installed_runtimes()} or {"onnxruntime": "not installed"}
    return {**found, **runtimes, "python": platform.python_version()}


def runtime_version() -> str:
    """The version of ONNX Runtime that runs the sessions, as `onnxruntime 1.32.0`."""
    return f"onnxruntime {onnxruntime().__version__}"


def working_providers() -> list[str]:
    """The providers, of `cpu` and `cuda`, that ran a one-node model just now.

    Asking is not enough: onnxruntime-gpu lists CUDA on machines without a GPU and then runs on the CPU.
    Raises InputError as `onnxruntime()` does.
    """
    runtime = onnxruntime()
    return [short for short, full in PROVIDERS.items() if full in _granted(runtime, full)]


def device_name(provider: str) -> str:
    """The processor or, for `cuda`, the GPU, as its driver names it; `unknown` where nothing says so."""
    if provider == "cuda":
        return _first_field(sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")), "Model")
    named = _first_field([Path("/proc/cpuinfo")], "model name")
    return named if named != "unknown" else platform.processor() or platform.machine() or named


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Holds the pools of numpy and scipy (BLAS, OpenMP) to `threads`; ONNX Runtime's are set for each session."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=threads):
        yield


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _granted(runtime: types.ModuleType, provider: str) -> list[str]:
    if provider not in runtime.get_available_providers():
        return []
    if provider == PROVIDERS["cuda"]:
        preload_gpu_libraries(runtime)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(_one_node_model(), options, providers=[provider])
        session.run(None, {"x": [1.0]})
    except Exception:  # the drivers raise anything; an error is the answer "does not work here"
        return []
    return session.get_providers()


def preload_gpu_libraries(runtime: types.ModuleType) -> None:
    """Loads the CUDA and cuDNN libraries that pip installed, which the system's loader can't find by itself."""
    if hasattr(runtime, "preload_dlls"):  # since 1.21
        runtime.preload_dlls()


def _one_node_model() -> bytes:
    from onnx import parser

    text = '<ir_version: 8, opset_import: ["": 17]> one (float[1] x) => (float[1] y) { y = Neg(x) }'
    return parser.parse_model(text).SerializeToString()


def _first_field(files: list[Path], field: str) -> str:
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return "unknown"
