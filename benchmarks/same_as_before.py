"""Does a change of the code change a number? Digests of what models compute.

    git switch --detach main && python benchmarks/same_as_before.py --json before.json
    git switch my-change && python benchmarks/same_as_before.py --against before.json

For random models and those of the export tests it keeps digests of the outputs of
`calibrate`, of `finalize` and of the .tflite file, the multiply-accumulates, the groups
of channels, the coverage, and the text of each refusal. A change that only moves or
renames code changes none of them; two runs of one tree give one file.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np

import tfcompress

SAMPLES = 16


def digest(values) -> str:
    content = hashlib.sha256()
    for value in keras.tree.flatten(values):
        array = np.asarray(value)
        content.update(f"{array.shape}{array.dtype}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()[:16]


def row(model, inputs, outputs_of, folder):
    """Returns what each stage makes of a model: digests, numbers or refusals."""
    results = {}

    def stage(name, function, *args):
        try:
            made = function(*args)
        except Exception as error:
            results[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return None
        return made

    results["macs"] = stage("macs", tfcompress.macs, model) or results.get("macs")
    groups = stage("groups", tfcompress.channel_groups, model)
    if groups is not None:
        results["groups"] = hashlib.sha256(str(groups).encode()).hexdigest()[:16]
    aware = stage("calibrate", tfcompress.calibrate, model, inputs)
    if aware is None:
        return results
    results["calibrate"] = digest(outputs_of(aware, inputs))
    final = stage("finalize", tfcompress.finalize, aware)
    if final is None:
        return results
    results["finalize"] = digest(outputs_of(final, inputs))
    path = folder / "model.tflite"
    artifact = stage("export", tfcompress.export, final, path)
    if artifact is not None:
        arrays = keras.tree.map_structure(np.asarray, inputs)
        results["file"] = digest(tfcompress.load(path)(arrays))
        results["coverage"] = artifact.integer_coverage
        for part in folder.iterdir():
            part.unlink()
    return results


def predicted(model, inputs):
    return model.predict(inputs, verbose=0)


def models(count):
    from tests.exporters import same_models
    from tests.random_models import outputs_of, random_inputs, random_model

    for name in same_models.NAMES:
        keras.backend.clear_session()
        built = same_models.build(name)
        samples = list(built.samples.values())
        inputs = samples if len(samples) > 1 else samples[0]
        yield name, built.plain, inputs, predicted
    for seed in range(count):
        keras.backend.clear_session()
        model = random_model(seed)
        yield f"random {seed}", model, random_inputs(model, SAMPLES), outputs_of


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=60, help="of random models")
    parser.add_argument("--json", type=Path, help="where to write the digests")
    parser.add_argument("--against", type=Path, help="digests of another tree")
    arguments = parser.parse_args()

    before = json.loads(arguments.against.read_text()) if arguments.against else {}
    results, differences = {}, 0
    for name, model, inputs, outputs_of in models(arguments.count):
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            results[name] = row(model, inputs, outputs_of, Path(folder))
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=0))
        for stage, value in before.get(name, {}).items():
            if results[name].get(stage) != value:
                differences += 1
                now = results[name].get(stage)
                print(f"{name}, {stage}: {value} -> {now}", flush=True)
    print(f"{len(results)} models, {differences} differences")
    return min(differences, 250)


if __name__ == "__main__":
    sys.exit(main())
