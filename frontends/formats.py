"""What a file that is no ONNX model is instead, by its content, and how to make an ONNX model of it."""

import os
import zipfile
from pathlib import Path

HEAD = 64  # bytes looked at
KERAS = "convert it with tf2onnx (python -m tf2onnx.convert) or load it in Keras and give the model to kronnx"
TORCH = "build the model, load these weights and call torch.onnx.export(model, inputs, 'model.onnx', dynamo=True)"
TFLITE = "convert the Keras model or SavedModel that it was made of"
ADVICE = {
    "keras": f"a Keras model (.keras): {KERAS}",
    "hdf5": f"an HDF5 file, as Keras writes (.h5): {KERAS}",
    "savedmodel": f"a TensorFlow SavedModel: {KERAS}",
    "torch": f"a PyTorch checkpoint (.pt, .pth): {TORCH}",
    "exported": "a PyTorch exported program (.pt2): load it with torch.export.load and call torch.onnx.export on it",
    "torchscript": "a TorchScript archive: export the Python model it was traced from with torch.onnx.export",
    "tflite": f"a TensorFlow Lite model: {TFLITE}",
    "safetensors": f"a safetensors file, which holds weights but no graph: {TORCH}",
    "gguf": "a GGUF file, which holds weights but no graph: export the original model to ONNX",
    "pickle": f"a Python pickle, as older PyTorch writes: {TORCH}",
    "ort": "an ONNX Runtime file (.ort): use the .onnx file that it was made of",
    "lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
    "html": "a web page: the download went wrong; fetch the file itself",
    "zip": "a zip archive: unpack it and give the .onnx file in it",
    "gzip": "a gzip archive: unpack it and give the .onnx file in it",
    "text": "a text file",
    "empty": "an empty file: the export or the download went wrong",
}


def recognize(path: str | os.PathLike[str]) -> str | None:
    """Part of a sentence for an error message ("a Keras model (.keras): convert it with ..."), or None if not known.

    ONNX models give None. Reads a few bytes, or the names in a zip archive. Raises OSError if that can't be read.
    """
    kind = _folder_kind(Path(path)) if Path(path).is_dir() else _file_kind(Path(path))
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
        return "zip"
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
