"""Mutators of the fuzz: what hostile or broken files look like, from a seed."""

import io
import json
import random
import struct
import zipfile
import zlib

#: Numbers that programs are known to trip over.
HOSTILE_NUMBERS = (
    *(0, 1, -1, 2, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 1 << 40, (1 << 63) - 1),
)
#: Paths that lead out of a folder, and names that mean something to a system.
HOSTILE_NAMES = (
    *("../escaped", "../../escaped", "/tmp/escaped", "a/../../escaped", "..", "."),
    *("", "~/escaped", "a\x00b", "C:\\escaped", "..\\escaped", "\\\\host\\share"),
    *("CON", "a" * 300, "a/" * 200 + "b", "\u202etxt", "/dev/zero", "/proc/self/mem"),
)
#: Words of configurations that would run code, if somebody let them.
HOSTILE_WORDS = (
    *("Lambda", "__lambda__", "fuzz_canary", "Canary", "os", "system", "builtins"),
    *("eval", "exec", "subprocess", "Popen", "__reduce__", "TorchModuleWrapper"),
    *("!!python/object/apply:os.system ['touch escaped']", "*a", "&a [*a]"),
    *("keras.utils", "get_file", "keras.src.saving.saving_lib", "numpy", "fromfile"),
)
_ZEROS = 1 << 28  # of a bomb


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """Flips some bits."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Cuts off the end, or the beginning."""
    place = rng.randrange(len(data))
    return data[:place] if rng.random() < 0.8 else data[place:]


def splice(data: bytes, rng: random.Random) -> bytes:
    """Copies, moves, removes or repeats a piece."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    end = min(end, start + rng.choice((4, 32, 256, 4096)))
    piece, place = data[start:end], rng.randrange(len(data) + 1)
    kind = rng.randrange(4)
    if kind == 0:
        return data[:start] + data[end:]
    if kind == 1:
        return data[:place] + piece * rng.choice((1, 2, 50)) + data[place:]
    if kind == 2:
        return data[:place] + piece + data[place + len(piece) :]
    return data[:place] + rng.randbytes(len(piece)) + data[place + len(piece) :]


def hostile_number(data: bytes, rng: random.Random) -> bytes:
    """Writes numbers that are too large, negative or zero over aligned ones."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        width = rng.choice((1, 2, 4, 4, 4, 8))
        if len(data) < width:
            continue
        place = rng.randrange(0, len(data) - width + 1)
        place -= place % width
        value = rng.choice(HOSTILE_NUMBERS) & ((1 << (8 * width)) - 1)
        changed[place : place + width] = value.to_bytes(width, "little")
    return bytes(changed)


def nearby_number(data: bytes, rng: random.Random) -> bytes:
    """Moves a 32-bit number a little: offsets, indices, lengths that almost fit."""
    if len(data) < 4:
        return flip_bits(data, rng) if data else data
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.randrange(0, len(data) - 3) & ~3
        (value,) = struct.unpack_from("<I", data, place)
        value += rng.choice((-64, -8, -4, -1, 1, 2, 4, 8, 64, 1024))
        struct.pack_into("<I", changed, place, value & 0xFFFFFFFF)
    return bytes(changed)


BYTES = (flip_bits, truncate, splice, hostile_number, nearby_number)


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """Any of the mutations of plain bytes, sometimes two in a row."""
    for _ in range(rng.choice((1, 1, 1, 2))):
        data = rng.choice(BYTES)(data, rng) if data else rng.randbytes(8)
    return data


def of_json(content, rng: random.Random):
    """Returns JSON content with one or more places replaced."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = _replaced(content, rng, rng.choice((1, 2, 3, 5, 9)))
    return content


def _replaced(value, rng, depth):
    if depth > 0 and isinstance(value, dict) and value:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: one for name, one in value.items() if name != key}
        return {**value, key: _replaced(value[key], rng, depth - 1)}
    if depth > 0 and isinstance(value, list) and value:
        place = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:place] + value[place + 1 :]
        if rng.random() < 0.1:
            return value * rng.choice((2, 100))
        return [
            *value[:place],
            _replaced(value[place], rng, depth - 1),
            *value[place + 1 :],
        ]
    if isinstance(value, str) and rng.random() < 0.3:
        return of_text(value, rng)
    return rng.choice(
        (
            *HOSTILE_NUMBERS,
            *(None, True, False, 1.5, float("nan"), float("inf"), 10**400),
            *HOSTILE_NAMES,
            *HOSTILE_WORDS,
            *([], {}, [[]], {"": ""}, [None], [1, 2, 3], {"config": {}}),
            {"module": "fuzz_canary", "class_name": "Canary", "config": {}},
            {"class_name": "__lambda__", "config": {"value": "4wAAAAAAAAAA"}},
        )
    )


def of_text(text: str, rng: random.Random) -> str:
    """Returns a text with words swapped, removed, or hostile ones put in."""
    kind = rng.randrange(5)
    if not text or kind == 0:
        return rng.choice((*HOSTILE_NAMES, *HOSTILE_WORDS))
    place = rng.randrange(len(text) + 1)
    if kind == 1:
        word = rng.choice((*HOSTILE_NAMES, *HOSTILE_WORDS, "\n", ": ", "- ", "{", "["))
        return text[:place] + word + text[place:]
    if kind == 2:
        return text[:place] + text[place + rng.choice((1, 5, 30)) :]
    if kind == 3:
        return text[:place] + rng.choice("[{(\"'&*!|>%@`\t") * rng.choice((1, 3, 2000))
    return of_bytes(text.encode("utf-8", "replace"), rng).decode("utf-8", "replace")


def of_json_text(data: bytes, rng: random.Random) -> bytes:
    """JSON as bytes: its values changed, or its text."""
    if rng.random() < 0.7:
        changed = of_json(json.loads(data), rng)
        return json.dumps(changed).encode("utf-8", "replace")
    return of_text(data.decode(), rng).encode("utf-8", "replace")


def of_recipe(data: bytes, rng: random.Random) -> bytes:
    """A recipe: its content changed and written again, or its text."""
    import yaml

    if rng.random() < 0.5:
        changed = of_json(yaml.safe_load(data), rng)
        return yaml.safe_dump(changed, sort_keys=False).encode("utf-8", "replace")
    return of_text(data.decode(), rng).encode("utf-8", "replace")


def of_zip(data: bytes, rng: random.Random) -> bytes:
    """A zip file with a changed, renamed, doubled or huge member."""
    if rng.random() < 0.3:
        return of_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(members))
    name, content = members[place]
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    kind = rng.choice(
        ("content",) * 8 + ("name", "double", "extra", "gone") + ("bomb",) * (not place)
    )
    if kind == "content":
        change = of_json_text if name.endswith(".json") else of_bytes
        members[place] = name, change(content, rng)
    elif kind == "name":
        members[place] = rng.choice(HOSTILE_NAMES), content
    elif kind == "double":
        members.append((name, of_bytes(content, rng)))
    elif kind == "extra":
        members.append((rng.choice(HOSTILE_NAMES) or "x", content))
    elif kind == "gone":
        del members[place]
    elif rng.random() < 0.02:
        members[place], packing = (name, bytes(_ZEROS)), zipfile.ZIP_DEFLATED
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for member, content in members:
            info = zipfile.ZipInfo((member or "x").replace("\x00", "_"))
            archive.writestr(info, content, packing)
    return _with_lies(stream.getvalue(), rng)


def _with_lies(data: bytes, rng: random.Random) -> bytes:
    """Sometimes lies in the directory of a zip file about sizes and places."""
    if rng.random() < 0.8:
        return data
    changed, place = bytearray(data), data.find(b"PK\x01\x02")
    field = rng.choice((20, 24, 42))  # packed size, size, place of the member
    if place >= 0:
        value = rng.choice(HOSTILE_NUMBERS) & 0xFFFFFFFF
        struct.pack_into("<I", changed, place + field, value)
    return bytes(changed)


_FRAME = struct.Struct("<BIII")


def of_archive(data: bytes, rng: random.Random) -> bytes:
    """An archive of `pack` whose checksums are right again after it was changed."""
    if rng.random() < 0.25:
        return of_bytes(data, rng)
    from tfcompress.packing import blocks

    head, frames = data[:5], _frames(data[5:])
    kind = rng.choice(("manifest", "manifest", "payload", "payload", "size", "order"))
    place = 0 if kind == "manifest" else rng.randrange(len(frames))
    frame, before, payload = frames[place]
    if kind == "manifest":
        manifest = _manifest(json.loads(blocks.decode(payload, before)), rng)
        text = json.dumps(manifest).encode("utf-8", "replace")
        frames[0] = frame, len(text), blocks.encode(text, [])
    elif kind == "payload":
        frames[place] = frame, before, of_bytes(payload, rng)
    elif kind == "size":
        frames[place] = frame, rng.choice(HOSTILE_NUMBERS) & 0xFFFFFFFF, payload
    else:
        other = rng.randrange(len(frames))
        frames[place], frames[other] = frames[other], frames[place]
    return head + b"".join(
        _FRAME.pack(kind, before, len(payload), zlib.crc32(payload)) + payload
        for kind, before, payload in frames
    )


def _frames(data: bytes):
    found = []
    while data:
        kind, before, size, _ = _FRAME.unpack_from(data)
        found.append((kind, before, data[_FRAME.size : _FRAME.size + size]))
        data = data[_FRAME.size + size :]
    return found


def _manifest(manifest, rng):
    if rng.random() < 0.5:
        return of_json(manifest, rng)
    root, entries, folders = manifest
    name = rng.choice(HOSTILE_NAMES)
    kind = rng.randrange(4)
    if kind == 0:
        root = name
    elif kind == 1:
        place = rng.randrange(len(entries))
        entries[place] = [name, entries[place][1]]
    elif kind == 2:
        folders = [*folders, name]
    else:
        place = rng.randrange(len(entries))
        entries[place] = [entries[place][0], rng.choice(HOSTILE_NUMBERS)]
    return [root, entries, folders]
