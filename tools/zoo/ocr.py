"""Readers of printed words: the recogniser of PP-OCRv4 with a dynamic width, and ddddocr's, which is quantized already.
The words come from movie reviews and are set in Debian's DejaVu and FreeFont."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from ...ir.errors import InputError
from .entry import Entry, packaged_file, require, save_arrays, save_folder, save_labels
from .text import snippets

CALIBRATION_WORDS, EVALUATION_WORDS, TRAINING_WORDS = 200, 300, 4000
WORD = r"[A-Za-z]{3,}|\d{2,}"
FONT_FOLDER = Path("/usr/share/fonts/truetype")
FONTS = ("dejavu/DejaVuSans", "dejavu/DejaVuSans-Bold", "dejavu/DejaVuSerif", "dejavu/DejaVuSansMono",
         "freefont/FreeSans", "freefont/FreeSerif", "freefont/FreeSerifItalic", "freefont/FreeMonoBold")  # fmt: skip
BATCH, TRAINING_BATCH = 8, 32


def ppocr_rec(cache: Path) -> Entry:
    """The recogniser: pictures [n, 3, 48, width] to probabilities [n, width / 8, 6625] of characters and blank."""
    folder = cache / "ppocr_rec"
    entry = Entry(
        "ppocr_rec", packaged_file(cache, "rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx"),
        folder / "calibration", folder / "evaluation", folder / "words.npy", score="cer",
        notes=f"character error rate on {EVALUATION_WORDS} other words, spaces ignored",
    )  # fmt: skip
    if entry.labels and not entry.labels.exists():
        texts = list(_texts(cache))
        _save_pictures(entry.calibration, texts[:CALIBRATION_WORDS])
        words = _save_pictures(entry.evaluation, texts[CALIBRATION_WORDS : CALIBRATION_WORDS + EVALUATION_WORDS])
        save_labels(entry.labels, np.array(words))
    return entry


def training_words(cache: Path) -> Path:
    """A folder of batches of pictures with words that `ppocr_rec` isn't judged on, of all snippets and in all fonts;
    each batch of one width, the batches in a random order that never changes."""
    folder = cache / "ppocr_rec" / "training"
    if not folder.exists():
        batches = _batches(_training_texts(cache), TRAINING_BATCH)
        save_folder(folder, (_feed(batches[i]) for i in np.random.default_rng(0).permutation(len(batches))))
    return folder


def ddddocr(cache: Path) -> Entry:
    """A reader with an int8 LSTM, to be left alone: grey pictures [1, 1, 64, width] to characters [1, positions]."""
    folder = cache / "ddddocr"
    entry = Entry(
        "ddddocr", packaged_file(cache, "ddddocr", "/common_old.onnx"), folder / "calibration", folder / "evaluation",
        None, score="agreement", notes="structure only: quantized already",
    )  # fmt: skip
    if not entry.evaluation.exists():
        texts = list(_texts(cache))
        _save_grey(entry.calibration, texts[:16])
        _save_grey(entry.evaluation, texts[16:48])
    return entry


def _texts(cache: Path) -> Iterator[str]:
    """One to three words at a time, each word once, in a random order that never changes."""
    return _grouped(list(dict.fromkeys(w for s in snippets(cache)[:400] for w in re.findall(WORD, s))))


def _training_texts(cache: Path) -> list[str]:
    """One to three words at a time, none of them a word of the evaluation in any case, in a random order."""
    evaluation = list(_texts(cache))[CALIBRATION_WORDS : CALIBRATION_WORDS + EVALUATION_WORDS]
    known = set(" ".join(evaluation).lower().split())
    words = dict.fromkeys(w for s in snippets(cache) for w in re.findall(WORD, s) if w.lower() not in known)
    shuffled = np.random.default_rng(1).permutation(list(words)).tolist()
    return list(islice(_grouped(shuffled), TRAINING_WORDS))


def _grouped(words: list[str]) -> Iterator[str]:
    counts = np.random.default_rng(0).integers(1, 4, len(words))
    while words:
        count = int(counts[len(words) - 1])
        taken, words = words[:count], words[count:]
        yield " ".join(taken)


def _save_pictures(folder: Path, texts: list[str]) -> list[str]:
    """Writes batches of equal width, narrowest first, and returns the texts in that order."""
    batches = _batches(texts, BATCH)
    for number, batch in enumerate(batches):
        save_arrays(folder / f"{number:03d}.npz", _feed(batch))
    return [text for batch in batches for _, text in batch]


def _batches(texts: list[str], size: int) -> list[list[tuple[np.ndarray, str]]]:
    """At most `size` pictures of equal width with their texts, narrowest first."""
    drawn = sorted(((_drawn(text, i, 48), text) for i, text in enumerate(texts)), key=lambda d: d[0].shape[1])
    return [
        run[start : start + size]
        for _, group in groupby(drawn, key=lambda d: d[0].shape[1])
        for run in [list(group)]
        for start in range(0, len(run), size)
    ]


def _feed(batch: list[tuple[np.ndarray, str]]) -> dict[str, np.ndarray]:
    pixels = np.stack([np.broadcast_to(picture, (3, *picture.shape)) for picture, _ in batch])
    return {"x": (pixels / 127.5 - 1).astype(np.float32)}


def _save_grey(folder: Path, texts: list[str]) -> None:
    for number, text in enumerate(texts):
        pixels = _drawn(text, number, 64)[None, None]
        save_arrays(folder / f"{number:03d}.npz", {"input1": (pixels / 127.5 - 1).astype(np.float32)})


def _drawn(text: str, number: int, height: int) -> np.ndarray:
    """Black on white, pixels [height, width] of 0 to 255, the width a multiple of 64, in the `number`th font."""
    require("PIL", "pillow")
    from PIL import Image, ImageDraw, ImageFont

    path = (FONT_FOLDER / FONTS[number % len(FONTS)]).with_suffix(".ttf")
    if not path.is_file():
        raise InputError(f"no font {path}; run: apt-get install fonts-dejavu fonts-freefont-ttf")
    font = ImageFont.truetype(str(path), height * 2 // 3)
    width = -(-(int(font.getlength(text)) + height // 3) // 64) * 64
    picture = Image.new("L", (width, height), 255)
    ImageDraw.Draw(picture).text((height // 6, height // 2), text, fill=0, font=font, anchor="lm")
    return np.asarray(picture)
