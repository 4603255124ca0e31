"""Files of `torch.export.save` (.pt2), read without unpickling anything but tensors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..ir.errors import InputError
from .messages import one_line, quiet

PROGRAMS = ("custom_obj_", "opaque_obj_", "data/aotinductor/")
"""What the names of members of a .pt2 hold that PyTorch unpickles or runs as machine code, in small letters: its reader
finds members without regard to case."""


def load(path: Path, torch: Any) -> Any:
    """The program in the file. Raises InputError for one that can't be read, or that holds pickled objects."""
    try:
        names = torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError as e:
        raise InputError(f"{path} can't be read: {one_line(e)}; save it again with torch.export.save") from e
    pickled = [name for name in names if any(part in name.lower() for part in PROGRAMS)]
    if pickled:
        raise InputError(
            f"{path} holds {pickled[0]}, a program or pickled object, which is not opened; give a function that builds "
            "the model, as file.py:function"
        )
    try:
        with _weights_only(), quiet("torch"):
            return torch.export.load(path)
    except Exception as e:  # PyTorch raises anything for what it can't read
        raise InputError(
            f"PyTorch {torch.__version__} can't load {path}: {one_line(e)}; save it again with torch.export.save of "
            "this version, or give a function that builds the model, as file.py:function"
        ) from e


@contextmanager
def _weights_only() -> Iterator[None]:
    """Within it torch.load reads tensors only, also where its caller asks for pickles."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
