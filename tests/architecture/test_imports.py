"""Who may import whom. The rules are those of docs/architecture.md."""

import ast
import graphlib
import json
import subprocess
import sys

import pytest

from tests.architecture.sources import package_sources, parse

RANKS = {
    "core": 0,
    "layers": 1,
    "schedules": 1,
    "criteria": 1,
    "datasets": 1,
    "pruning": 2,
    "clustering": 2,
    "quantization": 2,
    "channels": 2,
    "low_rank": 2,
    "distillation": 2,
    "distribution": 2,
    "seeding": 2,
    "finalization": 3,
    "child": 3,
    "exporters": 4,
    "diagnosis": 5,
    "packing": 5,
    "verification": 5,
    "benchmarking": 5,
    "serving": 5,
    "trustworthiness": 5,
    "interop": 5,
    "sequences": 5,
    "reporting": 6,
    "compression": 7,
    "public": 8,
    "demo": 8,
    "testing": 8,
    "cli": 9,
    "__main__": 10,
}
# Rooms of rank 1 are small tables that may read each other; from rank 2 on, equals
# never meet.
PEERS_ALLOWED = {1}

# Where TensorFlow itself is needed, because Keras has no public equivalent.
TENSORFLOW_ROOMS = {"child", "exporters", "verification", "benchmarking"}
TENSORFLOW_MODULES = {
    "tfcompress/core/callback.py": "functions that are not inlined into the step",
    "tfcompress/core/eager.py": "whether operations run now",
    "tfcompress/core/replicas.py": "what replicas exchange",
    "tfcompress/distribution.py": "strategies",
    "tfcompress/clustering/lookup.py": "lookups that read the codes once",
    "tfcompress/quantization/dilated.py": "convolutions that are one operation",
    "tfcompress/quantization/rounding_operation.py": "rounding that is one operation",
    "tfcompress/quantization/calibration/reconstruction/learning.py": "gradients of "
    "the outputs of a block, in a loop that is compiled",
    "tfcompress/quantization/calibration/fisher.py": "gradients of what models say",
    "tfcompress/quantization/recurrent_steps.py": "loops whose gradient XLA compiles",
    "tfcompress/distillation/teachers/cache.py": "tf.data snapshots",
    "tfcompress/cli/quiet.py": "loads it, and hides what it says",
    "tfcompress/cli/inputs.py": "decodes images as Keras' data sets do",
    "tfcompress/compression/data.py": "shuffles samples that are in memory",
    "tfcompress/serving/client.py": "tensors of gRPC requests",
    "tfcompress/trustworthiness/gradients.py": "gradients with respect to inputs",
    "tfcompress/interop/_tf_keras_files_worker.py": "what a SavedModel's graph says",
    "tfcompress/testing/tools.py": "compiled functions and gradients",
    "tfcompress/reporting/subjects.py": "reads variables from a checkpoint",
    "tfcompress/packing/spans.py": "reads which variables a checkpoint has",
}

# What `import tfcompress` must not cost. TensorFlow comes with Keras' back end.
HEAVY = [
    "ai_edge_litert",
    "brotli",
    "constriction",
    "coremltools",
    "executorch",
    "jinja2",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "optuna",
    "requests",
    "sklearn",
    "tensorflow_model_optimization",
    "tensorflow_serving",
    "tf2onnx",
    "tf_keras",
    "typer",
    "yaml",
]


def direction_faults(source):
    """Returns a sentence for each import that goes up or sideways."""
    if source.room == "__init__":
        return []
    if source.room not in RANKS:
        return [f"{source.path}: room '{source.room}' has no rank; add it to RANKS"]
    rank = RANKS[source.room]
    faults = []
    for line, room in source.rooms_used():
        where = f"{source.path}:{line} (rank {rank})"
        if room == "__init__" or room not in RANKS:
            if rank < 8:
                faults.append(f"{where} imports the package itself ('{room}')")
        elif RANKS[room] > rank:
            faults.append(f"{where} imports upwards: {room} (rank {RANKS[room]})")
        elif RANKS[room] == rank and rank not in PEERS_ALLOWED:
            faults.append(f"{where} imports its equal {room}")
    return faults


