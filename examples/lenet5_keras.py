"""The practice: LeNet-5 in Keras, trained, looked at as matrices, compressed by K-FAC, and measured again.

    apt-get install dataset-fashion-mnist
    pip install -e ".[keras,cpu,report]"
    python examples/lenet5_keras.py [--data auto|cifar10|fashion-mnist|sample] [--epochs 10] [--out DIR]

CIFAR-10 comes through `keras.datasets` where the network allows, Fashion-MNIST from its package otherwise, or, without
either, the few labelled pictures of it that lie beside this script. Training
images guide the compression, and the accuracies are those of test images. lenet5_keras.ipynb is the same as a notebook.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import kronnx
import numpy as np
from kronnx.ir.errors import BudgetError
from kronnx.tools.report.layer_table import plain_layers
from kronnx.tools.report.quantities import percent, quantity
from kronnx.tools.report.records import Report
from kronnx.tools.report.sensitivity_table import plain_table as plain_sensitivity
from kronnx.tools.report.summary_table import aligned, plain_table
from kronnx.tools.zoo.fashion import default_folder, read_images
from practice_plots import front_figure, overview_figure, spectra_figure, wilson

BATCH, VALIDATION_SHARE = 32, 0.1
CALIBRATION_IMAGES = 2000
PATIENCE = 10.0  # seconds without a byte, after which a download is given up
SHARES = (0.5, 0.35, 0.25, 0.15, 0.1, 0.07)  # of the file's size, for the Pareto front


@dataclass(frozen=True)
class Images:
    """Pixels [n, height, width, channels] of 0 to 1, float32, and classes [n] of 0 to 9, to train and to test."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def take(self, samples: int | None) -> "Images":
        """The first `samples` of both parts, or all of them for None."""
        parts = (part[:samples] for part in (self.x_train, self.y_train, self.x_test, self.y_test))
        return Images(self.name, *parts)


def load_images(name: str = "auto") -> Images:
    """The images called `name` in SETS; 'auto' is the first of them that can be had here."""
    if name != "auto":
        return SETS[name]()
    for load in SETS.values():
        try:
            return load()
        except Exception as e:  # keras.utils.get_file raises bare Exceptions
            print(f"{(load.__doc__ or '').partition(' (')[0]} can't be had here ({e}): taking the next\n")
    raise AssertionError("the sample is always there")


def cifar10() -> Images:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 pictures [32, 32, 3]."""
    with _patience(PATIENCE):
        (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    return Images("CIFAR-10", _scaled(x_train), y_train[:, 0].astype(int), _scaled(x_test), y_test[:, 0].astype(int))


def fashion_mnist() -> Images:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 60,000 and 10,000 pictures [28, 28, 1]."""
    train, test = (read_images(default_folder(), part) for part in ("train", "t10k"))
    pixels = [_scaled(part.pixels.transpose(0, 2, 3, 1)) for part in (train, test)]
    return Images("Fashion-MNIST", pixels[0], train.labels, pixels[1], test.labels)


def sample() -> Images:
    """Sample of Fashion-MNIST (2,000 of its test pictures): half of it to train on, enough for a look."""
    folder = Path(__file__).parent
    with np.load(folder / "lenet5_evaluation.npz") as arrays:
        pixels = _scaled(arrays["image"].transpose(0, 2, 3, 1))
    labels, half = np.load(folder / "lenet5_labels.npy"), len(pixels) // 2
    return Images("Fashion-MNIST's sample", pixels[:half], labels[:half], pixels[half:], labels[half:])


SETS = {"cifar10": cifar10, "fashion-mnist": fashion_mnist, "sample": sample}


def _scaled(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / np.float32(255)


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def lenet5(shape: tuple[int, ...]) -> keras.Model:
    """LeNet-5 (LeCun et al., 1998) for pictures of `shape` [height, width, channels], with ReLU and max pooling in the
    place of tanh and average pooling, as is usual today. Pictures of 28 x 28 are padded by the first layer, as they
    were then."""
    layers = keras.layers
    padding = "same" if shape[0] == 28 else "valid"
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            layers.Conv2D(6, 5, padding=padding, activation="relu", name="conv1"),
            layers.MaxPooling2D(name="pool1"),
            layers.Conv2D(16, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(120, activation="relu", name="dense1"),
            layers.Dense(84, activation="relu", name="dense2"),
            layers.Dense(10, activation="softmax", name="classes"),
        ],
        name="lenet5",
    )


def trained(images: Images, epochs: int, seed: int, verbose: int = 0) -> keras.Model:
    """LeNet-5 after `epochs` of Adam; the last 10 % of the training images validate and teach nothing."""
    keras.utils.set_random_seed(seed)
    model = lenet5(images.x_train.shape[1:])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    data = images.x_train, images.y_train
    model.fit(*data, batch_size=BATCH, epochs=epochs, validation_split=VALIDATION_SHARE, verbose=verbose)
    return model


def matrices(model: keras.Model) -> dict[str, np.ndarray]:
    """Layer name -> its matrix [out, in]: y = W a for a dense layer, and for a convolution the same on every patch,
    im2col: in = channels x kernel height x kernel width, channels outermost."""
    found = {}
    for layer in model.layers:
        if layer.weights:
            kernel = layer.get_weights()[0]  # [in, out], or [height, width, channels, filters]
            turned = kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
            found[layer.name] = turned.reshape(len(turned), -1)
    return found


