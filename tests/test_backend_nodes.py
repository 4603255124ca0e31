"""onnx's own node tests: normalizing, cleaning and passes with nothing to do change no signature, no opset and no
result, and no file grows, whatever the operator."""

import importlib.util
import string
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.errors import KronnxError
from kronnx.ir.model import load, signature
from kronnx.ir.rewriter import Rewriter
from kronnx.ir.writing.finish import finished
from kronnx.passes.planning.proposal import Context
from kronnx.passes.project import Project
from kronnx.passes.prune import Prune
from kronnx.passes.svd import Svd
from kronnx.tools.job.optimize import optimize

PASSES = (Svd(), Svd(rank=1.0), Prune(), Prune(sparsity=0.0), Prune(block="16x512"), Project(), Project(rank=1.0))
GROUPS = (*string.ascii_lowercase, "pytorch", "simple")


@cache
def backend() -> ModuleType:
    """The module beside this one: with --import-mode=importlib it can't be imported by name."""
    spec = importlib.util.spec_from_file_location("backend_nodes", Path(__file__).with_name("backend_nodes.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plain() -> list:
    """The models as they are: their data are inputs."""
    return backend().runnable(backend().node_models())


@pytest.fixture(scope="module")
def frozen() -> list:
    """The same with all inputs but the first as initializers."""
    models = (model.frozen() for model in backend().node_models())
    return backend().runnable(model for model in models if model is not None)


def group(name: str) -> str:
    return name.split("-")[0].split("/")[0] if name[:5] != "test_" else name[5].lower()


def idle(model):
    """The model normalized, cleaned and written as it came, after every pass in turn, of which none has anything to go
    by."""
    rewriter = Rewriter(clean(normalize(model)))
    for stage in PASSES:
        assert {want.layer for want in stage.wants(rewriter.analyses)} <= set(rewriter.analyses.layers.found)
        assert stage.propose(Context(rewriter.analyses, {}, {})).candidates == (), stage
    assert rewriter.log == []
    return finished(rewriter.model, model, None, lambda _: None).model


def faults(cases: list, letter: str, folder: Path) -> list[str]:
    chosen = [case for case in cases if group(case.model.name) == letter]
    return [found for case in chosen if (found := backend().fault(case, idle, folder))]


def test_most_node_models_run_so_that_nothing_is_skipped_silently(plain, frozen):
    assert len(plain) >= 1400
    assert len(frozen) >= 900
    assert {group(case.model.name) for case in plain} <= set(GROUPS)


@pytest.mark.parametrize("letter", GROUPS)
def test_normalizing_cleaning_and_idle_passes_change_no_result(plain, letter, tmp_path):
    assert faults(plain, letter, tmp_path) == []


@pytest.mark.parametrize("letter", GROUPS)
def test_with_constants_to_fold_and_fuse_they_change_no_result_either(frozen, letter, tmp_path):
    assert faults(frozen, letter, tmp_path) == []


def test_the_main_job_ends_in_a_result_or_in_a_message_whatever_the_model(plain, frozen, tmp_path):
    cases, refused = [*plain, *frozen][::61], Counter()  # some 40 of all kinds
    path = tmp_path / "model.onnx"
    for case in cases:
        path.write_bytes(case.model.proto.SerializeToString())
        try:
            result = optimize(path, "svd,prune,project", cache_dir=tmp_path / "cache")
        except KronnxError as e:
            refused[f"{type(e).__name__}: {e}"] += 1
        else:
            assert signature(result.model) == signature(load(path)), case.model.name
            assert result.report.verdict, case.model.name
    assert sum(refused.values()) <= len(cases) // 10, refused
