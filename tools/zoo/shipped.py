"""Models as packages ship them and exporters write them, none made for a benchmark: each with inputs like those that
its own code gives it, for going from load to verdict.

Sound is made up (`sounds`), bytes are those of installed files, text is the zoo's, pictures are its stamps.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ...runtime.sessions import Session
from .audio import sounds
from .decoders import EXPORTERS, FAMILIES, decoder
from .detector import face_landmarks, half_precision, with_suppression
from .entry import Entry, Shipped, packaged_file, save_arrays, save_folder
from .ocr import ddddocr
from .stamps import nudenet, opennsfw

RATE = 16_000
SILERO = ("silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence", "silero_vad_half", "silero_vad_op18_ifless",
          "silero_vad_openvino_16k")  # fmt: skip
WINDOW, CONTEXT, STEPS = 512, 64, 24
STATES = {"Run_1663829550_Stage_0": 64, "Run_1663915512_Stage_0": 64, "Run_1668423760_Stage_0": 96}
"""The width of the state of each of AECMOS' models."""
BYTES = 1024  # Magika reads as many from the beginning and from the end of a file


def silero(cache: Path, name: str) -> Shipped:
    """Voice activity of eight streams at a time, window after window, with the states that the model itself gives; one
    stream where it takes no more."""
    model, folder = packaged_file(cache, "silero-vad", f"/{name}.onnx"), cache / "shipped" / name
    if not folder.exists():
        session = Session(model)
        fixed = session.input_shapes["input"][0] == 1
        streams = sounds(STEPS * WINDOW, RATE, range(1 if fixed or "h" in session.input_shapes else 8))
        feeds = _sequence(streams[0]) if "h" in session.input_shapes else _windows(session, streams)
        save_folder(folder, feeds)
    return Shipped(model, folder)


def _windows(session: Session, streams: np.ndarray) -> Iterator[Mapping[str, np.ndarray]]:
    state = np.zeros((2, len(streams), 128), np.float32)
    padded = np.pad(streams, ((0, 0), (CONTEXT, 0)))
    for step in range(STEPS):
        window = padded[:, step * WINDOW : (step + 1) * WINDOW + CONTEXT]
        given = {"input": window, "state": state, "sr": np.array(RATE, np.int64)}
        feed = {name: given[name] for name in session.input_shapes}
        yield feed
        state = session.run(feed)["stateN"]


def _sequence(stream: np.ndarray) -> Iterator[Mapping[str, np.ndarray]]:
    padded, state = np.pad(stream, (CONTEXT, 0)), np.zeros((1, 1, 128), np.float32)
    windows = np.stack([padded[i * WINDOW : (i + 1) * WINDOW + CONTEXT] for i in range(STEPS)])
    for start in range(0, STEPS, 4):
        yield {"input": windows[start : start + 4], "h": state, "c": state}


def dnsmos(cache: Path, name: str, folder: str = "dnsmos_models") -> Shipped:
    """How good speech sounds, from nine seconds of it, or from its spectrum."""
    model = packaged_file(cache, "speechmos", f"/{folder}/{name}.onnx")
    data = cache / "shipped" / f"{folder}_{name}.npz"
    if not data.exists():
        _, *shape = Session(model).input_shapes["input_1"]
        save_arrays(data, {"input_1": _heard(tuple(int(d or 0) for d in shape), 32)})
    return Shipped(model, data)


def _heard(shape: tuple[int, ...], samples: int) -> np.ndarray:
    """Sounds [samples, length], or the logarithm of their spectrum [samples, frames, bands] in tens of decibels."""
    if len(shape) == 1:
        return sounds(shape[0], RATE, range(samples))
    frames, bands = shape
    return _spectrum(sounds(frames * 160 + 2 * bands, RATE, range(samples)), frames, bands)


def _spectrum(waves: np.ndarray, frames: int, bands: int) -> np.ndarray:
    cut = np.lib.stride_tricks.sliding_window_view(waves, 2 * bands, axis=1)[:, ::160][:, :frames]
    power = np.abs(np.fft.rfft(cut * np.hanning(2 * bands)))[..., :bands] ** 2
    return (np.log10(np.maximum(power, 1e-10)) / 4 + 1).astype(np.float32)


