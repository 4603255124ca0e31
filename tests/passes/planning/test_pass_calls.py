"""Whose fault it is said to be when a pass of another package fails, breaks the graph or gives what it mustn't."""

import networks
import pytest
from kronnx.ir.errors import PluginError, UsageError
from kronnx.ir.plugins import REMEDY
from kronnx.passes.planning.stages import StageRunner
from kronnx.passes.svd import Svd
from kronnx.tools.commands.cli import main
from kronnx.tools.job.pipeline_text import parse

MLP = """(float[N,8] x) => (float[N,4] y) <float[8,16] w, float[16] b, float[16,4] v>
    { h = Gemm(x, w, b) r = Relu(h) z = MatMul(r, v) y = Softmax(z) }"""

PASS = """
import sys
from dataclasses import dataclass
from typing import ClassVar
import kronnx
import numpy as np

@dataclass(frozen=True)
class Mine(kronnx.Pass):
    name: ClassVar[str] = "mine"
    rank: int = 3

    def wants(self, analyses):
        return []

    def propose(self, context):
        layers = context.analyses.layers.found.values()
        found = (context.replacement(x, kronnx.low_rank(x, self.rank), 0.0, None) for x in layers)
        return kronnx.Proposal(tuple(found), fixed=True)

    def apply(self, candidate, context, rewriter):
        layer = rewriter.analyses.layers.found[candidate.site]
        structure = kronnx.low_rank(layer, self.rank)
        u, s, v = np.linalg.svd(layer.matrix(), full_matrices=False)
        r = self.rank
        rewriter.replace(layer, kronnx.Form(structure, (v[:, :r], u[:, :, :r] * s[:, None, :r])))
"""
BY = r"^the pass 'mine' \(plug-in 1\.0\) "
FAULTS = {
    "options": (
        "def __post_init__(self): raise ValueError('odd')",
        r"failed in its options: ValueError: odd \(plug_in",
    ),
    "wants": ("def wants(self, analyses): raise KeyError('w')", r"failed in wants: KeyError: 'w' \(plug_in\.py:\d+\)"),
    "wants, late": ("def wants(self, analyses): yield 1 / 0", "failed in wants: ZeroDivisionError: division by zero"),
    "wants, none": ("def wants(self, analyses): return None", "failed in wants: TypeError"),
    "an unknown layer": (
        "def wants(self, analyses): return [kronnx.Want('nope', True)]",
        "in wants asked for the layer 'nope', which the model doesn't have",
    ),
    "no want": ("def wants(self, analyses): return ['Gemm_0']", "in wants gave str 'Gemm_0' in the place of a Want"),
    "propose": ("def propose(self, context): return {}['p']", r"failed in propose: KeyError: 'p' \(plug_in\.py:\d+\)"),
    "no moments": ("def propose(self, context): context.moments['Gemm_0']", "failed in propose: KeyError: 'Gemm_0'"),
    "an exit": ("def propose(self, context): sys.exit(0)", "failed in propose: SystemExit: 0"),
    "Kronnx's error": (
        "def propose(self, context): raise kronnx.GraphError('g')",
        "failed in propose: GraphError: g",
    ),
    "no proposal": ("def propose(self, context): return []", r"in propose gave list \[\] in the place of a Proposal"),
    "no candidate": (
        "def propose(self, context): return kronnx.Proposal((3,))",
        "in propose gave int 3 in the place of a Candidate",
    ),
    "no remark": (
        "def propose(self, context): return kronnx.Proposal((), ('no',))",
        "in propose gave str 'no' in the place of a Remark",
    ),
    "a prediction": (
        "def propose(self, context):\n"
        "        layer = context.analyses.layers.found['MatMul_0']\n"
        "        return kronnx.Proposal((context.replacement(layer, kronnx.low_rank(layer, 2), float('nan'), None),))",
        "in propose predicted nan nats for 'low rank 2' at 'MatMul_0'",
    ),
    "a gain": (
        "def propose(self, context):\n"
        "        layer = context.analyses.layers.found['MatMul_0']\n"
        "        return kronnx.Proposal((context.replacement(layer, kronnx.low_rank(layer, 2), -5.0, None),))",
        "in propose predicted -5.0 nats for 'low rank 2' at 'MatMul_0'",
    ),
    "a cost": (
        "def propose(self, context):\n"
        "        pieces = (kronnx.Piece(None, ((1, 8),)),)\n"
        "        candidate = kronnx.Candidate('MatMul_0', 'odd', 0.0, pieces, (), frozenset(), 1)\n"
        "        return kronnx.Proposal((candidate,))",
        "failed in the cost of 'odd' at 'MatMul_0': AttributeError",
    ),
    "apply": (
        "def apply(self, candidate, context, rewriter): rewriter.analyses.layers.found['gone']",
        "failed in apply, for 'low rank 3' at 'Gemm_0': KeyError: 'gone'",
    ),
    "a shape": (
        "def apply(self, candidate, context, rewriter):\n"
        "        layer = rewriter.analyses.layers.found[candidate.site]\n"
        "        structure = kronnx.low_rank(layer, 3)\n"
        "        rewriter.replace(layer, kronnx.Form(structure, (np.ones((1, 3, 8)), np.ones((1, layer.out + 1, 3)))))",
        "failed in apply, for 'low rank 3' at 'Gemm_0': ShapeError",
    ),
    "a graph": (
        "def apply(self, candidate, context, rewriter):\n"
        "        if candidate.site == 'MatMul_0':\n"
        "            next(iter(rewriter.model.graph)).op_type = 'NoSuchOp'",
        "in apply, for 'low rank 3' at 'MatMul_0', left a model that doesn't run: BuiltGraphError: .*'NoSuchOp'",
    ),
    "an output": (
        "def apply(self, candidate, context, rewriter): rewriter.model.graph.outputs[0].name = 'other'",
        "in apply, for 'low rank 3' at 'Gemm_0', left a model with other inputs or outputs",
    ),
    "weights": (
        "def apply(self, candidate, context, rewriter):\n"
        "        rewriter.tune({'v': np.full((16, 4), np.nan, np.float32)})",
        "in apply, for 'low rank 3' at 'Gemm_0', left a model whose output 'y' is NaN",
    ),
}


