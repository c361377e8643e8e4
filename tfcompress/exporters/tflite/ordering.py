"""The order of inputs and outputs in the signature of a .tflite file."""

import struct

from tfcompress.exporters.tflite.flatbuffer import read_schema


def order_signature(content: bytes, inputs: list[str], outputs: list[str]) -> bytes:
    """Returns the file with its inputs and outputs in the given order of names.

    The converter sorts the signature by name, so that a list of arrays would mean
    something else to the file than it means to the model; the graph beneath has an
    order of its own, which runtimes without signatures go by. Only entries of the same
    vector trade places: the file's layout does not change.
    """
    data = bytearray(content)
    model = read_schema().Model.GetRootAs(content, 0)
    signature = model.SignatureDefs(0)
    graph = model.Subgraphs(signature.SubgraphIndex())
    for names, entry, length, slot, graph_slot in (
        (inputs, signature.Inputs, signature.InputsLength(), 4, 6),
        (outputs, signature.Outputs, signature.OutputsLength(), 6, 8),
    ):
        found = {entry(i).Name().decode(): i for i in range(length)}
        if sorted(found) != sorted(names):
            continue
        start = signature._tab.Vector(signature._tab.Offset(slot))
        for position, name in enumerate(names):
            source = start + 4 * found[name]
            (offset,) = struct.unpack_from("<I", content, source)
            here = start + 4 * position
            struct.pack_into("<I", data, here, source + offset - here)
        start = graph._tab.Vector(graph._tab.Offset(graph_slot))
        indices = [entry(found[name]).TensorIndex() for name in names]
        struct.pack_into(f"<{len(indices)}i", data, start, *indices)
    return bytes(data)
