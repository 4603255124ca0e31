"""Makes the golden factors: the networks of cases.py in, `<case>.onnx` (float64) and `<case>.npz` beside this file out.

    pip install torch==2.13 curvlinops-for-pytorch==3.0.1 onnx && python make_golden.py

Every number is had twice, and the script stops where the two differ: from curvlinops (KFACLinearOperator and
EKFACLinearOperator, Fisher type "type-2", which takes every class vector in turn), and from the definitions, written
out below with the per-sample gradients of torch.func. Stored is what curvlinops says, where it can; by definition
alone are
- grouped and depthwise convolutions: curvlinops averages the patches over the groups;
- weights that are used twice: it divides A by the positions of one use, and EKFAC keeps what the last use read;
- heads with several positions: it mixes classes of different positions in one backward pass;
- the exact traces, which it doesn't give, and the softmax at another temperature.

Conventions of the stored arrays (docs/mathematics.md), for layers W [groups, out, in], N samples, T positions:
- expand  A = 1/(N T) sum_nt a a^T,              G = 1/N sum_nt g g^T
- reduce  A = 1/N sum_n (mean_t a)(mean_t a)^T,  G = 1/N sum_n (sum_t g)(sum_t g)^T
- the last row and column of A belong to the bias, an input that is always 1, whether the layer has one or not;
- g is the derivative of one sample's loss. curvlinops with reduction="sum" gives N G, and 2 N G for a squared error
  (its loss has no 1/2), in A it divides by N T as we do;
- a gaussian head is divided by the root of the mean squared norm of the output per sample;
- a head with several positions has the mean over them as its loss;
- at temperature tau the gradient starts from sqrt(p_c) (e_c - p), p = softmax(logits / tau), without a factor 1 / tau.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from cases import CASES, Case
from curvlinops import EKFACLinearOperator, KFACLinearOperator
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

FOLDER = Path(__file__).parent
HEADER = '<ir_version: 10, opset_import: ["" : 20]> net '
SAMPLES = 20
SHARINGS = ("expand", "reduce")
TEMPERATURE = 4.0


def vectors(case: Case, outputs: Tensor, temperature: float = 1.0) -> Tensor:
    """[vectors, N, ...]: what is back-propagated, in turn; their second moments sum up to the exact Fisher."""
    if case.gaussian:
        scale = 1 / outputs.square().sum(1).mean().sqrt()
        return scale * torch.eye(outputs.shape[1])[:, None].expand(-1, len(outputs), -1)
    classes = outputs.shape[-1]
    p = (outputs / temperature).softmax(-1)
    each = torch.stack([p[..., c, None].sqrt() * (torch.eye(classes)[c] - p) for c in range(classes)])
    if outputs.ndim == 2:
        return each
    positions = outputs.shape[1]
    masks = torch.eye(positions)[:, None, None, :, None] / positions**0.5
    return (masks * each).flatten(0, 1)


@dataclass(frozen=True)
class Record:
    """What one layer reads [N, T, groups, in], the gradients of what it gives [vectors, N, T, groups, out], and those
    of its weight [vectors, N, groups, out, in]."""

    inputs: Tensor
    gradients: Tensor
    weights: Tensor


def records(case: Case, x: Tensor, temperature: float = 1.0) -> dict[str, Record]:
    reads: dict[str, list[Tensor]] = {name: [] for name in case.layers}
    gives: dict[str, list[Tensor]] = {name: [] for name in case.layers}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            reads[name].append(inputs[0].detach())
            gives[name].append(output)

        return keep

    handles = [case.net.get_submodule(name).register_forward_hook(hook(name)) for name in case.layers]
    outputs = case.net(x)
    for handle in handles:
        handle.remove()
    back = vectors(case, outputs.detach(), temperature)
    weights = weight_gradients(case, x, back)
    return {
        name: Record(
            torch.cat([rows(case.net.get_submodule(name), a) for a in reads[name]], 1),
            torch.cat([output_gradients(case.net.get_submodule(name), outputs, back, h) for h in gives[name]], 2),
            weights[name],
        )
        for name in case.layers
    }


def rows(layer: nn.Module, x: Tensor) -> Tensor:
    """[N, T, groups, in]"""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, 1, layer.in_features)
    assert isinstance(layer, nn.Conv2d)
    unfold = nn.Unfold(layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return unfold(x).transpose(1, 2).unflatten(2, (layer.groups, -1))


def output_gradients(layer: nn.Module, outputs: Tensor, back: Tensor, given: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(outputs, given, back, retain_graph=True, is_grads_batched=True)
    g = g.detach()
    if isinstance(layer, nn.Conv2d):
        return g.flatten(3).transpose(2, 3).unflatten(3, (layer.groups, -1))
    return g.flatten(2, -2)[..., None, :] if g.ndim > 3 else g[:, :, None, None]


def weight_gradients(case: Case, x: Tensor, back: Tensor) -> dict[str, Tensor]:
    """[vectors, N, groups, out, in] by torch.func, one sample at a time, whatever the uses of a weight."""
    parameters = {f"{name}.weight": case.net.get_parameter(f"{name}.weight").detach() for name in case.layers}

    def one(sample: Tensor, vector: Tensor) -> dict[str, Tensor]:
        def output(chosen: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(case.net, chosen, (sample[None],))[0]

        return torch.func.vjp(output, parameters)[1](vector)[0]

    found = torch.func.vmap(torch.func.vmap(one), in_dims=(None, 0))(x, back)
    return {name: grouped(case.net.get_submodule(name), found[f"{name}.weight"].detach()) for name in case.layers}


def grouped(layer: nn.Module, weight: Tensor) -> Tensor:
    """[..., groups, out, in] from [..., groups * out, in] or [..., groups * out, channels, kernel, kernel]"""
    if isinstance(layer, nn.Conv2d):
        return weight.flatten(-3).unflatten(-2, (layer.groups, -1))
    return weight[..., None, :, :]


def factors(record: Record, sharing: str) -> tuple[Tensor, Tensor]:
    """A [groups, in + 1, in + 1] and G [groups, out, out] by definition."""
    a = torch.cat([record.inputs, torch.ones(*record.inputs.shape[:-1], 1)], -1)
    g, samples = record.gradients, len(record.inputs)
    if sharing == "reduce":
        a, g = a.mean(1, keepdim=True), g.sum(2, keepdim=True)
    inner = torch.einsum("ntgi,ntgj->gij", a, a) / (samples * a.shape[1])
    return inner, torch.einsum("vntgo,vntgp->gop", g, g) / samples


def traces(record: Record) -> tuple[Tensor, Tensor]:
    """1/N sum_n || sum_t g a^T ||_F^2, and the same with E a taken from a."""
    mean = record.inputs.mean((0, 1))
    centred = record.weights - torch.einsum("vntgo,gi->vngoi", record.gradients, mean)
    samples = len(record.inputs)
    return record.weights.square().sum() / samples, centred.square().sum() / samples


def corrected(record: Record, sharing: str) -> tuple[Tensor, Tensor, Tensor]:
    """EKFAC by definition: eigenvectors of A (without the bias) and G, and the second moments of the weight's gradient
    between them."""
    inner, outer = factors(record, sharing)
    inputs, outputs = eigenvectors(inner[:, :-1, :-1]), eigenvectors(outer)
    turned = outputs.transpose(1, 2) @ record.weights @ inputs
    return inputs, outputs, turned.square().sum((0, 1)) / len(record.inputs)


def eigenvectors(matrix: Tensor) -> Tensor:
    """Those of a matrix whose eigenvalues are distinct: others have no eigenvectors to compare."""
    values, found = torch.linalg.eigh(matrix)
    assert (values.diff() > 1e-6 * values[:, -1:]).all(), values
    return found


def operator(kind: type, case: Case, x: Tensor, sharing: str, separate: bool):
    """A curvlinops operator over all linear layers, the loss summed over samples."""
    loss = nn.MSELoss(reduction="sum") if case.gaussian else nn.CrossEntropyLoss(reduction="sum")
    labels = torch.zeros(SAMPLES, 3) if case.gaussian else torch.zeros(SAMPLES, dtype=torch.long)
    parameters = [p for name in case.layers for p in case.net.get_submodule(name).parameters()]
    return kind(
        case.net,
        loss,
        parameters,
        [(x, labels)],
        fisher_type="type-2",
        kfac_approx=sharing,
        separate_weight_and_bias=separate,
        check_deterministic=False,
    )


def scale(case: Case, x: Tensor) -> float:
    """What their G is divided by to be ours."""
    if not case.gaussian:
        return SAMPLES
    return 2 * SAMPLES * case.net(x).detach().square().sum(1).mean().item()


def their_factors(case: Case, x: Tensor, sharing: str) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, G) by layer; A has no row for the bias where the layer has none."""
    kfac = operator(KFACLinearOperator, case, x, sharing, separate=False)
    kfac.compute_kronecker_factors()
    inputs, outputs, by = kfac._input_covariances, kfac._gradient_covariances, scale(case, x)
    return {name: (inputs[name].detach()[None], outputs[name].detach()[None] / by) for name in case.layers}


def their_bases(case: Case, x: Tensor, sharing: str) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Eigenvectors of A and G, and the corrected eigenvalues, by layer."""
    ekfac = operator(EKFACLinearOperator, case, x, sharing, separate=True)
    ekfac._maybe_compute_ekfac()
    found = {}
    for name in case.layers:
        position = ekfac._mapping[name]["weight"]
        inputs, outputs = (
            vectors[name].detach()[None]
            for vectors in (ekfac._input_covariances_eigenvectors, ekfac._gradient_covariances_eigenvectors)
        )
        found[name] = inputs, outputs, ekfac._corrected_eigenvalues[name][position].detach()[None] / scale(case, x)
    return found


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12 * float(wanted.abs().max()) + 1e-20)


def aligned(found: tuple[Tensor, Tensor, Tensor], wanted: tuple[Tensor, Tensor, Tensor]) -> None:
    """The same eigenvectors up to their signs, and the same values: the eigenvalues are distinct."""
    for a, b in zip(found[:2], wanted[:2], strict=True):
        overlap = (a.transpose(1, 2) @ b).abs()
        torch.testing.assert_close(overlap, torch.eye(overlap.shape[-1]).expand_as(overlap), rtol=0, atol=1e-7)
    torch.testing.assert_close(found[2], wanted[2], rtol=1e-7, atol=1e-12)


def make(case: Case, x: Tensor) -> dict[str, np.ndarray]:
    """All arrays of a case, by name."""
    found = {"input.x": x.numpy()}
    recorded = records(case, x)
    for name, record in recorded.items():
        same(torch.einsum("vntgo,ntgi->vngoi", record.gradients, record.inputs), record.weights)
        for key, value in zip(("trace", "centred_trace"), traces(record), strict=True):
            found[f"{name}.{key}"] = value.numpy()
    for sharing in SHARINGS:
        theirs = their_factors(case, x, sharing) if case.by_curvlinops else {}
        bases = their_bases(case, x, sharing) if case.by_curvlinops and case.bases else {}
        for name, record in recorded.items():
            found |= compared(f"{name}.{sharing}", record, sharing, theirs.get(name))
            if name in case.bases:
                wanted = corrected(record, sharing)
                chosen = bases.get(name, wanted)
                aligned(chosen, wanted)
                found |= {
                    f"{name}.{sharing}.{k}": v.numpy() for k, v in zip(("Qa", "Qg", "values"), chosen, strict=True)
                }
    return found


def compared(key: str, record: Record, sharing: str, theirs: tuple[Tensor, Tensor] | None) -> dict[str, np.ndarray]:
    inner, outer = factors(record, sharing)
    if theirs is not None:
        size = theirs[0].shape[-1]
        same(theirs[0], inner[:, :size, :size])
        same(theirs[1], outer)
        inner[:, :size, :size], outer = theirs
    return {f"{key}.A": inner.numpy(), f"{key}.G": outer.numpy()}


def tempered(case: Case, x: Tensor) -> dict[str, np.ndarray]:
    """G at TEMPERATURE by definition."""
    found = records(case, x, TEMPERATURE)
    return {f"{name}.expand.tempered_G": factors(record, "expand")[1].numpy() for name, record in found.items()}


def exported(case: Case) -> onnx.ModelProto:
    """The ONNX model, with the parameters of the network as its initializers."""
    model = onnx.parser.parse_model(HEADER + case.text)
    parameters = {name.replace(".", "_"): p.detach().numpy() for name, p in case.net.named_parameters()}
    arrays = parameters | {f"{name}_t": array.T for name, array in parameters.items()}
    made = {name for node in model.graph.node for name in node.output}
    for info in [i for i in model.graph.value_info if i.name not in made]:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(arrays[info.name]), info.name))
        model.graph.value_info.remove(info)
    onnx.checker.check_model(model, full_check=True)
    return model


def check_outputs(case: Case, model: onnx.ModelProto, x: Tensor) -> None:
    (given,) = ReferenceEvaluator(model).run(None, {"x": x.numpy()})
    wanted = case.net(x).detach()
    np.testing.assert_allclose(given, (wanted if case.gaussian else wanted.softmax(-1)).numpy(), rtol=1e-12, atol=1e-12)


def main() -> None:
    for seed, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        for parameter in case.net.parameters():
            nn.init.normal_(parameter, std=1 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5)
        x = torch.randn(SAMPLES, *case.shape) + 0.3
        model = exported(case)
        check_outputs(case, model, x)
        arrays = make(case, x) | (tempered(case, x) if name == "linear" else {})
        onnx.save(model, FOLDER / f"{name}.onnx")
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
        print(f"{name}: {', '.join(case.layers)}")


if __name__ == "__main__":
    main()
