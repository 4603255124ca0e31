"""A user's function changes training samples; what it raises and what doesn't fit is said."""

from pathlib import Path

import numpy as np
import pytest
from kronnx.ir.errors import DataError
from kronnx.runtime.data.augmentation import augmentation

FUNCTIONS = """
import numpy as np

def noisy(feed, rng):
    from noise_scale import SCALE
    return {**feed, "x": feed["x"] + SCALE * rng.normal(size=feed["x"].shape).astype(np.float32)}
def flipped(feed, rng): return {"k": feed["k"], "x": feed["x"][:, ::-1]}
def in_place(feed, rng):
    feed["x"][:] = 0
    feed["k"] += 1
    return feed
class Halved:
    def __call__(self, feed, rng): return {k: v // 2 if k == "k" else v / np.float32(2) for k, v in feed.items()}
halved = Halved()

def nothing(feed, rng): pass
def broken(feed, rng): return {"x": feed["y"]}
def renamed(feed, rng): return {"z": feed["x"], "k": feed["k"]}
def wide(feed, rng): return {**feed, "x": feed["x"].astype(np.float64)}
def short(feed, rng): return {**feed, "x": feed["x"][:1]}
def infinite(feed, rng): return {**feed, "x": feed["x"] + np.float32("inf")}
def lonely(feed): return feed
def greedy(feed, rng, strength): return feed
NUMBER = 3
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    (tmp_path / "noise_scale.py").write_text("SCALE = 2\n")
    (tmp_path / "augment.py").write_text(FUNCTIONS)
    return tmp_path / "augment.py"


@pytest.fixture
def feed() -> dict[str, np.ndarray]:
    return {"x": np.arange(12, dtype=np.float32).reshape(3, 4), "k": np.array(5)}


def test_randomness_comes_from_the_generator(functions, feed):
    function = augmentation(f"{functions}:noisy")
    first, again, other = (function(feed, np.random.default_rng(s))["x"] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    expected = feed["x"] + 2 * np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(first, expected)


def test_a_module_is_named_without_its_suffix(functions, feed, monkeypatch):
    monkeypatch.chdir(functions.parent)
    function = augmentation("augment:flipped")
    monkeypatch.chdir("/")
    result = function(feed, np.random.default_rng(0))
    assert list(result) == ["x", "k"]
    assert result["x"].flags.c_contiguous
    np.testing.assert_array_equal(result["x"], feed["x"][:, ::-1])


def test_the_given_feed_stays_as_it_is(functions, feed):
    for array in feed.values():
        array.flags.writeable = False
    result = augmentation(f"{functions}:in_place")(feed, np.random.default_rng(0))
    assert (result["x"].max(), result["k"], result["k"].shape) == (0, 6, ())
    assert (feed["x"].max(), feed["k"]) == (11, 5)


def test_an_object_that_can_be_called_is_a_function_too(functions, feed):
    result = augmentation(f"{functions}:halved")(feed, np.random.default_rng(0))
    np.testing.assert_array_equal(result["x"], feed["x"] / 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "returned NoneType; wanted the changed feed"),
        ("broken", r"failed at augment.py:17: KeyError: 'y'"),
        ("renamed", "returned 'z', 'k'; wanted 'x', 'k'"),
        ("wide", r"returned 'x' as float64\[3, 4\]; wanted float32\[3, 4\].*; \.astype\('float32'\)"),
        ("short", r"returned 'x' as float32\[1, 4\]; wanted float32\[3, 4\], as it was given$"),
        ("infinite", "returned NaN or infinite values in 'x'"),
    ],
)
def test_what_makes_no_such_feed_is_an_error(functions, feed, name, message):
    function = augmentation(f"{functions}:{name}")
    with pytest.raises(DataError, match=f"augment.py:{name} {message}"):
        function(feed, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lonely", r"can't be called as lonely\(feed, generator\): too many positional arguments"),
        ("greedy", r"can't be called as greedy\(feed, generator\): missing a required argument: 'strength'"),
        ("NUMBER", "has no function 'NUMBER'"),
        ("absent", "has no function 'absent'; it has .*noisy"),
    ],
)
def test_a_function_that_does_not_take_a_feed_and_a_generator_is_an_error(functions, name, message):
    with pytest.raises(DataError, match=message):
        augmentation(f"{functions}:{name}")


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        augmentation(f"{tmp_path}/absent.py:noisy")
