"""What is said of a network and what the test finds itself, side by side: each check raises AssertionError."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import recorded
from generated.network import Network
from generated.verdicts import Arrays, agreement, kl, outputs, relative_error
from kronnx.tools.job.result import Result

CALIBRATION, EVALUATION = 64, 32
LIMITS = {"kl": 0.01, "rel": 0.01}


def check_cleanup(network: Network, folder: Path) -> None:
    """The same outputs up to the rounding of float32."""
    before, after = _both(network, _optimized(network, "cleanup", folder), folder)
    for name, array in before.items():
        scale = float(np.abs(array).max())
        np.testing.assert_allclose(after[name], array, rtol=1e-3, atol=1e-4 * scale, err_msg=name)


def check_limited(network: Network, folder: Path) -> None:
    """The default limit is kept, and the figures are true."""
    result = _optimized(network, "svd,prune", folder)
    assert result.report.gate.passed
    found = check_figures(network, result, folder)
    assert all(found[metric] <= limit + 1e-6 for metric, limit in LIMITS.items() if metric in found)


def check_fixed(network: Network, folder: Path) -> None:
    check_figures(network, _optimized(network, "svd{rank=0.5}", folder), folder)


def check_recovered(network: Network, folder: Path) -> None:
    result = _optimized(network, "svd{rank=0.5},recover{steps=20}", folder)
    check_figures(network, result, folder)


def check_figures(network: Network, result: Result, folder: Path) -> Mapping[str, float]:
    """The reported divergences are those that the outputs of both files show."""
    before, after = _both(network, result, folder)
    found = divergences(network, before, after, result.report.heads)
    said = result.report.divergence
    if said is None:
        assert result.unchanged is not None
        return found
    for figure, metric in ((said.kl_mean, "kl"), (said.relative_error, "rel"), (said.agreement, "agreement")):
        assert (figure is None) == (metric not in found), metric
        if figure is not None:
            assert abs(figure - found[metric]) <= 1e-6 + 1e-3 * found[metric], (metric, figure, found[metric])
    return found


def divergences(network: Network, before: Arrays, after: Arrays, heads: Mapping[str, str]) -> dict[str, float]:
    """Of several heads the KL of all together, as if they were independent, and the worst of what is no KL."""
    likely = [name for name, kind in heads.items() if kind == "categorical"]
    values = [name for name, kind in heads.items() if kind == "gaussian"]
    assert {network.scales[name] for name in likely} <= {"probabilities", "log", "logits"}
    found: dict[str, float] = {}
    if likely:
        found["kl"] = sum(kl(before[name], after[name], network.scales[name]) for name in likely)
        found["agreement"] = min(agreement(before[name], after[name]) for name in likely)
    if values:
        found["rel"] = max(relative_error(before[name], after[name]) for name in values)
    return found


def _optimized(network: Network, passes: str, folder: Path) -> Result:
    onnx.save(network.model, folder / "model.onnx")
    given, others = network.inputs(CALIBRATION, 1), network.inputs(EVALUATION, 2)
    return recorded.optimize(str(folder / "model.onnx"), passes, data=given, eval_data=others)


def _both(network: Network, result: Result, folder: Path) -> tuple[Arrays, Arrays]:
    """The outputs of the file that was read and of the one that is written, whose signatures are one."""
    result.save(folder / "out.onnx")
    made = onnx.load(folder / "out.onnx")
    assert _declared(made) == _declared(network.model)
    given, batch = network.inputs(EVALUATION, 2), network.batch or EVALUATION
    return outputs(network.model, given, batch), outputs(made, given, batch)


def _declared(model: onnx.ModelProto) -> list[tuple]:
    """Name, type and shape of all inputs and outputs."""
    named = [(value.name, value.type.tensor_type) for value in (*model.graph.input, *model.graph.output)]
    return [(name, t.elem_type, [d.dim_param or d.dim_value for d in t.shape.dim]) for name, t in named]
