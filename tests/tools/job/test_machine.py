"""Where a job runs: how many threads what is timed gets."""

import os
import sys

import pytest
from kronnx.tools.job.machine import Machine, cores


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which processors a process may use")
def test_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert cores() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert (cores(), Machine(threads=None).timed_threads) == (1, 1)
    finally:
        os.sched_setaffinity(0, allowed)


def test_threads_that_are_asked_for_are_those_that_time():
    assert Machine(threads=3).timed_threads == 3
    assert Machine().timed_threads == 1
