"""What can be given as a model, from Python and on the command line; framework models themselves: tests/frontends."""

import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import kronnx
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.errors import DataError, InputError, UsageError
from kronnx.tools.commands.cli import main
from kronnx.tools.commands.destination import LOWERED, OPTIMIZED, default_output
from kronnx.tools.job.function_names import is_function
from kronnx.tools.job.model_sources import examples_of, read
from kronnx.tools.job.sources import Sources
from kronnx.tools.report.progress import Silent

FACTORY = """
from onnx import parser

NET = '<ir_version: 10, opset_import: ["": 20]> net (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'

def make():
    return parser.parse_model(NET)

def broken():
    raise ZeroDivisionError("on purpose")

def number():
    return 3

def leaves():
    raise SystemExit(5)

def loud():
    print("hello")
    return make()

def picky(size):
    return make()

class Thing:
    pass

def kind():
    return Thing

def lazy():
    import beside_the_net
    return make()

def example():
    import numpy as np
    return {"x": np.ones((3, 4), "float32")}
"""

FRONTEND = """
import numpy as np, onnx_ir, kronnx
from onnx import parser
from pathlib import Path

class Text(kronnx.Frontend):
    name = "text"

    def reads(self, source):
        return isinstance(source, Path) and source.suffix == ".net"

    def lower(self, source, examples):
        model = onnx_ir.from_proto(parser.parse_model(source.read_text()))
        x = np.arange(8, dtype=np.float32).reshape(2, 4) - 4
        return kronnx.Lowered(model, "text 1", {"x": x}, {"y": np.maximum(x, 0)}, lambda: kronnx.Probe(model, ()))
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(FACTORY)
    return tmp_path / "net.py"


def source_of(given: object):
    return read(Sources(given), Silent())


def test_an_onnx_file_is_itself(mlp_path):
    found = source_of(mlp_path)
    assert (found.name, found.file, found.notes) == (str(mlp_path), mlp_path, ())
    assert found.size == mlp_path.stat().st_size


@pytest.mark.parametrize("kind", [onnx.ModelProto, onnx_ir.Model])
def test_an_onnx_model_in_memory_is_optimized(mlp, kind, data_path, tmp_path):
    model = mlp if kind is onnx.ModelProto else onnx_ir.from_proto(mlp)
    result = kronnx.optimize(model, "svd{rank=0.5}", data=str(data_path), cache_dir=tmp_path / "cache")
    assert result.report.after.parameters < result.report.before.parameters
    result.save(tmp_path / "small.onnx")
    onnx.checker.check_model(tmp_path / "small.onnx")


def test_an_unchanged_model_in_memory_is_saved_as_it_is(mlp, data_path, tmp_path):
    result = kronnx.optimize(mlp, "svd", data=str(data_path), max_drop="kl=1e-12", cache_dir=tmp_path / "cache")
    assert result.unchanged is None
    result.save(tmp_path / "same.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "same.onnx").graph.node] == [
        n.op_type for n in mlp.graph.node
    ]


def test_arrays_serve_as_data_and_labels(mlp_path, rng, tmp_path):
    x = rng.normal(size=(96, 8)).astype(np.float32)
    options = {"data": x[:64], "eval_data": {"x": x[64:]}, "labels": rng.integers(0, 4, 32)}
    report = kronnx.optimize(mlp_path, "svd{rank=0.5}", cache_dir=tmp_path / "cache", **options).report
    assert (report.data.calibration, report.data.evaluation, report.accuracy.samples) == (45, 32, 32)


def test_paths_serve_as_data_and_labels(mlp_path, data_path, tmp_path):
    np.save(tmp_path / "labels.npy", np.zeros(64, np.int64))
    options = {"data": data_path, "labels": tmp_path / "labels.npy", "cache_dir": tmp_path / "cache"}
    assert kronnx.optimize(mlp_path, "svd{rank=0.5}", **options).report.accuracy.samples > 0


def test_a_single_label_is_refused(mlp_path, data_path):
    with pytest.raises(DataError, match="1 labels for 64 samples"):
        kronnx.optimize(mlp_path, data=data_path, labels=np.int64(3))


def test_one_array_for_a_model_of_two_inputs_is_refused(tmp_path):
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[N,2] a, float[N,2] b) => (float[N,2] y) { y = Add(a, b) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "add.onnx")
    with pytest.raises(DataError, match=r"one array was given, the model has 2 inputs.*'a', 'b'"):
        kronnx.optimize(tmp_path / "add.onnx", data=np.zeros((8, 2), np.float32))


def test_a_function_of_a_file_or_module_gives_the_model(module, monkeypatch):
    assert source_of(f"{module}:make").name == f"{module}:make"
    monkeypatch.chdir(module.parent)
    assert [node.op_type for node in source_of("net:make").model.graph] == ["Relu"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", r"broken failed at net\.py:10: ZeroDivisionError: on purpose"),
        ("missing", "no function 'missing'; it has make, broken"),
        ("number", r"is no model but of type int; wanted a Keras model, a torch\.nn\.Module"),
        ("leaves", r"leaves failed at net\.py:\d+: SystemExit: 5"),
        ("picky", r"picky needs arguments \(size\)"),
        ("kind", r"is the class Thing; a model is wanted: Thing\(\.\.\.\)"),
    ],
)
def test_a_function_gone_wrong_is_explained(module, function, message):
    with pytest.raises(InputError, match=message):
        source_of(f"{module}:{function}")


def test_what_is_beside_a_file_can_be_imported_by_its_function(module):
    (module.parent / "beside_the_net.py").touch()
    assert source_of(f"{module}:lazy").name.endswith(":lazy")


def test_what_a_function_prints_is_no_output(module, tmp_path, capsys):
    assert main(["convert", f"{module}:loud", "-o", str(tmp_path / "out.onnx"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_an_unknown_module_is_named():
    with pytest.raises(DataError, match="no module 'nowhere' in the working folder"):
        source_of("nowhere:make")


def test_a_name_is_a_function_only_where_no_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_function("net.py:make")
    assert not is_function("model.onnx")
    assert not is_function("net.py:two words")
    (tmp_path / "a:b").touch()
    assert not is_function("a:b")


def test_an_input_that_is_declared_twice_is_refused():
    with pytest.raises(UsageError, match="'x' is declared twice"):
        examples_of(Sources(None, inputs=["x=[3]", "x=[4]"]))


def test_an_iterator_without_examples_is_refused():
    with pytest.raises(DataError, match="gives nothing"):
        examples_of(Sources(None, iter(())))


def test_a_tuple_of_samples_and_labels_is_refused(mlp_path):
    with pytest.raises(DataError, match="labels are given as labels"):
        kronnx.optimize(mlp_path, data=(np.zeros((4, 8), np.float32), np.zeros(4, int)))


def test_declared_inputs_for_an_onnx_model_are_refused(mlp_path):
    with pytest.raises(UsageError, match="names its inputs itself"):
        kronnx.optimize(mlp_path, inputs="x=[batch,8]")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (np.ones((2, 3)), [(2, 3)]),
        ((np.ones(2), [1.0, 2.0, 3.0]), [(2,), (3,)]),
        ({"a": np.ones(4)}, {"a": (4,)}),
        (iter([{"a": np.ones(4)}, {"a": np.ones(5)}]), {"a": (4,)}),
    ],
)
def test_example_inputs_in_memory(given, wanted):
    arrays = examples_of(Sources(None, given)).arrays
    shapes = {k: v.shape for k, v in arrays.items()} if isinstance(arrays, dict) else [a.shape for a in arrays]
    assert shapes == wanted


def test_example_inputs_of_files_and_functions(module, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((2, 4)))
    np.save(tmp_path / "x.npy", np.ones((2, 5)))
    specs = (tmp_path / "x.npz", tmp_path / "x.npy", f"{module}:example")
    found = [examples_of(Sources(None, str(spec))).arrays for spec in specs]
    assert [found[0]["x"].shape, found[1][0].shape, found[2]["x"].shape] == [(2, 4), (2, 5), (3, 4)]


def test_example_inputs_whose_function_fails_when_they_are_asked_for_are_laid_to_it(tmp_path):
    (tmp_path / "late.py").write_text("def make():\n    raise KeyError('late')\n    yield\n")
    with pytest.raises(DataError, match=r"late\.py:make failed at late\.py:2: KeyError: 'late'"):
        examples_of(Sources(None, f"{tmp_path / 'late.py'}:make"))


@pytest.mark.parametrize(
    ("source", "wanted"),
    [("m/net.keras", "m/net.opt.onnx"), ("a.b/net.py:make", "make.opt.onnx"), ("net", "net.opt.onnx")],
)
def test_the_default_output(source, wanted):
    assert default_output(Path(source), OPTIMIZED) == Path(wanted)


def test_nothing_is_written_into_a_folder_that_is_the_input(tmp_path, capsys):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"precious")
    assert main(["convert", str(tmp_path / "saved"), "-o", str(tmp_path / "saved" / "saved_model.pb")]) == 2
    assert "inside of the input" in capsys.readouterr().err
    assert (tmp_path / "saved" / "saved_model.pb").read_bytes() == b"precious"


def test_the_default_output_of_a_folder_is_beside_it(tmp_path):
    (tmp_path / "saved.v2").mkdir()
    assert default_output(tmp_path / "saved.v2", LOWERED) == tmp_path / "saved.v2.onnx"


def plugged_in(folder: Path, code: str, entry: str) -> dict[str, str]:
    info = folder / "plug_in-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kronnx.frontends]\n{entry}\n")
    (folder / "plug_in.py").write_text(code)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def convert_with(environment: dict[str, str], path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kronnx", "convert", str(path), "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


@pytest.mark.parametrize(("operator", "code"), [("Relu", 0), ("Abs", 4)])
def test_a_frontend_of_another_package_is_found_and_checked(operator, code, tmp_path):
    environment = plugged_in(tmp_path / "site", FRONTEND, "text = plug_in:Text")
    text = f'<ir_version: 10, opset_import: ["": 20]> n (float[N,4] x) => (float[N,4] y) {{ y = {operator}(x) }}'
    (tmp_path / "model.net").write_text(text)
    done = convert_with(environment, tmp_path / "model.net")
    assert done.returncode == code, done.stderr
    assert (tmp_path / "model.onnx").exists() == (code == 0)
    assert code == 0 or "the model that text 1 gave is not the original" in done.stderr


def test_a_frontend_gone_wrong_is_named(tmp_path):
    environment = plugged_in(tmp_path / "site", "Mine = 3", "mine = plug_in:Mine")
    (tmp_path / "model.net").write_text("x")
    done = convert_with(environment, tmp_path / "model.net")
    assert done.returncode == 3
    assert (
        "'mine' of kronnx.frontends (plug_in:Mine) of plug-in 1.0 is no frontend: a subclass of kronnx.Frontend"
        in done.stderr
    )


MISSING = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import importlib.util
original = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] == {module!r} else original(name, *rest)
from kronnx.tools.commands.cli import main
sys.exit(main({words!r}))
"""


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, "")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("module", "content", "extra"),
    [
        ("tensorflow", archive("config.json", "metadata.json", "model.weights.h5"), "keras"),
        ("tensorflow", b"\x89HDF\r\n\x1a\n" + bytes(60), "keras"),
        ("tensorflow", b"\x1c\x00\x00\x00TFL3" + bytes(60), "keras"),
        ("torch", archive("m/models/model.json", "m/archive_format"), "torch"),
    ],
    ids=["keras", "h5", "tflite", "pt2"],
)
def test_a_missing_framework_is_said_with_the_command(module, content, extra, tmp_path):
    (tmp_path / "model").write_bytes(content)
    code = MISSING.format(module=module, words=["convert", str(tmp_path / "model"), "--quiet"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 3
    assert f"pip install -e '.[{extra}]' in the checkout" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["convert"], 2, "kronnx convert model.onnx"),
        (["convert", "{onnx}"], 2, "nothing to convert"),
        (["convert", "{folder}/none.keras"], 3, "No such file"),
        (["convert", "{module}:make", "-o", "{folder}/none/x.onnx"], 2, "mkdir -p"),
        (["convert", "{module}:make", "--data", "x"], 2, "--data is an option of optimize"),
        (["convert", "{module}:make", "--input", "x"], 2, "write an input as"),
        (["{module}:number"], 3, "is no model but of type int; wanted"),
        (["{module}"], 3, r"is Python source: name the function .*net\.py:function"),
        (["convert", "{folder}"], 3, "is a folder"),
        (["convert", "x" * 300 + ".py:make"], 3, "name|long|no such file"),
        (["{onnx}", "--data", "x" * 300 + ".npz"], 3, "no such data"),
        (["convert", "{module}:make", "-o", "{module}"], 2, "never overwritten"),
        (["convrt", "{module}:make"], 2, "did you mean: kronnx convert"),
    ],
)
def test_convert_refuses_with_one_message(words, code, message, mlp_path, module, capsys):
    places = {"onnx": mlp_path, "folder": mlp_path.parent, "module": module}
    assert main([word.format(**places) for word in words]) == code
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: ")
    assert re.search(message, said), said


def test_convert_writes_a_model_and_says_what_it_is(module, tmp_path, capsys):
    assert main(["convert", f"{module}:make", "-o", str(tmp_path / "out.onnx")]) == 0
    assert "input   x float[N, 4]" in capsys.readouterr().out
    onnx.checker.check_model(tmp_path / "out.onnx")


def test_convert_overwrites_nothing_that_was_not_named(module, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "make.onnx").write_bytes(b"precious")
    assert main(["convert", f"{module}:make"]) == 2
    assert "name the file to write with -o" in capsys.readouterr().err
    assert (tmp_path / "make.onnx").read_bytes() == b"precious"
