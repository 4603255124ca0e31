"""Files that are written whole or not at all, and folders of a process: what a killed one leaves behind is known by a
lock that its process no longer holds, and is removed by the next one that writes there."""

import errno
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from .errors import InputError
from .file_locks import lock, try_to_lock

ENDING = ".kronnx"  # of the folder in which a file is written before it takes its place
LOCK = "kronnx.lock"  # in such a folder: locked as long as its process lives
PREFIX = "kronnx-"  # of the folders in the system's temporary folder


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """A stream whose bytes take the place of `path` at the end of the block; after an error `path` is as it was.

    A symbolic link stays, and what it points to is replaced. A device or a FIFO is written to. With `durable` the bytes
    are on the disk before they have the name, so that a loss of power leaves the old file or the new one.
    Raises OSError if the place can't be written, InputError for a FIFO that nobody reads, a socket or a disk.
    """
    if is_stream(path):
        with _opened_stream(path) as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    with StagingFolder.beside(target) as folder:
        staged = folder / target.name
        with staged.open("xb") as stream:
            yield stream
        move(staged, target, durable)


def move(staged: Path, target: Path, durable: bool = True) -> None:
    """Renames the finished file `staged` to `target`, its bytes first and the name after on the disk if `durable`."""
    if not durable:
        os.replace(staged, target)
        return
    with staged.open("rb+") as finished:
        os.fsync(finished.fileno())
    os.replace(staged, target)
    with suppress(OSError):  # some systems can't open or synchronize a folder
        _synchronize_names(target.parent)


def _synchronize_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_stream(path: Path) -> bool:
    """Whether `path` is something that isn't a file or a folder, and can't be replaced: a device, a FIFO, a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing is there
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def check_stream(path: Path) -> None:
    """Raises InputError for a disk and a socket, which aren't written to."""
    mode = path.stat().st_mode
    if stat.S_ISBLK(mode):
        raise InputError(f"can't write {path}: it is a disk, which would be destroyed; give a file name")
    if stat.S_ISSOCK(mode):
        raise InputError(f"can't write {path}: it is a socket; give a file name")


def _opened_stream(path: Path) -> IO[bytes]:
    check_stream(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as e:
        if e.errno != errno.ENXIO:
            raise
        raise InputError(f"can't write {path}: nobody reads this FIFO; start the reader first") from e
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb")


class StagingFolder:
    """A folder that only this process writes to, removed at the end of the `with` block, or with this object."""

    def __init__(self, path: Path, held: int):
        self.path = path
        self._finish = weakref.finalize(self, _release, path, held)

    @classmethod
    def beside(cls, target: Path) -> Self:
        """The one folder for `target`, next to it; waits for another process that writes `target` just now."""
        remove_leftovers(target.parent)
        path = target.with_name(f".{target.name}{ENDING}")
        while True:
            path.mkdir(exist_ok=True)
            held = _claimed(path)
            if held is not None:
                _empty(path)
                return cls(path, held)

    @classmethod
    def temporary(cls) -> Self:
        """A folder in the system's temporary folder."""
        remove_leftovers(Path(tempfile.gettempdir()))
        while True:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=ENDING))
            held = _claimed(path)
            if held is not None:
                return cls(path, held)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._finish()


def remove_leftovers(place: Path) -> None:
    """Removes the folders of this kind in `place` whose processes are gone. Those of other users stay."""
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if _is_staging(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    _remove_if_left(Path(entry.path))


def _is_staging(name: str) -> bool:
    return name.startswith((".", PREFIX)) and name.endswith(ENDING)


def _remove_if_left(folder: Path) -> None:
    if hasattr(os, "geteuid") and folder.lstat().st_uid != os.geteuid():
        return
    if not (folder / LOCK).is_file():
        folder.rmdir()  # of a process that ended between two steps; one that isn't empty is somebody's own
        return
    held = os.open(folder / LOCK, os.O_RDWR)
    if try_to_lock(held):
        _release(folder, held)
    else:
        os.close(held)


def _claimed(folder: Path) -> int | None:
    """The open lock of `folder`, or None if another removed it before it was held."""
    try:
        held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    lock(held)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(held), os.stat(folder / LOCK)):
            return held
    os.close(held)
    return None


def _empty(folder: Path) -> None:
    for entry in list(os.scandir(folder)):
        if entry.name == LOCK:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _release(folder: Path, held: int) -> None:
    """The lock goes last: whoever waits for it then sees that the folder is gone, and makes it anew."""
    with suppress(OSError):
        _empty(folder)
        (folder / LOCK).unlink()
        folder.rmdir()
    os.close(held)
