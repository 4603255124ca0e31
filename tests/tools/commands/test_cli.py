"""The command line: arguments, files, exit codes and streams, mostly with a driver that returns at once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
from kronnx.ir.errors import BudgetError, UsageError, VerifyError
from kronnx.tools.commands import arguments
from kronnx.tools.commands.cli import main
from kronnx.tools.report.records import DataRecord, Figures, GateRecord, Report

REPORT = Report(
    input="mlp.onnx",
    output=None,
    pipeline="svd,prune",
    before=Figures(200, 192, 1100),
    after=Figures(100, 96, 600),
    gate=GateRecord("kl", 0.01, 0.004),
    data=DataRecord("inputs.npz", False, 40, 12, 12),
    verdict="1.83x smaller",
)


@dataclass(frozen=True)
class FakeResult:
    report: Report

    def save(self, path: Path, external_data: bool | None = None) -> None:
        Path(path).write_text("a model")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """driver(x): replaces the job by one that returns the report x, or raises the exception x."""

    def install(given: Report | BaseException = REPORT) -> None:
        def optimized(sources, settings, progress) -> FakeResult:
            if isinstance(given, BaseException):
                raise given
            return FakeResult(given)

        fake = ModuleType("kronnx.tools.job.optimize")
        fake.optimized = optimized
        monkeypatch.setitem(sys.modules, "kronnx.tools.job.optimize", fake)

    return install


def run(*words: object) -> int:
    return main([str(word) for word in words])


def command(*words: object, **options) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "kronnx", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.mark.parametrize("words", [["-h"], ["sensitivity", "-h"]])
def test_help_imports_nothing_heavy(words):
    line = [sys.executable, "-X", "importtime", "-m", "kronnx", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "kronnx.tools.commands.cli" in imported
    assert {"numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "scipy"}.isdisjoint(imported)


def test_an_interruption_while_it_starts_is_one_message():
    code = (
        "import sys\n"
        "from kronnx.__main__ import main\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'kronnx.tools.commands.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted; no model was written\n")


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_end_waits_for_a_library_that_would_take_it_for_its_own_fault(tmp_path, mlp_path, number, code):
    """Compiled libraries make an ImportError of whatever is raised while they are imported."""
    (tmp_path / "onnxruntime.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        "    time.sleep(0.1)\n"
        "except BaseException as e:\n"
        "    raise ImportError('initialization failed') from e\n"
        "def __getattr__(name): time.sleep(9)\n"
    )
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.path.append({os.getcwd()!r})\n"
    script += f"sys.argv[1:] = [{str(mlp_path)!r}]\nfrom kronnx.__main__ import main\nsys.exit(main())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "can't be loaded" not in done.stderr
    assert "Traceback" not in done.stderr


def test_version_names_packages_and_providers():
    said = dict(line.split(maxsplit=1) for line in command("--version").stdout.splitlines())
    assert {"kronnx", "onnx", "onnx-ir", "onnxruntime"} <= set(said)
    assert said["providers"].startswith("cpu")


def test_list_passes_shows_options_with_types_and_defaults(capsys):
    assert run("--list-passes") == 0
    said = capsys.readouterr().out
    assert {"cleanup", "project", "prune", "svd"} <= {line.split()[0] for line in said.splitlines()}
    assert "layers=*" in said
    assert "float | None" in said


def test_the_model_is_written_beside_the_input(driver, mlp_path, capsys):
    driver()
    assert run(mlp_path) == 0
    assert mlp_path.with_name("mlp.opt.onnx").read_text() == "a model"
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: 1.83x smaller"


def test_the_model_is_written_where_it_is_wanted(driver, mlp_path, tmp_path):
    driver()
    assert run(mlp_path, "-o", tmp_path / "small.onnx", "--quiet") == 0
    assert (tmp_path / "small.onnx").exists()
    assert not mlp_path.with_name("mlp.opt.onnx").exists()


def test_the_report_says_where_the_model_is(driver, mlp_path, tmp_path, capsys):
    driver()
    assert run(mlp_path, "--report", tmp_path / "report.json", "--json") == 0
    written = (tmp_path / "report.json").read_text("utf-8")
    assert capsys.readouterr().out == written
    assert json.loads(written)["output"] == str(mlp_path.with_name("mlp.opt.onnx"))


def test_a_dry_run_writes_no_model(driver, mlp_path, tmp_path, capsys):
    driver()
    assert run(mlp_path, "--dry-run") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["mlp.onnx"]
    assert "dry run: no model was written" in capsys.readouterr().out


def test_quiet_prints_nothing(driver, mlp_path, capfd):
    driver()
    assert run(mlp_path, "--quiet") == 0
    assert capfd.readouterr() == ("", "")


def test_remarks_of_no_site_are_said(driver, mlp_path, capsys):
    driver()
    assert run(mlp_path, "--remarks") == 0
    assert capsys.readouterr().out.startswith("no sites")


def test_beyond_the_gate_the_table_is_shown_and_no_model_written(driver, mlp_path, tmp_path, capsys):
    driver(replace(REPORT, gate=GateRecord("kl", 0.01, 0.5, passed=False)))
    assert run(mlp_path, "--report", tmp_path / "report.json") == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlp.onnx", "report.json"]
    said = capsys.readouterr()
    assert "NOT kept" in said.out
    assert said.err.startswith("error: beyond the gate")


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (UsageError("no pass 'x'"), 2, "error: no pass 'x'\n"),
        (VerifyError("no model"), 4, "error: no model\n"),
        (BudgetError("too slow"), 6, "error: too slow\n"),
        (
            KeyboardInterrupt(),
            130,
            "error: interrupted; no model was written; what was measured is kept for the next run\n",
        ),
        (MemoryError(), 3, "error: out of memory; lower --memory-limit, give fewer --data, or use a larger machine\n"),
        (OSError(28, "No space left on device"), 3, "error: [Errno 28] No space left on device\n"),
    ],
)
def test_each_failure_has_its_exit_code_and_one_message(driver, mlp_path, tmp_path, capsys, raised, code, message):
    driver(raised)
    assert run(mlp_path, "--quiet", "--report", tmp_path / "report.json") == code
    assert capsys.readouterr().err == message
    assert [p.name for p in tmp_path.iterdir()] == ["mlp.onnx"]


def test_a_bug_is_named_with_the_way_to_its_traceback(driver, mlp_path, capsys, monkeypatch):
    driver(KeyError("w"))
    assert run(mlp_path, "--quiet") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: internal error: KeyError: 'w'; this is a bug, please report it")
    assert "KRONNX_TRACEBACK=1" in said
    assert "Traceback" not in said
    monkeypatch.setenv("KRONNX_TRACEBACK", "1")
    assert run(mlp_path, "--quiet") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no model given"),
        (["m.onnx", "--speedpu", "2"], "unknown option --speedpu; did you mean '--speedup'?"),
        (["m.onnx", "--repot=x"], "unknown option --repot; did you mean '--report'?"),
        (["m.onnx", "other.onnx"], "unexpected argument 'other.onnx'"),
        (["m.onnx", "--target", "cdua"], "did you mean 'cuda'?"),
        (["m.onnx", "--threads", "0"], "'0' must be a whole number, 1 or more"),
        (["m.onnx", "--seed", "-1"], "--seed"),
        (["m.onnx", "--speedup", "fast"], "'fast' is no number"),
        (["m.onnx", "--speedup", "0.5"], "--speedup 0.5: must be a ratio above 1"),
        (["m.onnx", "--size", "50"], "--size 50: must be the share"),
        (["m.onnx", "--confidence", "95"], "--confidence 95: must be at least 0 and below 1"),
        (["m.onnx", "--max-drop", "acc=1"], "accuracy needs --labels"),
        (["m.onnx", "--labels", "l.npy"], "give --eval-data, or --data"),
        (["m.onnx", "--head", "logits"], "must be NAME=KIND"),
        (["m.onnx", "--head", "logits=categoric"], "did you mean 'categorical'?"),
        (["m.onnx", "--memory-limit", "4"], "'4' is less than a megabyte; write 800M or 4G"),
        (["m.onnx", "--memory-limit", "much"], "'much' is no size"),
        (["m.onnx", "--temperature", "2"], "--temperature is an option of kronnx sensitivity, not of optimize"),
        (["sensitivity"], "no model given; say for instance: kronnx sensitivity model.onnx"),
        (["senstivity", "m.onnx"], "did you mean: kronnx sensitivity m.onnx?"),
        (["--quiet", "sensitivity", "m.onnx"], "did you mean: kronnx sensitivity m.onnx?"),
        (["sensitivity", "m.onnx", "other.onnx"], "unexpected argument 'other.onnx': one model at a time"),
        (
            ["sensitivity", "m.onnx", "--max-drop", "1"],
            "--max-drop is an option of optimize, not of",
        ),
        (["sensitivity", "m.onnx", "--temprature", "1"], "did you mean '--temperature'?"),
        (["sensitivity", "m.onnx", "--temperature", "0"], "'0' must be a number above 0"),
        (["sensitivity", "m.onnx", "--threads", "no"], "'no' must be a whole number"),
    ],
)
def test_what_can_not_be_meant_is_refused(words, message, capsys):
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said


def test_the_first_word_tells_the_command_and_a_path_the_file_of_that_name():
    given = (["sensitivity", "m.onnx"], ["optimize", "m.onnx"], ["./sensitivity"], ["./optimize"])
    for words, command in zip(given, ("sensitivity", "optimize", "optimize", "optimize"), strict=True):
        assert arguments.parse(words).command == command
    assert arguments.parse(["./sensitivity"]).model == Path("sensitivity")


def test_a_memory_limit_is_bytes():
    assert arguments.parse(["m.onnx", "--memory-limit", "1.5G"]).memory_limit == 1_500_000_000
    assert arguments.parse(["sensitivity", "m.onnx"]).memory_limit is None


def test_heads_are_read_by_name():
    options = arguments.parse(["m.onnx", "--head", "a=b=gaussian", "--head", "logits=categorical"])
    assert options.heads == {"a=b": "gaussian", "logits": "categorical"}


@pytest.mark.skipif(os.name == "nt", reason="pipes of Windows have no SIGPIPE")
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["sensitivity", "--help"]])
def test_a_reader_that_went_away_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "kronnx", *words]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) in [(141, ""), (0, "")]  # argparse itself ignores that nobody reads its help


def test_main_job_writes_a_model_that_runs_and_twice_the_same(mlp_path, data_path, tmp_path, capsys):
    small, report = tmp_path / "small.onnx", tmp_path / "report.json"
    words = (mlp_path, "-p", "svd{rank=0.5}", "--data", data_path, "-o", small, "--cache-dir", tmp_path / "cache")
    assert run(*words, "--report", report) == 0
    assert "warning: outputs moved: KL " in capsys.readouterr().out
    first = small.read_bytes()
    figures = json.loads(report.read_text("utf-8"))
    assert figures["after"]["parameters"] < figures["before"]["parameters"]
    assert {site["pass"] for site in figures["sites"]} == {"svd"}
    assert run(*words, "--quiet") == 0
    assert small.read_bytes() == first


def test_main_job_says_that_no_real_data_guided_it(mlp_path, tmp_path, capsys):
    assert run(mlp_path, "-o", tmp_path / "small.onnx", "--cache-dir", tmp_path / "cache") == 0
    assert "No real data guided this" in capsys.readouterr().out


def test_python_offers_what_the_command_does(mlp_path, data_path, tmp_path):
    import kronnx

    result = kronnx.optimize(mlp_path, passes="svd", data=str(data_path), cache_dir=tmp_path / "cache")
    result.save(tmp_path / "small.onnx")
    assert [v.name for v in kronnx.load(tmp_path / "small.onnx").graph.outputs] == ["y"]
    assert result.report.data.synthetic is False
