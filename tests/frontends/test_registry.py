"""Frontends of other packages that can't be used or fail: they are named, and stop nothing that they don't read."""

import onnx
import pytest
from kronnx.frontends import registry
from kronnx.frontends.torch import Torch
from kronnx.tools.commands.cli import main

FRONTEND = """
from pathlib import Path
import kronnx, numpy as np, onnx_ir

class Toy(kronnx.Frontend):
    name = "toy"

    def reads(self, source):
        return isinstance(source, Path) and source.suffix == ".toy"

    def lower(self, source, examples):
        return self.made(onnx_ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["": 20]> n (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'))

    def made(self, model, answer=0.0):
        feed = {"x": -np.ones((2, 4), np.float32)}
        answers = {"y": np.full((2, 4), answer, np.float32)}
        return kronnx.Lowered(model, "toy 1", feed, answers, lambda: kronnx.Probe(model, ()))
"""
BY = "error: the frontend 'toy' (plug-in 1.0)"
FAULTS = {
    "lower": (
        "def lower(self, source, examples): raise KeyError('l')",
        7,
        f"{BY} failed in lower: KeyError: 'l' (plug_in.py:",
    ),
    "its word": ("def lower(self, source, examples): raise kronnx.UsageError('no')", 2, "error: no\n"),
    "no Lowered": ("def lower(self, source, examples): return 3", 7, f"{BY} gave int in the place of Lowered"),
    "no model": (
        "def lower(self, source, examples): return self.made(onnx_ir.from_onnx_text("
        "'<ir_version: 10, opset_import: [\"\": 20]> n (float[N,4] x) => (float[N,4] y) { y = NoSuchOp(x) }'))",
        7,
        f"{BY} gave a model that is not valid: ",
    ),
    "no run": (
        "def lower(self, source, examples): return self.made(onnx_ir.from_onnx_text("
        '\'<ir_version: 10, opset_import: ["": 20, "odd": 1]> n (float[N,4] x) => (float[N,4] y) { y = odd.Op(x) }\'))',
        7,
        f"{BY} failed in lower: the model that it gave doesn't run: InputError: ",
    ),
    "another model": (
        "def lower(self, source, examples): return self.made(onnx_ir.from_onnx_text("
        "'<ir_version: 10, opset_import: [\"\": 20]> n (float[N,4] x) => (float[N,4] y) { y = Abs(x) }'))",
        4,
        f"{BY}: the model that toy 1 gave is not the original",
    ),
}


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "model.toy"
    path.write_bytes(b"\x00toy")
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_a_frontend_of_another_package_is_named_with_its_package(registered, toy, capsys, fault):
    code, status, message = FAULTS[fault]
    registered(f"{FRONTEND}\n    {code}\n", "toy = plug_in:Toy", "kronnx.frontends")
    assert main(["convert", str(toy), "--quiet"]) == status
    said = capsys.readouterr().err
    assert said.startswith(message), said
    assert not toy.with_suffix(".onnx").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_like_it", "of plug-in 1.0 can't be imported: ModuleNotFoundError"),
        (
            f"{FRONTEND}\n    def reads(self, source): return source.nothing\n",
            "(plug-in 1.0) failed in reads: AttributeError",
        ),
    ],
)
def test_one_that_can_not_be_asked_stops_only_what_nobody_reads(
    registered, toy, mlp_path, capsys, tmp_path, text, reason
):
    registered(text, "toy = plug_in:Toy", "kronnx.frontends")
    assert main([str(mlp_path), "-p", "cleanup", "--quiet", "--cache-dir", str(tmp_path)]) == 0
    assert main([str(toy), "--quiet"]) == 3
    assert reason in capsys.readouterr().err
    assert main(["convert", str(toy), "--quiet"]) == 2
    assert reason in capsys.readouterr().err


def test_a_frontend_of_kronnx_that_fails_stays_a_bug_in_kronnx(toy, capsys, monkeypatch):
    def fails(self, source, examples):
        raise KeyError("k")

    monkeypatch.setattr(Torch, "reads", lambda self, source: True)
    monkeypatch.setattr(Torch, "lower", fails)
    assert main(["convert", str(toy), "--quiet"]) == 1
    assert "this is a bug, please report it" in capsys.readouterr().err


def test_an_onnx_file_is_read_by_no_frontend(mlp_path):
    assert registry.search(mlp_path) == registry.Search(None)
    assert onnx.load(mlp_path).graph.name == "mlp"
