"""PyTorch modules and programs, built and run by PyTorch itself: lowered, compared, compressed, named."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import kronnx
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.errors import InputError, UnsupportedOp, UsageError, VerifyError

from .conftest import feed_of, layer_names, run

torch = pytest.importorskip("torch")

from torch_networks import INPUTS, LAYERS, MODELS  # noqa: E402


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[str, Any, onnx_ir.Model]:
    name = request.param
    model = MODELS[name]()
    return name, model, kronnx.convert(model, inputs=INPUTS[name]).model


def answers(model: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        result = model.eval()(**{name: torch.from_numpy(array) for name, array in feed.items()})
    return [tensor.numpy() for tensor in (result.values() if isinstance(result, dict) else [result])]


@pytest.mark.parametrize(("batch", "length"), [(1, 9), (5, 23)])
def test_the_lowered_model_gives_what_torch_gives_at_any_batch_and_length(case, batch, length):
    _, model, lowered = case
    feed = feed_of(lowered, batch, length)
    for wanted, found in zip(answers(model, feed), run(lowered, feed).values(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)  # float32, two implementations


def test_layers_have_the_names_of_the_modules(case):
    name, _, lowered = case
    assert layer_names(lowered) >= LAYERS[name]


def test_the_lowered_model_is_valid_and_holds_no_trace_of_the_machine(case):
    _, _, lowered = case
    proto = onnx_ir.to_proto(lowered)
    onnx.checker.check_model(proto, full_check=True)
    assert (lowered.opset_imports[""], lowered.ir_version) == (20, 10)
    assert str(Path(torch.__file__).parent).encode() not in proto.SerializeToString()
    assert {str(value.shape[0]) for value in (*lowered.graph.inputs, *lowered.graph.outputs)} == {"batch"}


def test_the_lowered_model_is_compressed_and_runs(case, compressed):
    name, model, _ = case
    small = compressed(model, INPUTS[name])
    feed = feed_of(small, 3, 11)
    shapes = [array.shape for array in answers(model, feed)]
    assert [array.shape for array in run(small, feed).values()] == shapes


def test_outputs_have_the_keys_of_a_dict():
    lowered = kronnx.convert(MODELS["several inputs and outputs"](), inputs=INPUTS["several inputs and outputs"]).model
    assert [value.name for value in lowered.graph.outputs] == ["kind", "value"]


def test_example_inputs_serve_in_the_place_of_declarations():
    one = torch.randn(1, 3, 16, 16, requires_grad=True)
    for given in (one, (one,), {"image": one}, one.detach().numpy()):
        lowered = kronnx.convert(MODELS["CNN"](), example_inputs=given).model
        assert [str(dim) for dim in lowered.graph.inputs[0].shape] == ["batch", "3", "16", "16"]


def test_a_module_is_left_as_it_was():
    module = MODELS["CNN"]()
    module.train()
    module.features[1].eval()
    kronnx.convert(module, inputs=INPUTS["CNN"])
    assert (module.training, module.features[1].training) == (True, False)


class Fixed(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.reshape(4, 10).sum(1)


def test_a_batch_that_can_not_vary_is_fixed_with_a_note():
    found = kronnx.convert(Fixed(), example_inputs=torch.randn(4, 10))
    assert [list(value.shape) for value in found.model.graph.inputs] == [[4, 10]]
    assert any("batch is fixed at 4" in note for note in found.notes)


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (Fixed, "x=[batch,10]", r"fails on example inputs: .*shape '\[4, 10\]' is invalid"),
        (MODELS["BiLSTM"], "tokens=int64[batch,time]", "the model fixes 'time' of 'tokens' at 16; write a size"),
    ],
)
def test_a_declared_size_that_can_not_vary_is_refused(module, inputs, message):
    with pytest.raises(InputError, match=message):
        kronnx.convert(module(), inputs=inputs)


def program(name: str = "CNN") -> Any:
    module = MODELS[name]().eval()
    example = (torch.randn(2, 3, 16, 16),)
    return torch.export.export(module, example, dynamic_shapes=({0: torch.export.Dim("samples")},))


def test_a_saved_program_is_lowered_as_the_module(tmp_path):
    torch.export.save(program(), tmp_path / "cnn.pt2")
    (tmp_path / "cnn.pt2").rename(tmp_path / "cnn.bin")  # known by its content
    lowered = kronnx.convert(tmp_path / "cnn.bin").model
    feed = feed_of(lowered, 5, 0)
    wanted = answers(MODELS["CNN"](), {"image": feed["image"]})[0]
    np.testing.assert_allclose(run(lowered, feed)["output"], wanted, rtol=1e-4, atol=1e-5)
    assert layer_names(lowered) == LAYERS["CNN"]


def test_a_live_program_is_lowered():
    assert layer_names(kronnx.convert(program()).model) == LAYERS["CNN"]


def test_the_same_module_gives_the_same_bytes_twice(tmp_path):
    for name in ("1.onnx", "2.onnx"):
        kronnx.convert(MODELS["encoder layer"](), inputs=INPUTS["encoder layer"]).save(tmp_path / name)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_a_wrong_weight_is_found_and_its_layer_named():
    from kronnx.frontends.agreement import agreement
    from kronnx.frontends.registry import frontend_of
    from kronnx.runtime.sessions import Session
    from kronnx.tools.job.model_sources import examples_of
    from kronnx.tools.job.sources import Sources

    module = MODELS["CNN"]()
    frontend = frontend_of(module)
    assert frontend is not None
    lowered = frontend.lower(module, examples_of(Sources(module, inputs=INPUTS["CNN"])))
    weight = lowered.model.graph.initializers["features.5.weight"]
    array = weight.const_value.numpy().copy()
    array[3, 4] *= 1.001
    weight.const_value = onnx_ir.tensor(array, name=weight.name)
    with pytest.raises(VerifyError, match=r"first layer that differs is 'features\.5'"):
        agreement(lowered, lambda model: Session(model).run)


def test_half_precision_is_held_to_its_own_rounding():
    module = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).half()
    found = kronnx.convert(module, inputs="input=float16[batch,64]")
    assert found.model.graph.inputs[0].dtype == onnx_ir.DataType.FLOAT16


class Strange(torch.nn.Module):
    """Has an operator that ONNX lacks."""

    def forward(self, x: Any) -> Any:
        return torch.special.zeta(x.abs() + 2, x.abs() + 1)


def test_an_operator_that_onnx_lacks_is_named():
    with pytest.raises(UnsupportedOp, match=r"zeta.*docs/frontends\.md"):
        kronnx.convert(Strange(), inputs="x=[batch,4]")


class Counting(torch.nn.Module):
    """Counts its calls in a buffer, and gives the count."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        self.calls.add_(1)
        return self.linear(x) + self.calls


