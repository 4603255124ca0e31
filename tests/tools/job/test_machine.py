"""Where a job runs: how many threads what is timed gets."""

import os
import sys

import pytest
from kronnx.ir.errors import UsageError
from kronnx.tools.commands.cli import main
from kronnx.tools.job.machine import Machine, check_threads, cores


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which processors a process may use")
def test_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert cores() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert (cores(), Machine(threads=None).timed_threads) == (1, 1)
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_container_may_have_a_part_of_them(tmp_path, files, wanted):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    allowed = cores(tmp_path / "none")
    assert cores(tmp_path) == min(allowed, wanted or allowed)


def test_more_threads_than_processors_are_refused(mlp_path, capsys):
    check_threads(Machine(threads=cores()))
    with pytest.raises(UsageError, match=rf"--threads 999: this process may use {cores()} processor"):
        check_threads(Machine(threads=999))
    for words in ([], ["sensitivity"]):
        assert main([*words, str(mlp_path), "--threads", "999"]) == 2


def test_threads_that_are_asked_for_are_those_that_time():
    assert Machine(threads=3).timed_threads == 3
    assert Machine().timed_threads == 1