def attempt(passes: str) -> None:
    model = networks.build(MLP)
    stages, sample = parse(passes), networks.draw(model, 1)
    runner = StageRunner(model, stages, sample, networks.execute, None, lambda cost: cost.macs, lambda *_: {})
    runner.wants()
    runner.attempt(1.0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pass_of_another_package_is_named_with_its_package_and_the_step(registered, fault):
    code, message = FAULTS[fault]
    registered(f"{PASS}\n    {code}\n", "mine = plug_in:Mine")
    with pytest.raises(PluginError, match=BY + message) as raised:
        attempt("cleanup,mine")
    assert str(raised.value).endswith(REMEDY)


def test_a_pass_of_another_package_that_fails_ends_the_command_with_its_code(registered, mlp_path, tmp_path, capsys):
    code = FAULTS["a graph"][0].replace("MatMul_0", "second")
    registered(f"{PASS}\n    {code}\n", "mine = plug_in:Mine")
    assert main([str(mlp_path), "--quiet", "-p", "mine", "--cache-dir", str(tmp_path)]) == 7
    said = capsys.readouterr().err
    assert said.startswith("error: the pass 'mine' (plug-in 1.0) in apply, for 'low rank 3' at 'second', left a model")
    assert said.count("\n") == 1
    assert not mlp_path.with_name("mlp.opt.onnx").exists()


def test_a_pass_of_another_package_that_does_no_wrong_is_left_in_peace(registered):
    registered(PASS, "mine = plug_in:Mine")
    attempt("svd,mine{rank=2},prune")


def test_what_a_pass_of_another_package_says_to_its_user_stays_as_it_is(registered, mlp_path, tmp_path, capsys):
    code = "def propose(self, context): raise kronnx.UsageError('mine{rank=3}: 2 at most here')"
    registered(f"{PASS}\n    {code}\n", "mine = plug_in:Mine")
    assert main([str(mlp_path), "--quiet", "-p", "mine", "--cache-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: mine{rank=3}: 2 at most here\n"


@pytest.mark.parametrize(("error", "code", "said"), [(KeyError("k"), 1, "this is a bug"), (UsageError("u"), 2, "u\n")])
def test_a_pass_of_kronnx_stays_a_bug_in_kronnx(mlp_path, tmp_path, capsys, monkeypatch, error, code, said):
    def fails(self, context):
        raise error

    monkeypatch.setattr(Svd, "propose", fails)
    assert main([str(mlp_path), "--quiet", "-p", "svd", "--cache-dir", str(tmp_path)]) == code
    assert said in capsys.readouterr().err
