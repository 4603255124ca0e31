"""Sounds, made up; and Basic Pitch (Bittner et al., 2022): a small network on a constant-Q transform, where there is
nothing to gain."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .entry import Entry, packaged_file, save_arrays

SAMPLES, RATE = 43844, 22050
INPUT = "serving_default_input_2:0"


def basic_pitch(cache: Path) -> Entry:
    """Two seconds of sound [n, 43844, 1] to notes, onsets and pitches."""
    folder = cache / "basic_pitch"
    entry = Entry(
        "basic_pitch", packaged_file(cache, "basic-pitch", "/nmp.onnx"), folder / "calibration.npz",
        folder / "evaluation.npz", None, score="fidelity", notes="structure only: made-up chords",
    )  # fmt: skip
    if not entry.evaluation.exists():
        chords = np.stack([_chord(np.random.default_rng(seed)) for seed in range(48)])
        save_arrays(entry.calibration, {INPUT: chords[:16]})
        save_arrays(entry.evaluation, {INPUT: chords[16:]})
    return entry


def _chord(rng: np.random.Generator) -> np.ndarray:
    """Three decaying tones of the piano's middle with four overtones each, as sound [43844, 1] of -1 to 1."""
    seconds = np.arange(SAMPLES) / RATE
    pitches = 440 * 2 ** (rng.integers(-24, 13, 3) / 12)
    overtones = np.arange(1, 6)[:, None]
    waves = [(np.sin(2 * np.pi * f * overtones * seconds) / overtones).sum(0) for f in pitches]
    sound = np.sum(waves, axis=0) * np.exp(-2 * (seconds % rng.uniform(0.3, 1.0)))
    return (sound / np.abs(sound).max()).astype(np.float32)[:, None]


def sounds(length: int, rate: int, seeds: Iterable[int]) -> np.ndarray:
    """[seeds, length] of -1 to 1, like voices in a room: harmonics of a gliding pitch below a falling spectrum, in
    syllables with pauses, over noise."""
    return np.stack([_voice(np.random.default_rng(seed), length, rate) for seed in seeds])


def _voice(rng: np.random.Generator, length: int, rate: int) -> np.ndarray:
    seconds = np.arange(length) / rate
    pitch = rng.uniform(90, 240) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * seconds))
    phase, overtones = 2 * np.pi * np.cumsum(pitch) / rate, np.arange(1, 24)
    loudness = np.exp(-overtones * rng.uniform(0.08, 0.3)) * rng.uniform(0.3, 1, len(overtones))
    voiced = (np.sin(phase * overtones[:, None]) * loudness[:, None]).sum(0)
    syllables = np.clip(
        np.sin(2 * np.pi * rng.uniform(2, 5) * seconds + rng.uniform(0, 6)) + rng.uniform(-0.3, 0.6), 0, 1
    )
    phrases = np.sin(2 * np.pi * rng.uniform(0.3, 0.8) * seconds + rng.uniform(0, 6)) > -0.3
    sound = voiced * syllables * phrases + rng.uniform(0.01, 0.3) * rng.standard_normal(length)
    return (rng.uniform(0.1, 0.9) * sound / np.abs(sound).max()).astype(np.float32)
