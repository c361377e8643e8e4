"""Loads and runs a SavedModel with TensorFlow's C API alone: no Python of TensorFlow.

Reads a JSON job from stdin (`path`, `input`, `output`, `values`, `shape`, `size`) and
prints the output values as JSON.
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

    shape, values = job["shape"], job["values"]
    dims = (ctypes.c_int64 * len(shape))(*shape)
    size = ctypes.c_size_t(4 * len(values))
    tensor = pointer(lib.TF_AllocateTensor(1, dims, len(shape), size))
    data = (ctypes.c_float * len(values))(*values)
    ctypes.memmove(lib.TF_TensorData(tensor), data, 4 * len(values))
    given, wanted = (Output * 1)(port(job["input"])), (Output * 1)(port(job["output"]))
    tensors, results = (pointer * 1)(tensor), (pointer * 1)()
    lib.TF_SessionRun(
        session,
        None,
        given,
        tensors,
        1,
        wanted,
        results,
        1,
        None,
        0,
        None,
        status,
    )
    check()
    found = ctypes.cast(
        pointer(lib.TF_TensorData(pointer(results[0]))), ctypes.POINTER(ctypes.c_float)
    )
    assert "tensorflow" not in sys.modules
    print(json.dumps([found[i] for i in range(job["size"])]))


if __name__ == "__main__":
    main()
