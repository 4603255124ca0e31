"""Classifiers of Fashion-MNIST, trained here with PyTorch: LeNet-5, a perceptron and ResNet-8. The images are Xiao,
Rasul and Vollgraf's (2017, MIT licence); Debian's package dataset-fashion-mnist ships them as gzipped idx files."""

from __future__ import annotations

import gzip
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...ir.errors import InputError
from .entry import Entry, require, save_arrays, save_labels
from .torch_export import export

if TYPE_CHECKING:
    import torch

CALIBRATION_IMAGES = 1000


@dataclass(frozen=True)
class Images:
    """Pixels [n, 1, 28, 28], float32, whole numbers of 0 to 255, and labels [n], 0 to 9."""

    pixels: np.ndarray
    labels: np.ndarray


def default_folder() -> Path:
    """Where the Debian package puts the idx files, or the same place under the running Python's prefix."""
    folders = [Path(root) / "share/datasets/fashion-mnist" for root in ("/usr", sys.prefix)]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def read_images(folder: Path, part: str) -> Images:
    """The images and labels of `part`, 'train' (60,000) or 't10k' (10,000), from the idx files in `folder`.

    Raises InputError if they aren't there.
    """
    pixels = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).astype(np.float32)
    return Images(pixels, _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64))


def _read_idx(path: Path, header: int) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"no Fashion-MNIST file {path}; run: apt-get install dataset-fashion-mnist, or name a folder")
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def lenet5_network() -> torch.nn.Module:
    """LeNet-5 (LeCun et al., 1998) with ReLU and max pooling: 61,706 parameters. It takes pixels of 0 to 255 and scales
    them itself, so that its data are whole numbers and small on disk."""
    from torch import nn

    class Scale(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image / 255.0

    return nn.Sequential(
        Scale(),
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def mlp_network() -> torch.nn.Module:
    """784-512-512-10 with ReLU: 669,706 parameters."""
    from torch import nn

    hidden = (nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))


def resnet8_network() -> torch.nn.Module:
    """ResNet-8 as in MLPerf Tiny (Banbury et al., 2021), stacks of 16, 32 and 64 channels: 77 thousand parameters."""
    from torch import nn

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    class Block(nn.Module):
        def __init__(self, channels: int, out: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
            self.first_norm = nn.BatchNorm2d(out)
            self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
            self.second_norm = nn.BatchNorm2d(out)
            self.skip = nn.Conv2d(channels, out, 1, stride) if stride > 1 else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first_norm(self.first(x)).relu()
            return (self.second_norm(self.second(y)) + self.skip(x)).relu()

    stem = (nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    blocks = (Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
    return nn.Sequential(*stem, *blocks, Mean(), nn.Linear(64, 10))


def train(network: torch.nn.Module, images: Images, epochs: int, rate: float, batch: int = 128) -> None:
    """Trains `network` in place with Adam, the rate falling to 0 along a half cosine after a short rise. The same
    seed, thread count and build of torch give the same weights."""
    import torch

    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    steps = epochs * (len(labels) // batch)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels))[: len(labels) // batch * batch].view(-1, batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(pixels[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def export_classifier(network: torch.nn.Module, path: Path) -> None:
    """Writes `network` as ONNX: `image` [batch, 1, 28, 28] to `logits` [batch, 10]; BatchNormalization stays."""
    import torch

    normalized = any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules())
    export(network, path, {"image": torch.zeros(2, 1, 28, 28)}, "logits", keep_batch_norm=normalized)


def lenet5(cache: Path) -> Entry:
    """The example of this repository: nothing is trained."""
    folder = Path(__file__).parents[2] / "examples"
    if not (folder / "lenet5.onnx").is_file():
        raise InputError(f"no {folder / 'lenet5.onnx'}; it is in the source repository; or run examples/make_lenet5.py")
    paths = (folder / f"lenet5{ending}" for ending in (".onnx", "_calibration.npz", "_evaluation.npz", "_labels.npy"))
    return Entry("lenet5", *paths, score="accuracy", notes="committed; 2,000 test images")


def training_images(unit: bool) -> dict[str, np.ndarray]:
    """All 60,000 training images, without labels: pixels of 0 to 1 where `unit`, else whole numbers of 0 to 255."""
    images = read_images(default_folder(), "train")
    return {"image": unit_scaled(images).pixels if unit else images.pixels}


def mlp(cache: Path) -> Entry:
    """The perceptron, after 3 epochs."""
    return _trained(cache, "mlp", mlp_network, epochs=3, rate=1e-3)


def resnet8(cache: Path) -> Entry:
    """ResNet-8 with its BatchNormalization, after 2 epochs."""
    return _trained(cache, "resnet8", resnet8_network, epochs=2, rate=1e-2)


def _trained(cache: Path, name: str, network, epochs: int, rate: float) -> Entry:
    folder = cache / name
    paths = (folder / name for name in ("model.onnx", "calibration.npz", "evaluation.npz", "labels.npy"))
    notes = f"trained here, {epochs} epochs; the 10,000 test images"
    entry = Entry(name, *paths, score="accuracy", notes=notes)
    if not entry.model.exists():
        _build(entry, network, epochs, rate)
    return entry


def _build(entry: Entry, network, epochs: int, rate: float) -> None:
    torch = require("torch", "torch onnx onnxscript")
    train_set, test_set = (unit_scaled(read_images(default_folder(), part)) for part in ("train", "t10k"))
    save_arrays(entry.calibration, {"image": train_set.pixels[:CALIBRATION_IMAGES]})
    save_arrays(entry.evaluation, {"image": test_set.pixels})
    assert entry.labels is not None
    save_labels(entry.labels, test_set.labels)
    torch.manual_seed(0)
    trained = network()
    train(trained, train_set, epochs, rate)
    export_classifier(trained, entry.model)


def unit_scaled(images: Images) -> Images:
    """The same images with pixels of 0 to 1."""
    return Images(images.pixels / np.float32(255), images.labels)
