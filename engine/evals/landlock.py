"""Which files a process may read and write, by Linux's Landlock: it needs no rights and cannot be undone.

A process under Landlock may also not inspect any process outside it (ptrace, ``/proc/PID/mem`` and ``environ``, taking
descriptors), nor signal one (Linux 6.12), whoever owns the two.

Standard library only: it is read by ``evaluator_child.py``, which cannot import this package.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PR_SET_NO_NEW_PRIVS, VERSION_FLAG, PATH_BENEATH = 38, 1, 1
WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
REMOVE_AND_MAKE = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13
"""Removing folders and files; making folders, files and links; moving between folders."""
FILE_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""version: how many rights on files there are; all of them are taken away where no rule gives them back."""
TCP_RIGHTS, SCOPES = 0b11, 0b11
"""Binding and connecting (from version 4); abstract sockets and signals (from version 6)."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def restrict(hidden: str, writable: str) -> bool:
    """Let this thread, and those it starts, write below ``writable`` only, and read nothing below ``hidden``.

    ``hidden`` need not exist. Files that are made beside it or its parents later are hidden as well. The interpreter's
    own files stay readable wherever they are; of the devices only those that have no content. False without Landlock.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(CREATE_RULESET, None, 0, VERSION_FLAG) if platform.system() == "Linux" else -1
    if version < 1 or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    handled = (1 << FILE_RIGHTS_BY_VERSION[min(version, 5)]) - 1
    attributes = struct.pack("QQQ", handled, TCP_RIGHTS, SCOPES)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = libc.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    for path, rights in _rules(Path(hidden), writable):
        _allow(libc, ruleset, path, rights & handled)
    restricted = libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return bool(restricted)


def _rules(hidden: Path, writable: str) -> Iterator[tuple[str, int]]:
    """Paths with the rights on and below them."""
    yield writable, READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | REMOVE_AND_MAKE
    for device in DEVICES:
        yield device, READ_FILE | WRITE_FILE | TRUNCATE
    yield "/", READ_DIR
    for path in _beside(hidden):
        yield path, READ_FILE
    for own in {*sys.path, sys.prefix, sys.base_prefix}:
        if own and Path(own).resolve().is_relative_to(hidden):
            yield own, READ_FILE


def _beside(hidden: Path) -> Iterator[str]:
    """Everything that is neither ``hidden`` nor above it, with as few paths as can be. Links are left out: what counts
    is where a file really is."""
    for parent, name in zip(reversed(hidden.parents), hidden.parts[1:], strict=True):
        if not parent.is_dir():
            return
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.name != name and not entry.is_symlink() and entry.path != "/dev":
                    yield entry.path


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    """Add a rule; a path that cannot be opened gets none."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rule = struct.pack("=Qi", rights, descriptor)
    libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0)
    os.close(descriptor)
