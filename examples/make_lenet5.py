"""Makes the files of this folder: trains LeNet-5 on Fashion-MNIST and writes the model, calibration images and a
labelled evaluation set. Nothing else is needed to use them; run this only to make them again.

    apt-get install dataset-fashion-mnist
    pip install -e ".[torch,cpu]"
    python examples/make_lenet5.py [--data DIR] [--out DIR] [--epochs 10]
"""

import argparse
from pathlib import Path

from kronnx.tools.zoo.entry import require, save_arrays, save_labels
from kronnx.tools.zoo.fashion import default_folder, export_classifier, lenet5_network, read_images, train

EVALUATION_IMAGES = 2000
CALIBRATION_IMAGES = 1000


def main() -> None:
    options = _options()
    torch = require("torch", "torch onnx onnxscript")
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    train_set, test_set = (read_images(options.data, part) for part in ("train", "t10k"))
    network = lenet5_network()
    train(network, train_set, options.epochs, rate=3e-3)
    export_classifier(network, options.out / "lenet5.onnx")
    save_arrays(options.out / "lenet5_calibration.npz", {"image": train_set.pixels[:CALIBRATION_IMAGES]})
    save_arrays(options.out / "lenet5_evaluation.npz", {"image": test_set.pixels[:EVALUATION_IMAGES]})
    save_labels(options.out / "lenet5_labels.npy", test_set.labels[:EVALUATION_IMAGES])
    print(f"accuracy on the {len(test_set.labels):,} test images: {_accuracy(network, test_set):.4f}")


def _accuracy(network, images) -> float:
    import torch

    with torch.no_grad():
        return float((network(torch.from_numpy(images.pixels)).argmax(1).numpy() == images.labels).mean())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains LeNet-5 on Fashion-MNIST and writes the example's files.")
    parser.add_argument("--data", type=Path, default=default_folder(), help="folder of the four gzipped idx files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="another number may give other weights")
    return parser.parse_args()


if __name__ == "__main__":
    main()
