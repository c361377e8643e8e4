"""Jobs of the child process for the "qnn" format: Qualcomm's compiler and simulator."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

_PROVIDER = "QNN"
# The kind of constants in QNN's graphs (Qnn_TensorType_t).
_CONSTANT = 4
# The first digits of a number format (Qnn_DataType_t); the last two are its bits.
_FORMATS = {0: "int", 1: "uint", 2: "float", 3: "int", 4: "uint"}


def compile(job: dict[str, Any]) -> dict[str, Any]:
    """Compiles the ONNX file `source` to `output`, for `architecture` and `number`.

    Returns the operators of the NPU's graph; or those of the file that the NPU refused,
    each with the compiler's reason, and then nothing is written that runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            _session(job["source"], _compiling(job, folder), job["output"])
        except Exception:
            Path(job["output"]).unlink(missing_ok=True)
            # With the processor to fall back to, the compiler says what it would take.
            spare = str(Path(folder) / "spare.onnx")
            _session(job["source"], _compiling(job, folder), spare, whole=False)
            refused = _trace(folder)["unsupported_nodes"]
            if not refused:
                raise
            return {"refused": [_refusal(node) for node in refused]}
        return {"operators": _operators(folder), "sdk": _sdk()}


def _compiling(job: dict[str, Any], folder: str) -> dict[str, str]:
    return {
        "htp_arch": str(job["architecture"]),
        "soc_model": str(job["number"]),
        "enable_framework_op_trace": "1",
        "framework_op_trace_dir": folder,
        "dump_json_qnn_graph": "1",
        "json_qnn_graph_dir": folder,
    }


def _session(
    path: str, options: dict[str, str], context: str = "", whole: bool = True
) -> Any:
    """Returns a session on the NPU.

    Args:
        path: the ONNX file.
        options: of Qualcomm's provider.
        context: where the compiled program is to be written; empty for nowhere.
        whole: whether the processor may take nothing.
    """
    import onnxruntime
    import onnxruntime_qnn

    if not any(d.ep_name == _PROVIDER for d in onnxruntime.get_ep_devices()):
        library = onnxruntime_qnn.get_library_path()
        onnxruntime.register_execution_provider_library(_PROVIDER, library)
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == _PROVIDER]
    settings = onnxruntime.SessionOptions()
    entries = {"session.disable_cpu_ep_fallback": "1"} if whole else {}
    if context:
        entries |= {
            "ep.context_enable": "1",
            "ep.context_file_path": context,
            "ep.context_embed_mode": "1",
        }
    for name, value in entries.items():
        settings.add_session_config_entry(name, value)
    options = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **options}
    settings.add_provider_for_devices(devices[:1], options)
    return onnxruntime.InferenceSession(path, settings)


def _sdk() -> str:
    from onnxruntime_qnn import build_and_package_info

    return str(build_and_package_info.qnn_version)


def _trace(folder: str) -> dict[str, Any]:
    path = Path(folder) / "qnn_op_trace.json"
    return json.loads(path.read_text()) if path.is_file() else {"unsupported_nodes": []}


def _refusal(node: dict[str, Any]) -> dict[str, str]:
    return {
        "name": node["node_name"],
        "type": node["op_type"],
        "reason": node.get("reason", ""),
    }


def _operators(folder: str) -> list[dict[str, Any]]:
    """Returns the operators of the NPU's graph, with what each was made of."""
    sources = {
        mapping["dst_name"]: [source["name"] for source in mapping["sources"]]
        for graph in _trace(folder)["subgraph_traces"]
        for mapping in graph["op_mappings"]
    }
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        graph = json.loads(path.read_text()).get("graph", {"nodes": {}})
        tensors = graph.get("tensors", {})
        for name, node in graph["nodes"].items():
            used = [
                tensors[t]
                for t in (*node["input_names"], *node["output_names"])
                if t in tensors
            ]
            made_of = sources.get(name, [])
            found.append(
                {
                    "name": name,
                    "type": node["type"],
                    "sources": [*made_of, *node["output_names"]],
                    "activations": _dtypes(used, constant=False),
                    "weights": _dtypes(used, constant=True),
                }
            )
    return found


def _dtypes(tensors: list[dict[str, Any]], constant: bool) -> list[str]:
    chosen = [t for t in tensors if (t["type"] == _CONSTANT) == constant]
    return sorted({_dtype(tensor["data_type"]) for tensor in chosen})


def _dtype(code: int) -> str:
    """Returns the name of a number format: 0x408 is a scaled uint8.

    >>> _dtype(0x408), _dtype(0x332), _dtype(0x232)
    ('uint8', 'int32', 'float32')
    """
    kind, bits = divmod(code, 0x100)
    return f"{_FORMATS[kind]}{bits:x}" if kind in _FORMATS else "bool"


def describe(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the compiled file at `path`."""
    _session(job["path"], {}, whole=False)
    return {}


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the compiled file at `path` on its samples in the NPU's x86 library.

    Without samples it is run once on zeros.
    """
    import numpy as np

    session = _session(job["path"], {}, whole=False)
    if "samples" in job:
        _, outputs = job["names"]
        return job["answer"](lambda batch: session.run(outputs, batch))
    kinds = {"float": "float32", "double": "float64"}
    feeds = {}
    for entry in session.get_inputs():
        kind = entry.type.removeprefix("tensor(").removesuffix(")")
        feeds[entry.name] = np.zeros(entry.shape, kinds.get(kind, kind))
    session.run(None, feeds)
    return {"invoked": True}


def call(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the compiled file at `path` on the arrays of a job."""
    session = job["kept"](lambda: _session(job["path"], {}, whole=False))
    start = time.perf_counter()
    found = session.run(job["outputs"], job["arrays"])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "arrays": dict(zip(job["outputs"], found))}


JOBS = {"call": call, "compile": compile, "open": describe, "probe": probe}
