"""How small a model is beside the original, counted, and how fast by recorded latencies: two layers of known
shapes, and what is left of them."""

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.cost import parameters
from kronnx.ir.model.saving import written_form
from kronnx.runtime.sessions import Target
from kronnx.runtime.stopwatch import Feed, Loaded, Stopwatch
from kronnx.runtime.timing import Timing
from kronnx.tools.job.efficiency import GLANCE, LONG_LOOK, Efficiency
from kronnx.tools.job.samples import Purposes
from kronnx.tools.job.sources import Sources
from kronnx.tools.job.subject import open_subject
from kronnx.tools.report.progress import Silent
from networks import parsed

BATCH = 3


@pytest.fixture
def efficiency() -> Efficiency:
    model = network(40)
    sources = Sources(model, data=np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32))
    subject = open_subject(sources, Purposes(), Target(), Target(), Silent())
    return Efficiency(subject, BATCH, Stopwatch(pair=recorded))


def recorded(before: Loaded, after: Loaded, feed: Feed, seconds: float) -> Timing:
    """A latency that grows with the parameters, on a look that is told by the number of runs."""
    times = [100.0 * parameters(loaded.model) for loaded in (before, after)]
    ratio = times[0] / times[1]
    return Timing(*times, 1.0, 1.0, ratio, ratio, ratio, runs=round(100 * seconds))


def network(width: int) -> onnx_ir.Model:
    return parsed(
        f"""(float[N, 20] x) => (float[N, 10] y) <float[20, {width}] a, float[{width}, 10] b>
        {{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }}"""
    )


def test_the_original_is_counted_at_the_batch_that_is_timed(efficiency: Efficiency) -> None:
    assert efficiency.before.macs == BATCH * (20 * 40 + 40 * 10)
    assert efficiency.before.parameters == 20 * 40 + 40 * 10
    assert efficiency.before.bytes == onnx_ir.to_proto(written_form(network(40))).ByteSize()
    assert len(efficiency.sample["x"]) == BATCH


def test_shares_are_what_is_left_of_the_original(efficiency: Efficiency) -> None:
    half = network(20)
    assert efficiency.macs(half) == pytest.approx(0.5)
    assert efficiency.size(half) == onnx_ir.to_proto(written_form(half)).ByteSize() / efficiency.before.bytes
    after = efficiency.after(half)
    assert (after.macs, after.parameters) == (BATCH * 600, 600)
    assert efficiency.macs(network(40)) == efficiency.size(network(40)) == 1.0


def test_the_latency_is_the_model_s_beside_the_original_s(efficiency: Efficiency) -> None:
    half = network(20)
    assert efficiency.speedup(half) == 2.0
    found = efficiency.timing(half)
    assert (found.before_us, found.after_us) == (120_000, 60_000)
    assert found.runs == round(100 * LONG_LOOK) > round(100 * GLANCE)
