"""PyTorch to the phone: three small networks, trained in PyTorch, as int8 .tflite.

    pip install torch onnx onnxscript
    python examples/from_pytorch.py [--smoke] [--pytorch PYTHON]

The networks are those of well-known articles: LeNet (5x5 convolutions of 6 and 16
channels, dense layers of 120, 84 and 10), convolutions of 64 and 128 channels with
dense layers of 1000 and 10, and convolutions of 32 and 64 channels with dense layers of
128 and 10. Each is trained in PyTorch, in a process of its own, on scikit-learn's
digits at 28 x 28 pixels, written by `torch.onnx.export`, read by `from_onnx`,
calibrated and exported. The accuracy of all three is printed. `--pytorch` is the Python
that has PyTorch, where it is another environment's.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

NETWORKS = ("lenet", "wide", "mnist")
TRAINED = 1400  # images; the others are for the test


def load_images(channels=1):
    """Returns digits of 28 x 28 pixels from 0 to 1, the channels first, and labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype("float32") / 16
    images = np.kron(images, np.ones((1, 3, 3), "float32"))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None]
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order].astype("int64")
    return np.repeat(images, channels, axis=1), labels


def channels_of(name):
    """Returns how many channels the pictures of a network have."""
    return 3 if name == "wide" else 1


def network(name):
    """Returns a network of PyTorch."""
    from torch import nn

    if name == "lenet":
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(16 * 4 * 4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
            nn.Linear(84, 10),
        )
    if name == "wide":
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(128 * 5 * 5, 1000), nn.ReLU(), nn.Linear(1000, 10)),
        )
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten()),
        *(nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(128, 10),
    )


def train(name, folder, epochs):
    """Trains a network in PyTorch and writes it; prints its accuracy."""
    import torch

    torch.manual_seed(0)
    with np.load(folder / f"{name}.npz") as stored:
        images, labels = (torch.from_numpy(stored[key]) for key in ("x", "y"))
    model = network(name)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(TRAINED).split(64):
            optimizer.zero_grad()
            scores = model(images[batch])
            torch.nn.functional.cross_entropy(scores, labels[batch]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(images[TRAINED:]).argmax(1) == labels[TRAINED:]
    print(f"accuracy={right.float().mean().item()}")
    torch.onnx.export(
        model,
        (images[:2],),
        str(folder / f"{name}.onnx"),
        input_names=["image"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
    )


def trained_in_pytorch(name, folder, epochs, python):
    """Returns the accuracy of a network that another process trains and writes."""
    images, labels = load_images(channels_of(name))
    np.savez(folder / f"{name}.npz", x=images, y=labels)
    command = [python, __file__, "--train", name, "--output", str(folder)]
    done = subprocess.run(
        [*command, "--epochs", str(epochs)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split("accuracy=")[1].split()[0])


def main(
    smoke: bool = False, output: str = "from_pytorch", pytorch: str = sys.executable
) -> dict:
    """Takes the networks to .tflite; returns accuracies in PyTorch, Keras and int8."""
    import tfcompress

    folder = Path(output)
    folder.mkdir(exist_ok=True)
    found = {}
    for name in NETWORKS[:1] if smoke else NETWORKS:
        before = trained_in_pytorch(name, folder, 2 if smoke else 10, pytorch)

        model = tfcompress.from_onnx(folder / f"{name}.onnx")
        images, labels = load_images(channels_of(name))
        images = images.transpose(0, 2, 3, 1)
        final = tfcompress.finalize(tfcompress.calibrate(model, images[:256]))
        path = folder / f"{name}.tflite"
        artifact = tfcompress.export(final, path, overwrite=True)

        tested = images[TRAINED:]
        scores = model.predict(tested, verbose=0), tfcompress.load(artifact)(tested)
        shares = [float(np.mean(s.argmax(-1) == labels[TRAINED:])) for s in scores]
        found[name] = (before, *shares)
        told = " / ".join(f"{share:.2%}" for share in found[name])
        size = path.stat().st_size / 1000
        print(f"{name}: PyTorch / Keras / int8 .tflite {told}, {size:,.0f} kB")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="one network, short")
    parser.add_argument("--output", default="from_pytorch", help="a folder")
    parser.add_argument(
        "--pytorch", default=sys.executable, help="a Python that has it"
    )
    parser.add_argument("--train", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=10, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(given.train, Path(given.output), given.epochs)
    else:
        main(given.smoke, given.output, given.pytorch)
