"""K-FAC's statistics as they are computed in PyTorch: hooks on a network's convolutions and linear layers.

A sums up while the forward pass runs and G while the backward pass does, so nothing is kept that isn't needed.
Weights ask for no gradient, so autograd computes data gradients alone, and only from the first layer on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from .multiply_adds import Map

# Columns of patches that are made at a time: one sample has about as many or more, or several samples go together
COLUMNS = 4096


@dataclass
class Sums:
    """Of one layer: `input` [in, in] and `gradient` [out, out], summed over samples and positions."""

    input: Tensor
    gradient: Tensor
    positions: int = 0
    passes_on: bool = False

    @property
    def map(self) -> Map:
        """The layer as it was at work in all batches so far."""
        return Map(len(self.input), len(self.gradient), self.positions, self.passes_on)


@dataclass(frozen=True)
class Factors:
    """Of one layer: A [in, in], the mean over samples and positions, and G [out, out], the sum over positions and mean
    over samples, of "expand" (Eschenhagen et al., 2023)."""

    input: np.ndarray
    gradient: np.ndarray
    map: Map


class Hooks:
    """Hooks on every convolution (of one group) and linear layer of `network`, whose output parametrises a `kind` of
    distribution: categorical or gaussian."""

    def __init__(self, network: nn.Module, kind: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.network, self.kind = network.requires_grad_(False), kind
        self._sums: dict[nn.Module, Sums] = {}
        self._leaves: list[Tensor] = []
        self.begin(seed=0)
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.register_forward_hook(self._forward)

    def begin(self, seed: int) -> None:
        """Forgets all batches; `seed` fixes the random vectors of the next ones."""
        self._sums.clear()
        self._samples, self._square = 0, 0.0
        self._random = torch.Generator().manual_seed(seed)

    def add(self, feed: Mapping[str, np.ndarray]) -> None:
        """Adds one batch, samples on the first axis, with one random vector for each sample."""
        self._leaves.clear()
        output = self.network(*(torch.from_numpy(array) for array in feed.values()))
        torch.autograd.grad(output, self._leaves, self._seed(output.detach()))
        self._samples += len(output)
        self._square += float(output.detach().square().sum())

    def factors(self) -> list[Factors]:
        """The factors of all layers over the batches that were added, in the order in which the layers run. The sums
        themselves become the factors, which saves their memory: `begin` comes before the next batch."""
        scale = 1.0 if self.kind == "categorical" else self._samples / self._square
        return [self._factors(sums, scale / self._samples) for sums in self._sums.values()]

    def _seed(self, output: Tensor) -> Tensor:
        """S e with S S^T the Fisher information of the outputs [batch, classes] or the identity, e random signs."""
        signs = torch.randint(0, 2, output.shape, generator=self._random).to(output.dtype).mul_(2).sub_(1)
        if self.kind == "gaussian":
            return signs
        p = output.softmax(-1)
        spread = p.sqrt().mul_(signs)
        return spread - p * spread.sum(-1, keepdim=True)

    def _forward(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (x,) = inputs
        sums = self._sums.get(module)
        if sums is None:
            sums = self._sums[module] = _zeros(module)
        sums.positions += output.numel() // len(sums.gradient)
        sums.passes_on = x.requires_grad
        _add_inputs(sums.input, module, x.detach())
        if not output.requires_grad:
            self._leaves.append(output.requires_grad_())
        output.register_hook(partial(_add_gradient, sums.gradient, module))

    @staticmethod
    def _factors(sums: Sums, scale: float) -> Factors:
        inner, outer = sums.input.div_(sums.positions), sums.gradient.mul_(scale)
        return Factors(inner.numpy(), outer.numpy(), sums.map)


def _zeros(module: nn.Module) -> Sums:
    weight = module.weight
    assert isinstance(weight, Tensor)
    assert not isinstance(module, nn.Conv2d) or module.groups == 1
    out, inputs = len(weight), prod(weight.shape[1:])
    return Sums(torch.zeros(inputs, inputs), torch.zeros(out, out))


def _add_inputs(total: Tensor, module: nn.Module, x: Tensor) -> None:
    if not isinstance(module, nn.Conv2d):
        _add_products(total, x.reshape(-1, len(total)).T)
        return
    for part in _parts(x, module):
        _add_products(total, patches(part, module))


def _parts(x: Tensor, module: nn.Conv2d) -> Sequence[Tensor]:
    """`x` in runs of samples that give about COLUMNS positions."""
    return x.split(max(1, COLUMNS * prod(module.stride) // prod(x.shape[2:])))


def patches(x: Tensor, module: nn.Conv2d) -> Tensor:
    """im2col: what `module` reads of x [n, c, h, w], as [c * taps, n * positions].

    It is torch's `unfold` with the samples behind the taps, in the one copy that the product needs.
    """
    assert not isinstance(module.padding, str)
    (pad_h, pad_w), (step_h, step_w), (tap_h, tap_w) = module.padding, module.stride, module.dilation
    x = nn.functional.pad(x, (pad_w, pad_w, pad_h, pad_h))
    n, c, *sides = x.shape
    height, width = (
        (side - tap * (size - 1) - 1) // step + 1
        for side, tap, size, step in zip(sides, module.dilation, module.kernel_size, module.stride, strict=True)
    )
    sample, channel, row, column = x.stride()
    windows = x.as_strided(
        (c, *module.kernel_size, n, height, width),
        (channel, row * tap_h, column * tap_w, sample, row * step_h, column * step_w),
    )
    return windows.reshape(-1, n * height * width)


def _add_gradient(total: Tensor, module: nn.Module, gradient: Tensor) -> None:
    if isinstance(module, nn.Conv2d):
        _add_products(total, gradient.transpose(0, 1).reshape(len(total), -1))
    else:
        _add_products(total, gradient.reshape(-1, len(total)).T)


def _add_products(total: Tensor, columns: Tensor) -> None:
    """Adds all products of two rows; the product is summed up in place, without a copy of the matrix."""
    total.addmm_(columns, columns.T)


def product(a: np.ndarray, b: np.ndarray, threads: int) -> Callable[[], object]:
    """A function that multiplies the two matrices, for timing."""
    torch.set_num_threads(threads)
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    return lambda: left @ right
