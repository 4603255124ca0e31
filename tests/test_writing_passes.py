"""The walk through docs/writing-passes.md, as it is written: made, installed, run; and entry points gone wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import kronnx
import numpy as np
import onnx_ir
import pytest
from kronnx.passes.registry import available
from kronnx.tools.commands.cli import main
from networks import parsed

PAGE = Path(__file__).parents[1] / "docs" / "writing-passes.md"
BLOCK = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(*words: object, site: Path, cwd: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    line = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page."""
    folder = tmp_path_factory.mktemp("kronnx-still")
    for name, text in BLOCK.findall(PAGE.read_text("utf-8")):
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package is installed into."""
    target = tmp_path_factory.mktemp("site")
    quick = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    done = run("pip", "install", *quick, "--target", target, package, site=Path(), cwd=package)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A wide layer, three quarters of whose inputs never change, with samples."""
    text = """(float[N, 512] x) => (float[N, 8] logits) <float[512, 64] a, float[64] b, float[64, 8] c> {
        h = Gemm(x, a, b)  t = Tanh(h)  logits = MatMul(t, c) }"""
    onnx_ir.save(parsed(text), tmp_path / "model.onnx")
    x = rng.normal(size=(200, 512)).astype(np.float32)
    x[:, 128:] = 1.5
    np.savez(tmp_path / "x.npz", x=x)
    return tmp_path


def test_the_page_has_a_pass_a_package_and_a_test(package):
    assert {p.name for p in package.iterdir()} == {
        *("kronnx_still.py", "kronnx_merge.py", "kronnx_bytes.py", "pyproject.toml", "test_kronnx_still.py")
    }
    assert len((package / "kronnx_still.py").read_text("utf-8").splitlines()) < 70


def test_the_pass_is_listed_with_its_options(site, folder):
    said = run("kronnx", "--list-passes", site=site, cwd=folder).stdout
    assert re.search(r"^still +Inputs that hardly vary are no longer read.*\n +share=None +float \| None$", said, re.M)


@pytest.mark.parametrize("words", [("still{share=0.75}",), ("still", "--size", "0.3")])
def test_the_pass_changes_a_model_from_the_command_line(site, folder, words):
    options = ("--data", "x.npz", "--cache-dir", folder, "--report", "report.json", "--quiet")
    done = run("kronnx", "model.onnx", "-p", *words, *options, site=site, cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert report["after"]["parameters"] < 0.3 * report["before"]["parameters"]
    assert report["divergence"]["kl_mean"] < 0.01
    assert (folder / "model.opt.onnx").exists()
    assert {s["name"]: s["reason"] for s in report["sites"]} == {"Gemm_0": "applied", "MatMul_0": "not-fit"}


def test_a_misspelt_option_of_the_pass_is_explained(site, folder):
    done = run("kronnx", "model.onnx", "-p", "still{shere=0.5}", site=site, cwd=folder)
    assert (done.returncode, done.stderr) == (2, "error: still: no option 'shere'; did you mean 'share'?\n")


def test_the_tests_of_the_page_pass(site, package):
    done = run("pytest", "-q", "-p", "no:cacheprovider", "test_kronnx_still.py", site=site, cwd=package)
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


PASS = """
import kronnx

class Mine(kronnx.Pass):
    name = "{name}"
    def wants(self, analyses): return ()
    def propose(self, context): return kronnx.Proposal(())
    def apply(self, candidate, context, rewriter): pass
"""


@pytest.mark.parametrize(
    ("text", "entry", "message"),
    [
        ("Mine = 3", "mine = plug_in:Mine", r"'mine' of kronnx.passes \(plug_in:Mine\) of plug-in 1.0 is no pass"),
        ("class Mine: pass", "mine = plug_in:Mine", "is no pass: a subclass of kronnx.Pass"),
        (
            "import kronnx\nclass Mine(kronnx.Pass): name = 'mine'",
            "mine = plug_in:Mine",
            "with wants, propose and apply",
        ),
        (
            PASS.format(name="svd"),
            "svd = plug_in:Mine",
            "the pass 'svd' of plug_in:Mine of plug-in 1.0 has the name of one that exists",
        ),
        (
            PASS.format(name="recover"),
            "recover = plug_in:Mine",
            "the pass 'recover' of plug_in:Mine of plug-in 1.0 has the name of one that exists",
        ),
        (PASS.format(name="other"), "mine = plug_in:Mine", "calls itself 'other'"),
        (
            "import nothing_like_it",
            "mine = plug_in:Mine",
            "can't be imported: ModuleNotFoundError: .*'nothing_like_it'",
        ),
        ("", "mine = plug_in:Mine", "can't be imported"),
    ],
)
def test_an_entry_point_gone_wrong_stops_the_pipeline_that_names_it(registered, mlp_path, capsys, text, entry, message):
    registered(text, entry)
    assert main([str(mlp_path), "--quiet", "-p", entry.partition(" ")[0]]) == 7
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert re.search(message, said), said


def test_a_pass_that_fits_is_found(registered):
    registered(PASS.format(name="mine"), "mine = plug_in:Mine")
    assert issubclass(available().working["mine"], kronnx.Pass)


def test_an_entry_point_gone_wrong_stops_no_other_pipeline_and_is_listed(registered, mlp_path, tmp_path, capsys):
    registered("import nothing_like_it", "mine = plug_in:Mine")
    assert main([str(mlp_path), "--quiet", "-p", "cleanup", "--cache-dir", str(tmp_path)]) == 0
    assert main(["--list-passes"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^mine +broken: .*plug-in 1\.0 can't be imported: ModuleNotFoundError.*nothing_like_it", said, re.M
    )
    assert re.search(r"^svd +[A-Z]", said, re.M)


def test_what_the_author_of_a_pass_needs_is_public():
    written = set(
        re.findall(r"\bkronnx\.([A-Za-z_]+)", "".join(text for _, text in BLOCK.findall(PAGE.read_text("utf-8"))))
    )
    assert written - {"passes"} <= set(kronnx.__all__)
    assert set(kronnx.HOMES) | {"__version__"} == set(kronnx.__all__)
    assert all(getattr(kronnx, name).__name__ == name for name in kronnx.HOMES)
