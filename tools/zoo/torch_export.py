"""PyTorch modules as ONNX files: opset 20, IR 10, without the exporter's notes (they hold the machine's paths)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

if TYPE_CHECKING:
    import torch


def export(
    network: torch.nn.Module,
    path: Path,
    example: Mapping[str, torch.Tensor],
    output: str,
    axes: tuple[str, ...] = ("batch",),
    keep_batch_norm: bool = False,
) -> None:
    """Writes `network` in inference mode. `example` names its inputs in order, two or more of whatever varies; `axes`
    are the symbols of every input's first axes. The exporter's own clean-up merges BatchNormalization into Conv;
    `keep_batch_norm` leaves that to the optimizer under test and only folds constants."""
    import torch

    dims = {i: torch.export.Dim(axis) for i, axis in enumerate(axes)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(),
            tuple(example.values()),
            input_names=list(example),
            output_names=[output],
            dynamic_shapes=tuple(dims for _ in example),
            opset_version=20,
            dynamo=True,
            optimize=not keep_batch_norm,
            verbose=False,
        )
    assert program is not None
    _write(_folded(program.model) if keep_batch_norm else program.model, path)


def _folded(model: onnx_ir.Model) -> onnx_ir.Model:
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules.common import remove_optional_bias_from_conv_rule

    optimizer.fold_constants(model)
    rewriter.RewritePass([remove_optional_bias_from_conv_rule])(model)
    RemoveUnusedNodesPass()(model)
    return model


def _write(model: onnx_ir.Model, path: Path) -> None:
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.ir_version = 10
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    onnx_ir.save(model, part)
    part.replace(path)
