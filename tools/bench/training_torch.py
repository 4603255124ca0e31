"""The same training in PyTorch: a network and a lesson in, steps of Adam out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .training_cases import LARGEST_NORM, LEARNING_RATE, Arrays, Lesson
from .turns import Differs


class Torch:
    """Trains the parameters that are the lesson's weights, and no others: the divergence of logits, or half the squared
    relative error of values. The network is in inference mode.

    Adam is torch's fused one, on a CPU three times as fast as its default.
    """

    def __init__(self, network: Callable[[], nn.Module], taught: Lesson, threads: int, exact: bool = False) -> None:
        torch.set_num_threads(threads)
        dtype = torch.float64 if exact else torch.float32
        self.kind = taught.head.kind
        self.network = with_initializers(network(), taught.initializers).to(dtype)
        weights = {weight.name: weight.array for weight in taught.weights}
        self.parameters = parameters_of(self.network, weights)
        _set(self.parameters, weights)
        self.inputs = [_tensor(array, dtype) for array in taught.feed.values()]
        self.target = _tensor(taught.target, dtype)

    def begin(self) -> None:
        self.tuned = [parameter for parameter, _ in self.parameters.values()]
        self.optimizer = torch.optim.Adam(self.tuned, LEARNING_RATE, fused=True)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self._loss(self.network(*self.inputs))
        loss.backward()
        nn.utils.clip_grad_norm_(self.tuned, LARGEST_NORM)
        self.optimizer.step()
        return loss.item()

    def gradients(self) -> dict[str, np.ndarray]:
        """Those of the last step, clipped, in the layout of the model's weights."""
        found: dict[str, np.ndarray] = {}
        for name, (parameter, turned) in self.parameters.items():
            assert parameter.grad is not None
            found[name] = (parameter.grad.T if turned else parameter.grad).numpy()
        return found

    def _loss(self, output: Tensor) -> Tensor:
        if self.kind == "gaussian":
            return 0.5 * (output - self.target).square().sum() / self.target.square().sum()
        log_q, log_p = output.log_softmax(-1), self.target.log_softmax(-1)
        return nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def with_initializers(network: nn.Module, initializers: Arrays) -> nn.Module:
    """The network in inference mode, with the values of the initializers that bear the names of its parameters, and
    each BatchNorm2d merged into the convolution before it, as it is in a clean model."""
    network = network.eval().requires_grad_(False)
    named = {name: torch.from_numpy(initializers[name].copy()) for name in network.state_dict() if name in initializers}
    network.load_state_dict(named, strict=False)
    _merge_norms(network)
    return network


def _merge_norms(network: nn.Module) -> None:
    before: tuple[str, nn.Module] | None = None
    for name, module in list(network.named_children()):
        if isinstance(module, nn.BatchNorm2d) and before is not None and isinstance(before[1], nn.Conv2d):
            setattr(network, before[0], fuse_conv_bn_eval(before[1], module))
            setattr(network, name, nn.Identity())
        _merge_norms(module)
        before = name, module


Found = dict[str, tuple[nn.Parameter, bool]]


def parameters_of(network: nn.Module, weights: Arrays) -> Found:
    """For each weight the parameter that has its values, and whether that is transposed. Raises Differs if there is
    none."""
    left = dict(network.named_parameters())
    found: Found = {}
    for name, array in weights.items():
        match = next(((k, t) for k, p in left.items() for t in (False, True) if _same(p, array, t)), None)
        if match is None:
            raise Differs(
                f"no parameter in torch has the values of {name!r} {list(array.shape)}; is the file an old one?"
            )
        found[name] = left.pop(match[0]), match[1]
    return found


def _same(parameter: nn.Parameter, array: np.ndarray, turned: bool) -> bool:
    if turned and parameter.ndim != 2:
        return False
    values = (parameter.T if turned else parameter).detach().numpy()
    return values.shape == array.shape and np.allclose(values, array, rtol=1e-4, atol=1e-6)


def _set(parameters: Found, weights: Arrays) -> None:
    """To the last digit."""
    for name, (parameter, turned) in parameters.items():
        parameter.requires_grad_(False)
        array = torch.from_numpy(weights[name].copy())
        parameter.copy_(array.T if turned else array)
        parameter.requires_grad_()


def _tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
