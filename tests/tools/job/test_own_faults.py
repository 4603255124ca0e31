"""A graph that Kronnx breaks, at each place where it builds one, is its own fault and never said of the model."""

from collections.abc import Callable

import onnx_ir
import pytest
from kronnx.ir.errors import VerifyError
from kronnx.tools.commands.cli import main
from recorded import optimize


def broken(model: onnx_ir.Model) -> onnx_ir.Model:
    """The model whose last operator there isn't."""
    last = model.graph[-1]
    last.op_type = "NoSuchOperator"
    return model


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """breaking(place): the function there gives a broken graph."""

    def install(place: str) -> None:
        module, _, name = place.rpartition(".")
        found = __import__(module, fromlist=[name])
        own = getattr(found, name)
        monkeypatch.setattr(found, name, lambda *given: broken(own(*given)))

    return install


def test_a_broken_clean_up_is_no_fault_of_the_model(breaking, planted, capsys) -> None:
    breaking("kronnx.tools.job.subject.clean")
    with pytest.raises(VerifyError, match="a fault of Kronnx and not of the model, please report it"):
        optimize(str(planted.model), data=planted.data, cache_dir=planted.cache)
    assert main([str(planted.model), "--data", planted.data, "--quiet", "--cache-dir", str(planted.cache)]) == 4
    assert "NoSuchOperator" in capsys.readouterr().err
