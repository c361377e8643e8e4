"""TFMOT's quantization-aware models in Keras 3, beside TFMOT's own .tflite files.

    python benchmarks/from_tfmot.py

Three small networks are trained by TFMOT in a process of its own. For each the model of
`from_tfmot` is compared with what TFMOT's model computes, in steps of its output, and
so is the .tflite file that TensorFlow's converter makes of TFMOT's model.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

NAMES = ("mobilenet", "resnet", "tutorial")
IMAGES = np.random.default_rng(0).normal(size=(256, 16, 16, 3)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 5, 256)
SHOWN = 64


def make(folder):
    """Trains, saves and converts the models; runs where Keras 2 lives."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    layers = keras.layers

    def convolved(x, name, layer, activation=None):
        x = layers.BatchNormalization(name=f"{name}_norm")(layer(x))
        if activation == "relu6":
            return layers.ReLU(6.0, name=f"{name}_relu")(x)
        return layers.Activation(activation, name=f"{name}_on")(x) if activation else x

    def mobilenet():
        image = keras.Input((16, 16, 3), name="image")
        stem = layers.Conv2D(8, 3, 2, "same", use_bias=False, name="stem")
        x = convolved(image, "stem", stem, "relu6")
        for k, (width, stride) in enumerate([(16, 1), (16, 1), (24, 2), (24, 1)]):
            wide = layers.Conv2D(2 * width, 1, use_bias=False, name=f"wide{k}")
            depth = layers.DepthwiseConv2D(
                3, stride, "same", use_bias=False, name=f"depth{k}"
            )
            narrow = layers.Conv2D(width, 1, use_bias=False, name=f"narrow{k}")
            y = convolved(x, f"wide{k}", wide, "relu6")
            y = convolved(y, f"depth{k}", depth, "relu6")
            y = convolved(y, f"narrow{k}", narrow)
            same = x.shape == y.shape
            x = layers.Add(name=f"sum{k}")([x, y]) if same else y
        x = layers.GlobalAveragePooling2D(name="mean")(x)
        return keras.Model(image, layers.Dense(5, name="scores")(x))

    def resnet():
        image = keras.Input((16, 16, 3), name="image")
        stem = layers.Conv2D(8, 3, padding="same", name="stem")
        x = convolved(image, "stem", stem, "relu")
        for k in range(2):
            first = layers.Conv2D(8, 3, padding="same", name=f"first{k}")
            second = layers.Conv2D(8, 3, padding="same", name=f"second{k}")
            y = convolved(x, f"first{k}", first, "relu")
            y = convolved(y, f"second{k}", second)
            x = layers.Add(name=f"sum{k}")([x, y])
            x = layers.Activation("relu", name=f"sum{k}_on")(x)
        x = layers.Flatten(name="flat")(layers.AveragePooling2D(4, name="pool")(x))
        scores = layers.Dense(5, activation="softmax", name="scores")(x)
        return keras.Model(image, scores)

    def tutorial():
        return keras.Sequential(
            [
                layers.InputLayer((16, 16, 3)),
                layers.Conv2D(12, 3, activation="relu", name="conv"),
                layers.MaxPooling2D(name="max"),
                layers.Flatten(name="flat"),
                layers.Dense(5, name="scores"),
            ]
        )

    for build in (mobilenet, resnet, tutorial):
        keras.utils.set_random_seed(0)
        model = tfmot.quantization.keras.quantize_model(build())
        logits = build is not resnet
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
        model.compile(keras.optimizers.Adam(3e-3), loss)
        model.fit(IMAGES, LABELS, 32, 8, verbose=0)
        path = folder / build.__name__
        model.save(f"{path}.h5")
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        file = tf.lite.Interpreter(model_content=converter.convert())
        file.allocate_tensors()
        (source,), (target,) = file.get_input_details(), file.get_output_details()
        answers = []
        for image in IMAGES[:SHOWN]:
            file.set_tensor(source["index"], image[None])
            file.invoke()
            answers.append(file.get_tensor(target["index"])[0])
        outputs = model(IMAGES[:SHOWN], training=False).numpy()
        np.savez(f"{path}.npz", model=outputs, tflite=np.array(answers))


def main():
    from tfcompress import FakeQuantize
    from tfcompress.interop import from_tfmot

    with tempfile.TemporaryDirectory() as name:
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
        command = [sys.executable, __file__, "make", name]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        print("steps off TFMOT's model: largest (mean)")
        for model in NAMES:
            ours = from_tfmot(Path(name) / f"{model}.h5")
            last = [one for one in ours.layers if isinstance(one, FakeQuantize)][-1]
            answers = np.load(Path(name) / f"{model}.npz")
            said = []
            for values in (ours.predict(IMAGES[:SHOWN], verbose=0), answers["tflite"]):
                off = np.abs(values - answers["model"]) / float(last.step())
                said.append(f"{off.max():.2f} ({off.mean():.2f})")
            print(f"{model:10} from_tfmot {said[0]}, TFMOT's .tflite {said[1]}")


if __name__ == "__main__":
    make(Path(sys.argv[2])) if sys.argv[1:2] == ["make"] else main()
