"""A command that is killed at any moment leaves its input as it was, an output that is whole, and nothing else that the
next run doesn't remove."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.model import load
from kronnx.ir.model.weights import weights
from networks import build, set_weight

Weights = dict[str, bytes]
SAVING = """
import sys
from pathlib import Path
from kronnx.ir.model import load, save
from kronnx.tools.report.records import write_atomically
first, second, out = map(Path, sys.argv[1:])
models = [load(first), load(second)]
print("ready", flush=True)
while True:
    for number, model in enumerate(models):
        save(model, out / "o.onnx", external_data=True)
        write_atomically(out / "r.json", str(number) * 1000)
"""


@dataclass(frozen=True)
class Place:
    """A folder for each thing, so that what is left where shows."""

    folder: Path

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "TMPDIR": str(self.folder / "tmp"),
            "OMP_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        }
        command = [sys.executable, *map(str, words)]
        return subprocess.Popen(command, env=environment, cwd=self.folder, stdout=subprocess.PIPE, text=True)

    def optimize(self, rank: str) -> subprocess.Popen[str]:
        words = ["-m", "kronnx", "in/m.onnx", "-p", f"svd{{rank={rank}}}", "--data", "in/x.npz", "--cache-dir", "cache"]
        return self.start(*words, "-o", "out/o.onnx", "--external-data", "--report", "out/r.json", "--quiet", "--fresh")

    def finished(self, rank: str) -> Weights:
        assert self.optimize(rank).wait() == 0
        self.check_clean()
        return self.output()

    def output(self) -> Weights:
        """The weights of the output, by this reader and by that of the format."""
        onnx.load(self.folder / "out" / "o.onnx")
        return {name: tensor.tobytes() for name, tensor in weights(load(self.folder / "out" / "o.onnx"))}

    def input(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (self.folder / "in").iterdir()}

    def check_clean(self) -> None:
        """Nothing is in the folders but results."""
        assert sorted(os.listdir(self.folder / "out")) == ["o.onnx", "o.onnx.data", "r.json"]
        assert os.listdir(self.folder / "tmp") == []
        kept = [file for file in (self.folder / "cache").rglob("*") if file.is_file()]
        assert {file.suffix for file in kept} <= {".npz", ".json"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in ("in", "out", "tmp", "cache"):
        (tmp_path / name).mkdir()
    random = np.random.default_rng(0)
    model = build(
        "(float[N, 256] x) => (float[N, 10] y) <float[256, 512] a, float[512, 10] b> {\n"
        "h = MatMul(x, a)\nr = Relu(h)\ny = MatMul(r, b) }"
    )
    for name, shape in (("a", (256, 512)), ("b", (512, 10))):
        set_weight(model, name, random.normal(size=shape).astype(np.float32) / 16)
    onnx_ir.save(model, tmp_path / "in" / "m.onnx", external_data="m.onnx.data")
    np.savez(tmp_path / "in" / "x.npz", x=random.normal(size=(64, 256)).astype(np.float32))
    return Place(tmp_path)


@pytest.mark.slow
def test_50_kills_at_random_moments_lose_nothing(place: Place, rng):
    before = place.input()
    whole = [place.finished("0.25"), place.finished("0.5")]
    start = time.monotonic()
    assert place.finished("0.25") == whole[0]
    seconds = time.monotonic() - start
    for number in range(50):
        run = place.optimize(("0.25", "0.5")[number % 2])
        time.sleep(rng.uniform(0, seconds))
        run.kill()
        run.wait()
        assert place.output() in whole
        assert place.input() == before
    assert place.finished("0.5") == whole[1]


@pytest.mark.slow
def test_100_kills_while_files_are_written_lose_nothing(place: Place, rng):
    pairs, found = [place.folder / "one.onnx", place.folder / "two.onnx"], set()
    for value, path in enumerate(pairs):
        model = build("(float[N, 1024] x) => (float[N, 1024] y) <float[1024, 1024] w> { y = MatMul(x, w) }")
        set_weight(model, "w", np.full((1024, 1024), value, np.float32))
        onnx_ir.save(model, path)
    for number in range(100):
        run = place.start("-c", SAVING, *pairs, place.folder / "out")
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.3) if number else 3)  # at the first time there is a whole output
        run.kill()
        run.wait()
        found.add(place.output()["w"])
        assert len(set((place.folder / "out" / "r.json").read_text())) == 1
    place.finished("0.5")
    assert found == {np.full((1024, 1024), value, np.float32).tobytes() for value in (0, 1)}
