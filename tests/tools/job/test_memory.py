"""Sizes as people write them, and the memory that the process has taken."""

import subprocess
import sys

import numpy as np
import pytest
from kronnx.tools.job.memory import peak_memory, size

ASK = "from kronnx.tools.job.memory import peak_memory; print(peak_memory())"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4G", 4_000_000_000),
        ("4GB", 4_000_000_000),
        ("4 gb", 4_000_000_000),
        ("800M", 800_000_000),
        ("0.5g", 500_000_000),
        ("2GiB", 2 * 1024**3),
        ("5000k", 5_000_000),
        ("1T", 10**12),
        ("3000000", 3_000_000),
    ],
)
def test_sizes_are_read(text, count):
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "G", "much", "-4G", "4Q", "4GG", "4Gi", "1e9", "nan", "inf"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is no size; write 800M or 4G"):
        size(text)


@pytest.mark.parametrize("text", ["4", "0", "100k"])
def test_a_forgotten_unit_is_refused(text):
    with pytest.raises(ValueError, match="less than a megabyte"):
        size(text)


@pytest.mark.skipif(peak_memory() is None, reason="this system doesn't say")
def test_the_peak_holds_what_was_let_go():
    before = peak_memory()
    block = np.ones(200_000_000, np.uint8)
    del block
    after = peak_memory()
    assert before is not None
    assert after is not None
    assert after >= 200_000_000
    assert after - before < 300_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage of Linux begins with the parent's memory")
def test_the_peak_is_not_that_of_the_parent():
    block = np.ones(400_000_000, np.uint8)
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < block.nbytes