def test_rooms_import_only_lower_ranks():
    sources = package_sources()
    assert len(sources) > 10
    assert [fault for source in sources for fault in direction_faults(source)] == []


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        (
            "tfcompress/core/x.py",
            "from tfcompress.pruning.masks import m",
            "tfcompress/core/x.py:1 (rank 0) imports upwards: pruning (rank 2)",
        ),
        (
            "tfcompress/pruning/x.py",
            "def f():\n    import tfcompress.quantization",
            "tfcompress/pruning/x.py:2 (rank 2) imports its equal quantization",
        ),
        (
            "tfcompress/pruning/x.py",
            "from ..distillation import d",
            "tfcompress/pruning/x.py:1 (rank 2) imports its equal distillation",
        ),
        (
            "tfcompress/reporting/x.py",
            "import tfcompress",
            "tfcompress/reporting/x.py:1 (rank 6) imports the package itself "
            "('__init__')",
        ),
        (
            "tfcompress/attic.py",
            "",
            "tfcompress/attic.py: room 'attic' has no rank; add it to RANKS",
        ),
    ],
)
def test_a_wrong_import_is_found(path, text, fault):
    assert direction_faults(parse(path, text)) == [fault]


def imports_of_files(sources):
    """Returns which files each file imports, functions and type checks included."""
    modules = {}
    for source in sources:
        parts = source.path.removesuffix(".py").removesuffix("/__init__").split("/")
        modules[".".join(parts)] = source
    imports = {}
    for name, source in modules.items():
        used = set()
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    used.add(inner if inner in modules else node.module)
        imports[name] = used & set(modules) - {name}
    return imports


def circle_of(sources):
    """Returns files that import each other in a circle, or nothing."""
    try:
        graphlib.TopologicalSorter(imports_of_files(sources)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_each_other_in_a_circle():
    assert circle_of(package_sources()) == []


def test_a_circle_is_found():
    sources = [
        parse("tfcompress/core/a.py", "from tfcompress.core import b"),
        parse("tfcompress/core/b.py", "def f():\n    import tfcompress.core.a"),
    ]
    assert set(circle_of(sources)) == {"tfcompress.core.a", "tfcompress.core.b"}


def test_imports_downwards_and_within_a_room_are_right():
    text = (
        "import keras\nfrom tfcompress.core import graph\n"
        "from tfcompress.pruning.masks import layer_masks\nfrom . import patterns\n"
    )
    assert direction_faults(parse("tfcompress/pruning/x.py", text)) == []


def test_keras_internals_are_imported_nowhere():
    found = [
        f"{source.path}:{line} {name}"
        for source in package_sources()
        for line, name in source.imports()
        if name.startswith(("keras.src", "tensorflow.keras", "tensorflow.python"))
    ]
    assert found == []


def users_of_tensorflow(sources):
    """Returns the files that import TensorFlow, outside of rooms that all may."""
    return {
        source.path
        for source in sources
        for _, name in source.imports()
        if name.split(".")[0] == "tensorflow" and source.room not in TENSORFLOW_ROOMS
    }


def test_tensorflow_is_imported_only_where_it_is_needed():
    assert (
        sorted(users_of_tensorflow(package_sources()) - set(TENSORFLOW_MODULES)) == []
    )


def test_every_allowance_is_used():
    sources = package_sources()
    assert sorted(set(TENSORFLOW_MODULES) - users_of_tensorflow(sources)) == []
    rooms = {source.room for source in sources} - {"__init__"}
    assert sorted(set(RANKS) - rooms) == []


def test_tfmot_and_tf_keras_are_never_imported_in_this_process():
    # Importing TFMOT sets TF_USE_LEGACY_KERAS=1 and turns tf.keras into Keras 2.
    # interop starts a child process with a script that is allowed to.
    found = [
        f"{source.path}:{line} {name}"
        for source in package_sources()
        for line, name in source.imports()
        if name.split(".")[0] in ("tensorflow_model_optimization", "tf_keras")
        and not source.path.endswith("_worker.py")
    ]
    assert found == []


def test_heavy_packages_are_imported_inside_functions():
    # At the top of a module they would come with `import tfcompress`, or could.
    found = [
        f"{source.path}:{node.lineno}"
        for source in package_sources()
        if source.room != "cli" and not source.path.endswith("_worker.py")
        for node in source.tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(a.name for a in node.names)]
        if name and name.split(".")[0] in (*HEAVY, "tensorflow")
    ]
    assert found == []


def test_importing_the_package_loads_nothing_heavy():
    # Keras itself imports scikit-learn where it is installed, and that Matplotlib.
    code = (
        "import json, sys; import keras; before = set(sys.modules); import tfcompress;"
        f"print(json.dumps([m for m in {HEAVY!r} if m in set(sys.modules) - before]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == []
