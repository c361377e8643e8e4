"""Perplexity of a small causal decoder whose weights alone are integers.

    python benchmarks/weight_only_decoder.py --steps 800 --json decoder.json

A decoder of characters (two blocks: RMSNormalization, causal attention, gated MLP) is
trained on the topics of Python's own help; a tenth of the text is kept for the test.
Each row rounds it without data, or with 64 windows of the training text (GPTQ), and
exports it to .tflite. Perplexities are those of the files in LiteRT on the test text.
"""

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from keras import layers
from rich.console import Console
from rich.table import Table

LENGTH, BATCH, TESTED = 64, 16, 64
SCHEMES = ("w8", "w4", "w4b64", "w4b32")


def text_of_python():
    """Returns the topics of Python's own help as numbers of characters, and a count."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    table = {c: i for i, c in enumerate(sorted(set(text)))}
    return np.array([table[c] for c in text], "int32"), len(table)


def decoder(words, width=64, blocks=2, heads=4):
    """Returns a decoder of characters: their numbers and positions in, logits out."""
    ids = keras.Input((LENGTH,), name="ids", dtype="int32")
    positions = keras.Input((LENGTH,), name="positions", dtype="int32")
    x = layers.Embedding(words, width, name="words")(ids)
    x = x + layers.Embedding(LENGTH, width, name="places")(positions)
    for block in range(blocks):
        y = layers.RMSNormalization(name=f"before_attention_{block}")(x)
        attention = layers.MultiHeadAttention(
            heads, width // heads, use_bias=False, name=f"attention_{block}"
        )
        x = x + attention(y, y, use_causal_mask=True)
        y = layers.RMSNormalization(name=f"before_mlp_{block}")(x)
        gate = layers.Dense(2 * width, "silu", use_bias=False, name=f"gate_{block}")(y)
        up = layers.Dense(2 * width, use_bias=False, name=f"up_{block}")(y)
        x = x + layers.Dense(width, use_bias=False, name=f"down_{block}")(gate * up)
    x = layers.RMSNormalization(name="last")(x)
    return keras.Model([ids, positions], layers.Dense(words, name="logits")(x))


def windows(text, starts):
    """Returns what a decoder is given of a text, and the characters that follow."""
    rows = np.stack([text[start : start + LENGTH + 1] for start in starts])
    places = np.tile(np.arange(LENGTH, dtype="int32"), (len(rows), 1))
    return [rows[:, :-1], places], rows[:, 1:]


def trained(text, words, steps):
    keras.utils.set_random_seed(0)
    model = decoder(words)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    starts = np.random.default_rng(0).integers(0, len(text) - LENGTH - 1, steps * BATCH)
    model.fit(*windows(text, starts), batch_size=BATCH, shuffle=False, verbose=0)
    return model


def perplexity(path, inputs, wanted):
    """Returns that of a .tflite file of one window a call."""
    import tfcompress

    runner, losses = tfcompress.load(path), []
    for row in range(len(wanted)):
        given = {"ids": inputs[0][row : row + 1], "positions": inputs[1][row : row + 1]}
        logits = runner.run(given)["logits"][0].astype("float64")
        shifted = logits - logits.max(axis=-1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        losses.append(-logs[np.arange(LENGTH), wanted[row]].mean())
    return math.exp(np.mean(losses))


def main(argv=None):
    import tfcompress

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=800, help="of training")
    parser.add_argument("--keep", type=Path, help="the trained model, made if missing")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args(argv)
    text, words = text_of_python()
    text, held_out = np.split(text, [9 * len(text) // 10])
    if arguments.keep and arguments.keep.exists():
        model = keras.models.load_model(arguments.keep)
    else:
        model = trained(text, words, arguments.steps)
    if arguments.keep:
        model.save(arguments.keep)
    test = windows(
        held_out, np.linspace(0, len(held_out) - LENGTH - 1, TESTED, dtype=int)
    )
    samples, _ = windows(text, np.linspace(0, len(text) - LENGTH - 1, 64, dtype=int))
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        artifact = tfcompress.export(model, path)
        rows["float"] = {"perplexity": perplexity(path, *test), "bytes": artifact.size}
        for scheme in SCHEMES:
            for data in (None, samples):
                start = time.process_time()
                final = tfcompress.finalize(tfcompress.calibrate(model, data, scheme))
                seconds = time.process_time() - start
                for compute in ("integer", "float") if not data else ("integer",):
                    options = {"overwrite": True, "compute": compute}
                    artifact = tfcompress.export(final, path, **options)
                    name = f"{scheme}{', data' if data else ''}, {compute}"
                    rows[name] = {
                        "perplexity": perplexity(path, *test),
                        "bytes": artifact.size,
                        "seconds": seconds,
                    }
                if scheme == "w8":
                    break
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    table = Table("file", "perplexity", "bytes", "CPU s")
    for name, row in rows.items():
        cells = f"{row['perplexity']:.3f}", f"{row['bytes']:,}"
        table.add_row(name, *cells, f"{row.get('seconds', 0.0):.2f}")
    Console(width=90).print(table)
    return rows


if __name__ == "__main__":
    main()