def aecmos(cache: Path, name: str) -> Shipped:
    """How well an echo was cancelled: three spectra at a time, and a state that is zero."""
    model, folder = packaged_file(cache, "speechmos", f"/aecmos_models/{name}.onnx"), cache / "shipped" / name
    if not folder.exists():
        spectra = _spectrum(sounds(200 * 160 + 320, RATE, range(72)), 200, 160)
        state = np.zeros((4, 1, STATES[name]), np.float32)
        save_folder(folder, ({"input": three[None], "h0": state} for three in spectra.reshape(24, 3, 200, 160)))
    return Shipped(model, folder)


def plcmos(cache: Path) -> Shipped:
    """How well lost packets were concealed, for one of many raters."""
    model, folder = packaged_file(cache, "speechmos", "/plcmos_v2.onnx"), cache / "shipped" / "plcmos_v2"
    if not folder.exists():
        spectra = _spectrum(sounds(100 * 160 + 514, RATE, range(24)), 100, 257)
        raters = np.random.default_rng(0).standard_normal((24, 1, 64)).astype(np.float32)
        pairs = zip(spectra[:, None, None], raters, strict=True)
        save_folder(folder, ({"degraded_audio": one, "rater_embed": rater} for one, rater in pairs))
    return Shipped(model, folder)


def magika(cache: Path) -> Shipped:
    """The type of a file from its first and last kilobyte: [n, 2048] bytes, 256 where it is shorter."""
    model, data = packaged_file(cache, "magika", "/standard_v3_3/model.onnx"), cache / "shipped" / "magika.npz"
    if not data.exists():
        save_arrays(data, {"bytes": np.stack([_ends(path.read_bytes()) for path in _files()])})
    return Shipped(model, data)


def _files() -> list[Path]:
    """Eight at most of each kind of file that Python's own library and the installed packages have, 400 at most."""
    kinds: dict[str, list[Path]] = {}
    for key in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(key)).rglob("*.*")):
            if path.is_file() and 64 < path.stat().st_size < 1 << 24:
                kinds.setdefault(path.suffix, []).append(path)
    return [path for paths in kinds.values() for path in paths[:: max(1, len(paths) // 8)][:8]][:400]


def _ends(content: bytes) -> np.ndarray:
    bytes_ = np.frombuffer(content, np.uint8).astype(np.int32)
    first, last = bytes_[:BYTES], bytes_[-BYTES:]
    padded = (
        np.pad(first, (0, BYTES - len(first)), constant_values=256),
        np.pad(last, (BYTES - len(last), 0), constant_values=256),
    )
    return np.concatenate(padded)


def ddddocr_float(cache: Path) -> Shipped:
    """The newer reader, which isn't quantized; its words are those of the older one."""
    return Shipped(packaged_file(cache, "ddddocr", "/common.onnx"), ddddocr(cache).calibration)


def _of_entry(cache: Path, build: Callable[[Path], Entry]) -> Shipped:
    entry = build(cache)
    return Shipped(entry.model, entry.calibration)


FILES: dict[str, Callable[[Path], Shipped]] = {
    **{name: partial(silero, name=name) for name in SILERO},
    **{f"dnsmos_{name}": partial(dnsmos, name=name) for name in ("bak_ovr", "model_v8", "sig", "sig_bak_ovr")},
    "pdnsmos_sig_bak_ovr": partial(dnsmos, name="sig_bak_ovr", folder="pdnsmos_models"),
    **{f"aecmos_{number}": partial(aecmos, name=name) for number, name in enumerate(STATES)},
    "plcmos_v2": plcmos,
    "magika": magika,
    "ddddocr_old": partial(_of_entry, build=ddddocr),
    "ddddocr": ddddocr_float,
    "nudenet": partial(_of_entry, build=nudenet),
    "opennsfw": partial(_of_entry, build=opennsfw),
    "face_landmark": face_landmarks,
    "yolov8n_nms": with_suppression,
    "yolov8n_half": half_precision,
    **{
        f"{family}_{exporter}": partial(decoder, family=family, exporter=exporter)
        for family in FAMILIES
        for exporter in EXPORTERS
    },
}
"""The files by name, in the order of the table."""
