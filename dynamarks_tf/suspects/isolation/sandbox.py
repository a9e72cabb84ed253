"""What the process of a suspect can reach: by Landlock and a network namespace of Linux, its own files and nobody else.

Neither needs rights or a program. Where the kernel lacks one of them, the process runs without it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 38, 9
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on all processors
_RULESET_VERSION, _PATH_BENEATH = 1, 1
_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_ON_FILES = 1 | 1 << 1 | _READ_FILE | 1 << 14 | 1 << 15  # run, write, read, truncate, control devices
# By version of Landlock, the actions on files, on TCP, and towards other processes that it can forbid.
_FILE_ACTIONS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP_ACTIONS, _SCOPES = 3, 3
_SYSTEM = (
    "/usr", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system", "/sys/fs/cgroup",
)  # fmt: skip


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def enter(readable: Iterable[str], writable: str) -> list[str]:
    """Confines this process, for good, before it has threads.

    Args:
        readable: the files and folders of the suspect.
        writable: the folder that it may write to.

    Returns:
        What is in force: `"files"`, `"network"`.
    """
    if sys.platform != "linux":
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    alone = any(libc.unshare(_NEW_NETWORK | _NEW_IPC | more) == 0 for more in (_NEW_USER, 0))
    restricted = _restrict_files(libc, [*_SYSTEM, *_python(), *readable], writable)
    return ["files"] * restricted + ["network"] * alone


def _restrict_files(libc: ctypes.CDLL, readable: Iterable[str], writable: str) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _RULESET_VERSION)
    if version < 1:
        return False
    files = _FILE_ACTIONS[min(version, max(_FILE_ACTIONS))]
    handled = (files, *([_TCP_ACTIONS] if version >= 4 else []), *([_SCOPES] if version >= 6 else []))
    attributes = (ctypes.c_uint64 * len(handled))(*handled)
    rules = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(ctypes.sizeof(attributes)), 0)
    if rules < 0:
        return False
    reading = _READ_FILE | _READ_FOLDER
    allowed = all(_allow(libc, rules, path, reading) for path in readable) and _allow(libc, rules, writable, files & ~1)
    restricted = allowed and libc.syscall(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return bool(restricted)


def _allow(libc: ctypes.CDLL, rules: int, path: str, actions: int) -> bool:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # there is none here
        return True
    try:
        rule = _Rule(actions if os.path.isdir(path) else actions & _ON_FILES, handle)
        return bool(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(rule), 0) == 0)
    finally:
        os.close(handle)


def _python() -> set[str]:
    """Where Python and its packages lie, which import parts of themselves when they are needed."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    own = str(Path(__file__).resolve().parents[2])
    paths = {sys.prefix, sys.base_prefix, own, *packages, *sysconfig.get_paths().values()}
    return {path for path in paths if path not in ("", "/")}
