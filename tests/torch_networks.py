"""Small PyTorch modules of the architectures that the frontend is for, and the inputs that they take."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, GROUPS = 32, 8, 2


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 24, 1), nn.ReLU()),
        )
        self.head = nn.Linear(24, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).mean((2, 3)))


class BiLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 16)
        self.lstm = nn.LSTM(16, 24, bidirectional=True, batch_first=True)
        self.hidden, self.head = nn.Linear(48, 32), nn.Linear(32, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(self.lstm(self.words(tokens))[0].mean(1)).relu())


class Sdpa(nn.Module):
    """Attention with a mask, by torch's fused function."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        split = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        attended = functional.scaled_dot_product_attention(*split, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class Decoder(nn.Module):
    """A block of a language model: RMSNorm, grouped queries, causal, SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        side = WIDTH // HEADS
        self.norm, self.second_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.query, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.key, self.value = (nn.Linear(WIDTH, GROUPS * side, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, 64, bias=False) for _ in range(2))
        self.down = nn.Linear(64, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        split = (
            layer(y).unflatten(-1, (count, WIDTH // HEADS)).transpose(1, 2)
            for layer, count in ((self.query, HEADS), (self.key, GROUPS), (self.value, GROUPS))
        )
        attended = functional.scaled_dot_product_attention(*split, is_causal=True, enable_gqa=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        y = self.second_norm(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Several(nn.Module):
    """Two inputs by name, outputs as a dict, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.kind, self.value = nn.Linear(8, 32), nn.Linear(64, 3), nn.Linear(64, 1)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([self.shared(left).relu(), self.shared(right).relu()], 1)
        return {"kind": self.kind(joined), "value": self.value(joined)}


def seeded(make: Callable[[], Any]) -> Callable[[], Any]:
    def model() -> Any:
        torch.manual_seed(0)
        module = make()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()  # pyright: ignore
                part.running_var.uniform_(0.5, 2)  # pyright: ignore
        return module

    return model


MODELS: dict[str, Callable[[], Any]] = {
    "CNN": seeded(Cnn),
    "BiLSTM": seeded(BiLstm),
    "encoder layer": seeded(partial(nn.TransformerEncoderLayer, WIDTH, 4, 64, batch_first=True, activation="gelu")),
    "SDPA block": seeded(Sdpa),
    "GQA decoder block": seeded(Decoder),
    "several inputs and outputs": seeded(Several),
}
INPUTS = {
    "CNN": ["image=float32[batch,3,16,16]"],
    "BiLSTM": ["tokens=int64[batch,9]"],
    "encoder layer": ["src=float32[batch,time,32]"],
    "SDPA block": ["x=float32[batch,time,32]", "mask=float32[batch,1,time,time]"],
    "GQA decoder block": ["x=float32[batch,time,32]"],
    "several inputs and outputs": ["left=float32[batch,8]", "right=float32[batch,8]"],
}
LAYERS = {
    "CNN": {"features.0", "features.4", "features.5", "head"},
    "BiLSTM": {"hidden", "head"},
    "encoder layer": {"self_attn", "self_attn.out_proj", "linear1", "linear2"},
    "SDPA block": {"query", "key", "value", "out"},
    "GQA decoder block": {"query", "key", "value", "out", "gate", "up", "down"},
    "several inputs and outputs": {"shared", "kind", "value"},
}
"""Names that layers must have in ONNX."""