def weights_table(model: keras.Model) -> str:
    """The shape and size of every weight matrix, as Keras holds it and as a matrix."""
    lines = [("layer", "operator", "kernel in Keras", "matrix (out x in)", "parameters", "bytes")]
    for name, matrix in matrices(model).items():
        layer = model.get_layer(name)
        kernel = "x".join(map(str, layer.get_weights()[0].shape))
        count = layer.count_params()
        lines.append(
            (name, type(layer).__name__, kernel, "{} x {}".format(*matrix.shape), f"{count:,}", f"{4 * count:,}")
        )
    total = model.count_params()
    lines.append(("in all", "", "", "", f"{total:,}", f"{4 * total:,}"))
    return "\n".join(aligned(lines, "<<<<>>"))


def accuracy_line(model: keras.Model, images: Images) -> str:
    """The accuracy on the test images with its 95 % interval (Wilson, 1927)."""
    right = model.predict(images.x_test, verbose=0).argmax(-1) == images.y_test
    low, high = wilson(float(right.mean()), len(right))
    return f"accuracy {percent(right.mean())} (95 %: {percent(low)} to {percent(high)}) on {len(right):,} test images"


def compressed(model: keras.Model, images: Images, **limits: Any) -> kronnx.Result:
    """The model compressed within `limits`, which are those of `kronnx.optimize`. Training images without labels guide
    it; the test images are for the report."""
    calibration = images.x_train[:CALIBRATION_IMAGES]
    return kronnx.optimize(
        model, "svd,prune", data=calibration, eval_data=images.x_test, labels=images.y_test, **limits
    )


def change_line(report: Report) -> str:
    """How the accuracy changed, on the same images before and after."""
    found = report.accuracy
    if found is None or found.low is None or found.high is None:
        return "nothing was changed: the accuracy is what it was"
    low, high = wilson(found.after, found.samples)
    change, *interval = (100 * share for share in (found.after - found.before, found.low, found.high))
    return (
        f"accuracy {percent(found.after)} (95 %: {percent(low)} to {percent(high)}); change {change:+.2f} points "
        f"(95 %, paired: {interval[0]:+.2f} to {interval[1]:+.2f}; p = {found.p_value:.2g})"
    )


def front(model: keras.Model, images: Images, shares: Sequence[float]) -> list[Report]:
    """What is left of the model at each of `shares` of its size, whatever that costs; a share that can't be reached is
    left out, and said."""
    reports = []
    for share in shares:
        try:
            reports.append(compressed(model, images, size=share).report)
        except BudgetError as e:
            print(f"{share:.0%} of the size: {e}")
    return reports


def front_table(reports: Sequence[Report]) -> str:
    """One line a model: how small, how far from the original, how right."""
    lines = [("file", "share", "parameters", "mean KL", "accuracy", "change, points (95 %, paired)")]
    for report in reports:
        found = report.accuracy
        assert found is not None
        assert report.divergence is not None
        change = " to ".join(f"{100 * share:+.2f}" for share in (found.low, found.high))
        lines.append(
            (
                quantity(report.after.bytes, "B"), percent(report.after.bytes / report.before.bytes),
                f"{report.after.parameters:,}", f"{report.divergence.kl_mean:.2g}", percent(found.after),
                f"{100 * (found.after - found.before):+.2f} ({change})",
            )
        )  # fmt: skip
    return "\n".join(aligned(lines, ">>>>>>"))


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    images = load_images(options.data).take(options.samples)
    print(f"{images.name}: {len(images.x_train):,} training images, {len(images.x_test):,} test images\n")

    model = trained(images, options.epochs, options.seed, verbose=0 if options.quiet else 2)
    model.save(options.out / "lenet5.keras")
    print(f"{weights_table(model)}\n\nbefore: {accuracy_line(model, images)}\n")
    print(plain_sensitivity(kronnx.sensitivity(model, data=images.x_train[:CALIBRATION_IMAGES])))

    result = compressed(model, images, max_drop=options.max_drop)
    result.save(options.out / "lenet5.opt.onnx")
    result.report.save(options.out / "report.json")
    print(f"{plain_layers(result.report.layers)}\n{plain_table(result.report)}\nafter: {change_line(result.report)}\n")

    reports = front(model, images, options.shares)
    if reports:
        print(f"{front_table(reports)}\n")
    save_figures(options.out, model, result.report, reports)
    print(f"written to {options.out}: {', '.join(sorted(path.name for path in options.out.iterdir()))}")


def save_figures(out: Path, model: keras.Model, report: Report, reports: Sequence[Report]) -> None:
    """Writes overview.png, spectra.png and front.png."""
    overview_figure(report).savefig(out / "overview.png", dpi=150)
    spectra_figure(matrices(model), report.layers).savefig(out / "spectra.png", dpi=150)
    front_figure(report, reports).savefig(out / "front.png", dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="LeNet-5 in Keras: trained, compressed by K-FAC, measured, plotted.")
    parser.add_argument("--data", choices=("auto", *SETS), default="auto")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, metavar="N", help="take N images of each part; all by default")
    parser.add_argument("--out", type=Path, default=Path("practice"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--max-drop", metavar="LIMIT", help="as optimize takes it; default: a mean KL of 0.01 nats")
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="of the size, for the Pareto front")
    parser.add_argument("--quiet", action="store_true", help="say nothing while training")
    return parser.parse_args()


if __name__ == "__main__":
    main()
