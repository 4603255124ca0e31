"""Language models of transformers with small random weights, through both of PyTorch's exporters, on the bytes of movie
reviews: what their structure asks of a compiler, not what they know."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .entry import Shipped, require, save_folder
from .text import snippets

if TYPE_CHECKING:
    import torch

VOCABULARY, LONGEST, WIDTH, BLOCKS, HEADS = 256, 64, 96, 3, 4
BATCH, BATCHES = 8, 24
AXES = {0: "batch", 1: "sequence"}


def _gpt2(transformers: Any) -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=LONGEST, n_embd=WIDTH, n_layer=BLOCKS, n_head=HEADS,
        bos_token_id=0, eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def _llama(transformers: Any) -> Any:
    """Grouped-query attention: two heads of keys for four of queries."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS, num_key_value_heads=2, max_position_embeddings=LONGEST,
        bos_token_id=0, eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


EXPORTERS = ("dynamo", "script")
FAMILIES: dict[str, Callable[[Any], Any]] = {"gpt2": _gpt2, "llama": _llama}


def decoder(cache: Path, family: str, exporter: str) -> Shipped:
    """The model as ONNX, `input_ids` and `attention_mask` [batch, sequence] to `logits` [batch, sequence, 256], and a
    folder of batches for it, shortest first."""
    folder = cache / "decoders"
    model, data = folder / f"{family}_{exporter}.onnx", folder / "data"
    if not data.exists():
        save_folder(data, _feeds(snippets(cache)[: BATCH * BATCHES]))
    if not model.exists():
        _export(family, exporter == "dynamo", model)
    return Shipped(model, data)


def _feeds(texts: list[str]):
    coded = sorted((text.encode()[:LONGEST] for text in texts), key=len)
    for start in range(0, len(coded), BATCH):
        batch = coded[start : start + BATCH]
        width = len(batch[-1])
        yield {
            "input_ids": np.array([[*text, *[0] * (width - len(text))] for text in batch], np.int64),
            "attention_mask": np.array([[1] * len(text) + [0] * (width - len(text)) for text in batch], np.int64),
        }


def _export(family: str, dynamo: bool, path: Path) -> None:
    torch, transformers = require("torch", "torch onnx onnxscript"), require("transformers", "transformers")
    torch.manual_seed(0)
    ids = torch.ones(2, 9, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        torch.onnx.export(
            _logits(FAMILIES[family](transformers)).eval(), (ids, ids), str(part), dynamo=dynamo, opset_version=18,
            input_names=["input_ids", "attention_mask"], output_names=["logits"], verbose=False,
            **_shapes(torch, dynamo),
        )  # fmt: skip
    part.replace(path)


def _shapes(torch: Any, dynamo: bool) -> dict[str, Any]:
    if not dynamo:
        return {"dynamic_axes": dict.fromkeys(("input_ids", "attention_mask", "logits"), AXES)}
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=LONGEST)}
    return {"dynamic_shapes": (dims, dims), "external_data": False}


def _logits(network: torch.nn.Module) -> torch.nn.Module:
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids, attention_mask):
            return self.network(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits

    return Logits()
