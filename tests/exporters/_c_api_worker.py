"""Loads and runs a SavedModel with TensorFlow's C API alone: no Python of TensorFlow.

Reads a JSON job from stdin: `path`, `inputs` (lists of `tensor`, `shape`, `values`) and
`outputs` (lists of `tensor`, `size`). Prints the values of each output as JSON.
"""

import ctypes
import importlib.util
import json
import sys
from pathlib import Path


class Output(ctypes.Structure):
    _fields_ = [("oper", ctypes.c_void_p), ("index", ctypes.c_int)]


def library():
    (folder,) = importlib.util.find_spec("tensorflow").submodule_search_locations
    ctypes.CDLL(str(Path(folder) / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    loaded = ctypes.CDLL(str(Path(folder) / "libtensorflow_cc.so.2"))
    for name in (
        "TF_NewStatus",
        "TF_NewGraph",
        "TF_NewSessionOptions",
        "TF_LoadSessionFromSavedModel",
        "TF_GraphOperationByName",
        "TF_AllocateTensor",
        "TF_TensorData",
    ):
        getattr(loaded, name).restype = ctypes.c_void_p
    loaded.TF_Message.restype = ctypes.c_char_p
    return loaded


def main():
    job = json.load(sys.stdin)
    lib, pointer = library(), ctypes.c_void_p
    status, graph = pointer(lib.TF_NewStatus()), pointer(lib.TF_NewGraph())

    def check():
        if lib.TF_GetCode(status):
            raise RuntimeError(lib.TF_Message(status).decode())

    tags = (ctypes.c_char_p * 1)(b"serve")
    options = pointer(lib.TF_NewSessionOptions())
    path = job["path"].encode()
    session = pointer(
        lib.TF_LoadSessionFromSavedModel(
            options, None, path, tags, 1, graph, None, status
        )
    )
    check()

    def port(name):
        operation, index = name.split(":")
        found = lib.TF_GraphOperationByName(graph, operation.encode())
        return Output(found, int(index))

    def tensor(shape, values):
        dims = (ctypes.c_int64 * len(shape))(*shape)
        size = ctypes.c_size_t(4 * len(values))
        made = pointer(lib.TF_AllocateTensor(1, dims, len(shape), size))
        data = (ctypes.c_float * len(values))(*values)
        ctypes.memmove(lib.TF_TensorData(made), data, 4 * len(values))
        return made

    def floats(result, size):
        data = pointer(lib.TF_TensorData(pointer(result)))
        found = ctypes.cast(data, ctypes.POINTER(ctypes.c_float))
        return [found[i] for i in range(size)]

    given, wanted = job["inputs"], job["outputs"]
    results = (pointer * len(wanted))()
    lib.TF_SessionRun(
        session,
        None,
        (Output * len(given))(*(port(one["tensor"]) for one in given)),
        (pointer * len(given))(*(tensor(one["shape"], one["values"]) for one in given)),
        len(given),
        (Output * len(wanted))(*(port(one["tensor"]) for one in wanted)),
        results,
        len(wanted),
        None,
        0,
        None,
        status,
    )
    check()
    values = [floats(result, one["size"]) for result, one in zip(results, wanted)]
    assert "tensorflow" not in sys.modules
    print(json.dumps(values))


if __name__ == "__main__":
    main()
