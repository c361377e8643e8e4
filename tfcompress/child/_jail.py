"""What the process that runs strangers' files may not do, by the kernel's own word.

Landlock (Linux 5.13 and later) takes rights from a process for good. There is a package
for it, of development releases only, without network and signals; what is needed are
three calls of the kernel.

Source: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import sys

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2
# Rights that change files or run programs, by the version that knows them.
_EXECUTE, _WRITE = 1 << 0, 1 << 1
_CHANGES = _WRITE | sum(1 << bit for bit in range(4, 13))
_SINCE = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # link elsewhere, cut, device commands
_CONNECT, _NETWORK = 0b10, 0b11  # and to bind
_SCOPES = 0b11  # abstract sockets and signals of others


class _Rules(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


class _Port(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("directory", ctypes.c_int32))


def enter(folder: str, programs: bool = False, port: int | None = None) -> int:
    """Takes all rights to change files, but in `folder`, and to use the network.

    Args:
        folder: where files may be changed.
        programs: whether programs may be started.
        port: of a server that may be called.

    Returns:
        The version of Landlock; 0 where the system has none, and all is allowed still.
    """
    if sys.platform != "linux":
        return 0
    kernel = ctypes.CDLL(None, use_errno=True)
    version = kernel.syscall(_CREATE, None, 0, _VERSION)
    if version < 1:
        return 0
    changes = _CHANGES
    for since, right in _SINCE.items():
        changes |= right if version >= since else 0
    rules = _Rules(
        changes if programs else changes | _EXECUTE,
        _NETWORK if version >= 4 else 0,
        _SCOPES if version >= 6 else 0,
    )
    # Older kernels refuse fields that they do not know.
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = kernel.syscall(_CREATE, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return 0
    try:
        for path, allowed in ((folder, changes), ("/dev/null", _WRITE)):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                beneath = _Beneath(allowed, opened)
                kernel.syscall(_ADD, ruleset, _PATH_BENEATH, ctypes.byref(beneath), 0)
            finally:
                os.close(opened)
        if port is not None and version >= 4:
            called = _Port(_CONNECT, port)
            kernel.syscall(_ADD, ruleset, _NET_PORT, ctypes.byref(called), 0)
        kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return version if kernel.syscall(_RESTRICT, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)
