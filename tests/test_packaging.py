"""What is installed: one top-level name, every subpackage, nothing else; and it works with nothing beside it."""

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("frontends", "ir", "passes", "runtime", "tools")
IN_A_CHECKOUT_ONLY = ("tools/bench", "tools/zoo")
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")


def files_on_disk() -> list[Path]:
    """What a wheel holds, relative to the root."""
    found = (file.relative_to(ROOT) for part in PARTS for file in (ROOT / part).rglob("*.py"))
    return [file for file in found if not file.as_posix().startswith(IN_A_CHECKOUT_ONLY)]


def packages_on_disk() -> set[str]:
    return {"kronnx"} | {".".join(("kronnx", *file.parent.parts)) for file in files_on_disk()}


def modules_on_disk() -> set[str]:
    files = [*(file.relative_to(ROOT) for file in ROOT.glob("*.py")), *files_on_disk()]
    return {f"kronnx/{file.as_posix()}" for file in files}


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the repository in which a virtual environment and an old build lie about."""
    copy = tmp_path_factory.mktemp("source") / "kronnx"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    for stray in (".venv/lib/stray", "venv/stray"):
        (copy / stray).mkdir(parents=True)
        (copy / stray / "__init__.py").touch()
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "out", cwd=copy)
    return next((copy / "out").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean virtual environment with the wheel and nothing else, not even pip."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=home)
    return home


def test_every_folder_of_code_is_a_package_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(project["tool"]["setuptools"]["packages"]) == packages_on_disk()


def test_every_package_has_an_init_file():
    assert {p for p in packages_on_disk() if not (ROOT.joinpath(*p.split(".")[1:]) / "__init__.py").exists()} == set()


def test_the_wheel_holds_the_modules_and_nothing_else(wheel: Path):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == modules_on_disk() | {"kronnx/py.typed"}


def test_the_wheel_brings_one_name_and_two_commands(installed: Path):
    site = next(installed.glob("lib/python*/site-packages"))
    assert {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")} == {"kronnx"}
    assert {"kronnx", "optimize"} <= {p.name for p in (installed / "bin").iterdir()}


@pytest.mark.parametrize(
    "words", [("bin/optimize", "--help"), ("bin/kronnx", "--help"), ("bin/python", "-m", "kronnx", "--help")]
)
def test_the_installed_command_answers(installed: Path, words):
    assert run(installed / words[0], *words[1:], cwd=installed).startswith("usage: optimize")


def test_the_installed_package_knows_its_version(installed: Path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (
        run(installed / "bin/python", "-c", "import kronnx; print(kronnx.__version__)", cwd=installed).strip()
        == project["version"]
    )


def test_public_names_are_those_that_checkers_see():
    import kronnx

    assert {name for name in kronnx.__all__ if getattr(kronnx, name) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kronnx.nothing  # noqa: B018
