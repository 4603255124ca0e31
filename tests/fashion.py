"""A small classifier of Fashion-MNIST, trained by torch in a second, and the pictures of examples/ for it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import networks
import numpy as np
import onnx_ir
import torch
from torch.nn import functional

EXAMPLES = Path(__file__).parents[1] / "examples"
NET = """(float[N,1,14,14] x) => (float[N,10] logits)
    <float[6,1,3,3] k, float[6] kb, float[12,6,3,3] l, float[12] lb, float[192,32] w, float[32] b, float[32,10] v,
     float[10] c>
    { h = Conv<pads=[1,1,1,1], strides=[2,2]>(x, k, kb) hr = Relu(h) i = Conv<pads=[1,1,1,1], strides=[2,2]>(hr, l, lb)
      ir = Relu(i) f = Flatten(ir) g = Gemm(f, w, b) gr = Relu(g) logits = Gemm(gr, v, c) }"""
STEPS, BATCH, RATE = 250, 64, 4e-3


@dataclass(frozen=True)
class Pictures:
    """x [samples, 1, 14, 14] of zero mean and unit variance, and the class of each."""

    x: np.ndarray
    labels: np.ndarray


@cache
def pictures() -> Pictures:
    whole = np.load(EXAMPLES / "lenet5_evaluation.npz")["image"]
    x = whole.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
    return Pictures(((x - x.mean()) / x.std()).astype(np.float32), np.load(EXAMPLES / "lenet5_labels.npy"))


def training(samples: int = 1600) -> Pictures:
    return Pictures(pictures().x[:samples], pictures().labels[:samples])


def evaluation() -> Pictures:
    """400 pictures that `classifier` wasn't trained on."""
    return Pictures(pictures().x[1600:], pictures().labels[1600:])


@cache
def classifier() -> onnx_ir.Model:
    """NET with an accuracy of about 0.8. It is shared: don't change it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the sums, and so the weights, would depend on their number
    try:
        return _trained(networks.build(NET), training())
    finally:
        torch.set_num_threads(threads)


def _trained(model: onnx_ir.Model, given: Pictures) -> onnx_ir.Model:
    torch.manual_seed(0)
    p = {name: torch.tensor(networks.weight(model, name), dtype=torch.float32) for name in model.graph.initializers}
    for value in p.values():
        value.requires_grad_()
    optimizer = torch.optim.Adam(p.values(), lr=RATE)
    x, labels, random = torch.tensor(given.x), torch.tensor(given.labels), np.random.default_rng(0)
    for _ in range(STEPS):
        chosen = random.integers(0, len(x), BATCH)
        optimizer.zero_grad()
        functional.cross_entropy(forward(p, x[chosen]), labels[chosen]).backward()
        optimizer.step()
    for name, value in p.items():
        networks.set_weight(model, name, value.detach().numpy())
    return model


def forward(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    h = functional.conv2d(x, p["k"], p["kb"], stride=2, padding=1).relu()
    i = functional.conv2d(h, p["l"], p["lb"], stride=2, padding=1).relu()
    return (i.flatten(1) @ p["w"] + p["b"]).relu() @ p["v"] + p["c"]


def accuracy(model: onnx_ir.Model, given: Pictures | None = None) -> float:
    """Of 400 pictures that weren't trained on."""
    seen = evaluation() if given is None else given
    return float((networks.run(model, {"x": seen.x})["logits"].argmax(-1) == seen.labels).mean())
