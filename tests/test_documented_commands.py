"""Every command in README.md, docs/ and their like: run where that is cheap, its options read where it isn't.

What no test can do: apt-get and pip change the machine (of pip, the extras that it names are checked), Jupyter opens a
browser, and what .ci/run does holds this test itself.
"""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from kronnx.tools.commands.arguments import parse
from kronnx.tools.commands.cli import main
from kronnx.tools.commands.exit_codes import BUDGET, DONE, GATE
from kronnx.tools.job.pipeline_text import parse as parse_pipeline

ROOT = Path(__file__).parents[1]
PAGES = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md"))
FENCED = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHECKS = ("ruff", "lint-imports", "basedpyright")
PROGRAMS = ("optimize", "kronnx", "python", "python3", "pip", "apt-get", "bash", "jupyter", *CHECKS)
INDENTED = re.compile(rf"^    (?:{'|'.join(PROGRAMS)}) (?:.*\\\n)*.*", re.MULTILINE)
OF_THE_PAGE = "still"  # the pass that docs/writing-passes.md makes, and tests/test_writing_passes.py runs


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Page and words of each command, without the folder of its program."""
    found = []
    for page in sorted(PAGES):
        text = page.read_text("utf-8")
        lines = "\n".join((*FENCED.findall(text), *INDENTED.findall(text))).replace("\\\n", " ").splitlines()
        for line in lines:
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                found.append((page.relative_to(ROOT).as_posix(), (Path(words[0]).name, *words[1:end])))
                words = words[end + 1 :]
    return found


COMMANDS = commands()


def of(*programs: str) -> list[tuple[str, ...]]:
    return sorted({words for _, words in COMMANDS if words[0] in programs})


def test_every_program_is_known():
    assert {words[0] for _, words in COMMANDS} <= set(PROGRAMS)
    assert {"optimize", "kronnx", "python", "pip"} <= {words[0] for _, words in COMMANDS}


@pytest.mark.parametrize("words", of("optimize", "kronnx"), ids=" ".join)
def test_the_options_of_a_command_are_read(words):
    options = parse(words[1:])
    pipeline = getattr(options, "passes", "svd")
    if OF_THE_PAGE not in pipeline:
        parse_pipeline(pipeline)


@pytest.fixture
def folder(mlp: onnx.ModelProto, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages speak of, and the examples."""
    onnx.save(mlp, tmp_path / "model.onnx")
    for name in ("inputs.npz", "train.npz"):
        np.savez(tmp_path / name, x=rng.normal(size=(256, 8)).astype(np.float32))
    (tmp_path / "examples").mkdir()
    for file in ROOT.glob("examples/lenet5*.[on]*[xyz]"):
        (tmp_path / "examples" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def runs_here(words: tuple[str, ...]) -> bool:
    given = words[1] in ("model.onnx", "examples/lenet5.onnx") or words[1:3] == ("sensitivity", "model.onnx")
    return "--list-passes" in words or (given and not any(OF_THE_PAGE in word for word in words))


@pytest.mark.parametrize("words", [words for words in of("optimize", "kronnx") if runs_here(words)], ids=" ".join)
def test_a_command_on_an_onnx_model_runs_as_it_is_printed(folder, words, capsys):
    assert main(words[1:]) in (DONE, GATE, BUDGET)
    assert "Traceback" not in capsys.readouterr().err


MODULES = sorted({words[2] for words in of("python") if words[1] == "-m" and words[2].startswith("kronnx")})


@pytest.mark.parametrize("module", MODULES)
def test_a_module_knows_the_flags_that_it_is_given(module, tmp_path):
    pytest.importorskip("torch")
    line = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=True)
    given = {word for words in of("python") if module in words for word in words if word.startswith("--")}
    assert given <= set(re.findall(r"--[\w-]+", done.stdout))


@pytest.mark.parametrize("words", [w for w in of("python") if w[1].endswith(".py")], ids=" ".join)
def test_a_script_is_there(words):
    assert (ROOT / words[1]).is_file()


@pytest.mark.parametrize("words", of("pip"), ids=" ".join)
def test_the_extras_exist_and_nothing_is_taken_from_an_index_that_lacks_it(words):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {extra for word in words for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")}
    assert named <= set(extras)
    assert not any(word.startswith("kronnx") for word in words)