def test_buffers_that_a_module_writes_are_as_they_were():
    module = Counting()
    assert "differ" in kronnx.convert(module, inputs="x=[batch,4]").notes[0]
    assert module.calls == 0


class Random(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.nn.functional.dropout(x, 0.5, training=True)


class Optional(torch.nn.Module):
    def forward(self, x: Any, scale: Any = None, *, shift: Any = None) -> Any:
        y = x if scale is None else x * scale
        return {"x": y if shift is None else y + shift, "two": (y, y.sum(1))}


def test_arguments_that_are_left_out_stay_out_and_outputs_named_like_inputs_are_renamed():
    x, shift = torch.randn(3, 4), torch.randn(3, 4)
    lowered = kronnx.convert(Optional(), example_inputs={"x": x, "scale": None, "shift": shift}).model
    assert [value.name for value in lowered.graph.inputs] == ["x", "shift"]
    assert [value.name for value in lowered.graph.outputs] == ["x_output", "two.0", "two.1"]
    found = run(lowered, {"x": x.numpy(), "shift": shift.numpy()})
    np.testing.assert_allclose(found["x_output"], (x + shift).numpy(), rtol=1e-6)


def test_a_program_with_a_constant_argument_is_lowered():
    exported = torch.export.export(Optional(), (torch.randn(3, 4), None))
    assert [value.name for value in kronnx.convert(exported).model.graph.inputs] == ["x"]


def test_a_compiled_module_is_what_it_was_compiled_from():
    assert layer_names(kronnx.convert(torch.compile(MODELS["CNN"]()), inputs=INPUTS["CNN"]).model) == LAYERS["CNN"]


class Loose(torch.nn.Module):
    def forward(self, *xs: Any) -> Any:
        return sum(xs)


class Failing(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    [
        (Fixed, {}, UsageError, "--input 'x=float32"),
        (Fixed, {"inputs": "y=[4,10]"}, UsageError, "no input 'y'; it has 'x'"),
        (MODELS["SDPA block"], {"inputs": "x=[2,9,32]"}, UsageError, "no input 'mask' was given, only 'x'"),
        (Loose, {"inputs": "x=[4,10]"}, UsageError, r"names no tensors \(it takes \*args"),
        (Random, {"inputs": "x=[4,10]"}, InputError, "another output 'output' each time"),
        (program, {"inputs": "image=[2,3,16,16]"}, UsageError, "an exported program says what its inputs are"),
        (Fixed, {"example_inputs": (np.zeros(1),) * 2}, UsageError, "2 example inputs for a model with 1"),
        (Failing, {"inputs": "x=[4,10]"}, InputError, "ZeroDivisionError: on purpose"),
    ],
)
def test_what_does_not_fit_is_refused(module, options, error, message):
    with pytest.raises(error, match=message):
        kronnx.convert(module(), **options)


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["model.pt", "model.pth"])
def test_a_checkpoint_is_not_unpickled(name, tmp_path):
    torch.save({"payload": Payload(tmp_path / "ran")}, tmp_path / name)
    with pytest.raises(InputError, match=r"Python pickle.*\.pt2.*file\.py:function"):
        kronnx.convert(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_an_old_checkpoint_is_not_unpickled(tmp_path):
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(InputError, match="Python pickle"):
        kronnx.convert(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def tampered(path: Path, change: Any) -> Path:
    """The archive at `path` with members replaced: change(name, content) -> content."""
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name, content in members.items():
            target.writestr(name, change(name, content))
    return path


def pickled(payload: Payload) -> bytes:
    stream = io.BytesIO()
    torch.save(payload, stream)
    return stream.getvalue()


@pytest.mark.parametrize("place", ["sample inputs", "a weight", "a constant", "a constant in capitals"])
def test_a_program_with_pickled_objects_is_not_unpickled(place, tmp_path):
    path, payload = tmp_path / "cnn.pt2", Payload(tmp_path / "ran")
    torch.export.save(program(), path)

    def change(name: str, content: bytes) -> bytes:
        if place == "sample inputs" and "/sample_inputs/" in name:
            return pickled(payload)
        if place == "a weight" and name.endswith("weights_config.json"):
            config = json.loads(content)
            first = next(iter(config["config"].values()))
            first["use_pickle"] = True
            return json.dumps(config).encode()
        if place == "a weight" and name.endswith("/weights/weight_0"):
            return pickled(payload)
        if place.startswith("a constant") and name.endswith("constants_config.json"):
            entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            return json.dumps({"config": {"thing": entry}}).encode()
        return content

    tampered(path, change)
    if place.startswith("a constant"):
        member = "opaque_obj_0" if place == "a constant" else "OPAQUE_obj_0"
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"cnn/data/constants/{member}", pickle.dumps(payload))
    with pytest.raises(InputError, match=r"file\.py:function"):
        kronnx.convert(path)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_program_is_refused(tmp_path):
    torch.export.save(program(), tmp_path / "cnn.pt2")
    damaged = tampered(tmp_path / "cnn.pt2", lambda name, content: b"{}" if name.endswith("model.json") else content)
    with pytest.raises(InputError, match=r"PyTorch .* can't load"):
        kronnx.convert(damaged)
