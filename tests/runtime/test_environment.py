import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from kronnx.ir.errors import InputError
from kronnx.runtime import environment

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "onnxruntime":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def test_the_cpu_works_and_cuda_is_named_only_if_it_does():
    assert environment.working_providers()[0] == "cpu"
    assert set(environment.working_providers()) <= {"cpu", "cuda"}


def test_versions_name_the_parts_and_the_runtime():
    found = environment.versions()
    assert found["onnx-ir"] == metadata.version("onnx-ir")
    assert {"kronnx", "onnx", "onnxruntime", "numpy", "python"} <= set(found)


def test_two_runtime_packages_are_an_error_with_the_repair(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metadata, "version", lambda package: "1.0")
    with pytest.raises(InputError, match=r"both onnxruntime and onnxruntime-gpu .* pip uninstall -y onnxruntime "):
        environment.onnxruntime()


def test_a_missing_runtime_is_an_error_with_the_pip_command():
    code = BLOCKED + (
        "from kronnx.runtime.environment import onnxruntime\n"
        "from kronnx.ir.errors import InputError\n"
        "try:\n    onnxruntime()\nexcept InputError as e:\n    print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "not installed" in done.stdout
    assert "pip install -e '.[cpu]'" in done.stdout


def test_no_module_of_runtime_imports_onnxruntime_at_import():
    modules = ["sessions", "environment", "data.named_data", "data.synthetic", "comparison", "timing", "latency"]
    code = "import sys\n" + "".join(f"import kronnx.runtime.{m}\n" for m in modules)
    code += "print([m for m in ('onnxruntime', 'scipy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_limit_threads_holds_the_pools_of_numpy():
    from threadpoolctl import threadpool_info

    np.ones((4, 4)) @ np.ones((4, 4))
    before = [pool["num_threads"] for pool in threadpool_info()]
    with environment.limit_threads(1):
        assert all(pool["num_threads"] == 1 for pool in threadpool_info())
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def test_the_processor_has_a_name():
    assert environment.device_name("cpu")
