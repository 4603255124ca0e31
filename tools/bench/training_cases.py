"""What bench.training trains: networks as files and in torch, a batch for each, and outputs to come close to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from ...ir.cleanup.clean import clean
from ...ir.cleanup.normalize import normalize
from ...ir.model import load
from ...ir.output_heads import Head, find_heads
from ...passes.curvature import open_to_gradients
from ...passes.recovery.trainable import Weight, trainable
from ...runtime.environment import onnxruntime
from ..zoo.catalogue import entry
from ..zoo.fashion import lenet5_network, mlp_network, resnet8_network
from ..zoo.networks import minilm_network
from ..zoo.text import training_sentences

Arrays = Mapping[str, np.ndarray]
Network = Callable[[], Any]  # gives a torch.nn.Module
BATCH = 64  # images
LEARNING_RATE = 1e-4
LARGEST_NORM = 1.0  # of all gradients together: what `recover` clips to
SURE = 3.0  # the deviation of logits that leave little doubt


@dataclass(frozen=True)
class Case:
    """A network as a file and in torch, and a batch for it. The file's initializers that bear the names of parameters
    are what torch's network gets; the others it has already."""

    name: str
    model: Callable[[Path], Path]
    network: Network
    feed: Callable[[Path], Arrays]


@dataclass(frozen=True)
class Lesson:
    """One batch for a clean model, as it is prepared for a recovery, and the outputs it is trained to, drawn at random.
    `initializers` are those of the file, `weights` what is tuned of the clean model."""

    model: onnx_ir.Model
    initializers: Arrays
    weights: tuple[Weight, ...]
    feed: Arrays
    head: Head
    target: np.ndarray


def lesson(case: Case, cache: Path) -> Lesson:
    """The first output is the one that is trained."""
    onnxruntime()
    file, feed = load(case.model(cache)), case.feed(cache)
    model = open_to_gradients(clean(normalize(file)), [feed])
    head, shape = find_heads(model)[0], _shape(model.graph.outputs[0], model, feed)
    target = np.random.default_rng(0).standard_normal(shape, np.float32)
    target *= np.float32(SURE if head.kind == "categorical" else 1.0)
    return Lesson(model, _initializers(file), trainable(model), feed, head, target)


def _initializers(model: onnx_ir.Model) -> Arrays:
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}


def _shape(value: onnx_ir.Value, model: onnx_ir.Model, feed: Arrays) -> list[int]:
    """The shape that a value has for this feed, by the symbols of the inputs' axes."""
    sizes: dict[str, int] = {}
    for given in model.graph.inputs:
        assert given.shape is not None
        sizes |= dict(zip(map(str, given.shape), feed[str(given.name)].shape, strict=True))
    assert value.shape is not None
    return [dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape]


def _images(name: str) -> Callable[[Path], Arrays]:
    def read(cache: Path) -> Arrays:
        with np.load(entry(name, cache).calibration) as arrays:
            return {key: arrays[key][:BATCH] for key in arrays.files}

    return read


def _sentences(cache: Path) -> Arrays:
    with np.load(min(training_sentences(cache).glob("*.npz"))) as arrays:
        return {key: arrays[key] for key in arrays.files}


def _case(name: str, network: Network, feed: Callable[[Path], Arrays]) -> Case:
    return Case(name, lambda cache: entry(name, cache).model, network, feed)


CASES = {
    case.name: case
    for case in (
        _case("mlp", mlp_network, _images("mlp")),
        _case("lenet5", lenet5_network, _images("lenet5")),
        _case("resnet8", resnet8_network, _images("resnet8")),
        _case("minilm", minilm_network, _sentences),
    )
}
