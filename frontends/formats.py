"""What a file or folder that is no ONNX model is instead, by its content, and what to do with one that nobody reads."""

import os
import zipfile
from pathlib import Path

HEAD = 64  # bytes looked at
PICKLE = (
    "which is not opened: to read it is to run whatever program it holds. Build the model, load these weights, and "
    "either save it with torch.export.save(torch.export.export(model, inputs), 'model.pt2') and give that, or give a "
    "function that returns it, as file.py:function"
)
ADVICE = {
    "keras": "a Keras model (.keras)",
    "hdf5": "an HDF5 file, as Keras writes (.h5)",
    "savedmodel": "a TensorFlow SavedModel",
    "exported": "a PyTorch exported program (.pt2)",
    "tflite": "a TensorFlow Lite model",
    "torch": f"a PyTorch checkpoint (.pt, .pth), a Python pickle, {PICKLE}",
    "pickle": f"a Python pickle, as older PyTorch writes, {PICKLE}",
    "torchscript": (
        "a TorchScript archive, which holds a program and pickled objects: give the Python model that it was made of, "
        "as file.py:function, or as a .pt2 of torch.export.save"
    ),
    "safetensors": (
        "a safetensors file, which holds weights but no graph: give a function that builds the model and loads them, "
        "as file.py:function"
    ),
    "gguf": "a GGUF file, which holds weights but no graph: export the original model to ONNX",
    "ort": "an ONNX Runtime file (.ort): use the .onnx file that it was made of",
    "lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
    "html": "a web page: the download went wrong; fetch the file itself",
    "zip": "a zip archive: unpack it and give the model in it",
    "cut": "a zip archive, as Keras and PyTorch write, that is cut off or damaged: save or download it again",
    "gzip": "a gzip archive: unpack it and give the model in it",
    "text": "a text file",
    "empty": "an empty file: the export or the download went wrong",
}


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """A key of ADVICE, or None for what is not known, such as an ONNX model.

    Reads a few bytes, or the names in a zip archive. Raises OSError if that can't be read.
    """
    return _folder_kind(Path(path)) if Path(path).is_dir() else _file_kind(Path(path))


def recognize(path: str | os.PathLike[str]) -> str | None:
    """Part of a sentence for an error message ("a GGUF file, which ..."), or None; as `kind_of`."""
    kind = kind_of(path)
    return None if kind is None else ADVICE[kind]


def _folder_kind(folder: Path) -> str | None:
    return "savedmodel" if (folder / "saved_model.pb").is_file() else None


def _file_kind(file: Path) -> str | None:
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    if head.startswith(b"PK\x03\x04"):
        return _archive_kind(file)
    return _head_kind(head)


def _archive_kind(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile:
        return "cut"
    ends = {name.split("/", 1)[-1] for name in names}
    if {"config.json", "model.weights.h5"} <= names:
        return "keras"
    if {"models/model.json", "serialized_exported_program.json"} & ends:
        return "exported"
    if "data.pkl" in ends:
        return "torchscript" if any(name.startswith("code/") for name in ends) else "torch"
    return "zip"


def _head_kind(head: bytes) -> str | None:
    starts = {
        b"\x89HDF\r\n\x1a\n": "hdf5",
        b"GGUF": "gguf",
        b"\x1f\x8b": "gzip",
        b"version https://git-lfs": "lfs",
        b"\x80\x02": "pickle",
        b"\x80\x03": "pickle",
        b"\x80\x04": "pickle",
        b"\x80\x05": "pickle",
    }
    inner = {b"TFL3": "tflite", b"ORTM": "ort"}
    found = next((kind for mark, kind in starts.items() if head.startswith(mark)), None)
    return found or inner.get(head[4:8]) or _text_kind(head)


def _text_kind(head: bytes) -> str | None:
    if not head:
        return "empty"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "html"
    return "text" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """An ONNX model starts with the control characters 8 and its IR version."""
    return all(byte >= 32 or byte in b"\t\n\r" for byte in head)
