"""Where a model goes that is given no place."""

from pathlib import Path

from ..job.function_names import is_function

OPTIMIZED, LOWERED = ".opt.onnx", ".onnx"


def default_output(source: Path, ending: str) -> Path:
    """`model.opt.onnx` beside `model.onnx` or `model.keras`, `model.opt.onnx` beside the folder `model`, and
    `make.opt.onnx` in the working folder for `file.py:make`; `ending` is what comes behind the name."""
    if is_function(str(source)):
        return Path(f"{source.name.rpartition(':')[2]}{ending}")
    return source.with_name(source.name + ending) if source.is_dir() else source.with_suffix(ending)
