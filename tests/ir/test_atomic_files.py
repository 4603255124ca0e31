"""Files come whole or not at all, streams are written to, and what a killed process left is removed."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest
from kronnx.ir.atomic_files import ENDING, LOCK, StagingFolder, is_stream, remove_leftovers, replacing
from kronnx.ir.errors import InputError

HOLD = """
import sys
from pathlib import Path
from kronnx.ir.atomic_files import StagingFolder
folder = StagingFolder.beside(Path(sys.argv[1]))
(folder.path / "half").write_text("half")
print("held", flush=True)
sys.stdin.read()
"""


def holder(target: Path) -> subprocess.Popen:
    """A process that is about to write `target`."""
    started = subprocess.Popen([sys.executable, "-c", HOLD, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"held\n"
    return started


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def write(path: Path, content: bytes) -> None:
    with replacing(path) as stream:
        stream.write(content)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path):
    for content in (b"first", b"second"):
        write(tmp_path / "f", content)
        assert (tmp_path / "f").read_bytes() == content
    assert names(tmp_path) == ["f"]


def test_after_an_error_the_old_file_stands(tmp_path):
    write(tmp_path / "f", b"old")

    def fail(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError), replacing(tmp_path / "f") as stream:
        fail(stream)
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_new_file_can_be_read_by_those_whom_the_umask_lets(tmp_path):
    write(tmp_path / "f", b"")
    (tmp_path / "g").touch()
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "g").stat().st_mode


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "f")
    write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "f").read_bytes() == b"new"
    assert names(tmp_path / "there") == ["f"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_stays_one(tmp_path):
    os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    write(tmp_path / "null", b"anything")
    assert stat.S_ISCHR((tmp_path / "null").stat().st_mode)
    assert names(tmp_path) == ["null"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_disk_is_refused(tmp_path):
    os.mknod(tmp_path / "disk", 0o666 | stat.S_IFBLK, os.makedev(240, 99))
    with pytest.raises(InputError, match="is a disk"):
        write(tmp_path / "disk", b"anything")
    assert stat.S_ISBLK((tmp_path / "disk").stat().st_mode)


def test_a_fifo_gives_its_reader_everything(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    content = bytes(1 << 20)  # more than a FIFO holds
    while not got and reader.is_alive():
        try:
            write(tmp_path / "fifo", content)
            break
        except InputError:  # the reader hasn't opened it yet
            continue
    reader.join()
    assert got == [content]
    assert is_stream(tmp_path / "fifo")


def test_a_fifo_that_nobody_reads_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="nobody reads"):
        write(tmp_path / "fifo", b"")
    assert names(tmp_path) == ["fifo"]


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s")
        with pytest.raises(InputError, match="is a socket"):
            write(Path("s"), b"")


def test_what_a_killed_process_left_is_removed_by_the_next_write_there(tmp_path):
    killed = holder(tmp_path / "a")
    kill(killed)
    assert names(tmp_path / f".a{ENDING}") == ["half", LOCK]
    write(tmp_path / "b", b"")
    assert names(tmp_path) == ["b"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    living = holder(tmp_path / "a")
    try:
        write(tmp_path / "b", b"")
        remove_leftovers(tmp_path)
        assert names(tmp_path / f".a{ENDING}") == ["half", LOCK]
    finally:
        living.communicate()  # its input ends, and so it does
    assert names(tmp_path) == ["b"]


def test_two_processes_write_one_file_in_turn(tmp_path):
    first = holder(tmp_path / "a")
    second = threading.Thread(target=write, args=(tmp_path / "a", b"second"))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    first.communicate()
    second.join()
    assert (tmp_path / "a").read_bytes() == b"second"
    assert names(tmp_path) == ["a"]


def test_many_threads_leave_one_whole_file(tmp_path):
    threads = [threading.Thread(target=write, args=(tmp_path / "a", bytes([n]) * 999)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a").read_bytes()
    assert content == content[:1] * 999
    assert names(tmp_path) == ["a"]


def test_a_folder_of_somebody_else_is_no_leftover(tmp_path):
    mine = tmp_path / f".notes{ENDING}"
    mine.mkdir()
    (mine / "kept").touch()
    (tmp_path / f"x{ENDING}").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / LOCK).touch()
    (tmp_path / f".link{ENDING}").symlink_to(tmp_path / "there")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [f".link{ENDING}", mine.name, "there", f"x{ENDING}"]
    assert names(tmp_path / "there") == [LOCK]


def test_a_temporary_folder_goes_with_its_object_and_after_a_kill_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = StagingFolder.temporary()
    (folder.path / "sub").mkdir()
    del folder
    assert names(tmp_path) == []
    code = "import os; from kronnx.ir.atomic_files import *; f = StagingFolder.temporary(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert len(names(tmp_path)) == 1
    with StagingFolder.temporary() as mine:
        assert names(tmp_path) == [mine.name]
