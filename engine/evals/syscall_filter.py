"""A system call filter for a process that shall only compute: no children, no programs, no sockets, no signals.

Standard library only: it is read by ``evaluator_child.py``, which cannot import this package.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
CLONE_THREAD = 0x00010000
X32_BIT = 0x40000000
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER_OFFSET, ARCH_OFFSET, FIRST_ARGUMENT_OFFSET = 0, 4, 16
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

# machine: (audit architecture, numbers that are refused, clone, clone3, numbers allowed for the own pid only)
MACHINES: dict[str, tuple[int, tuple[int, ...], int, int, tuple[int, ...]]] = {
    # fork vfork execve execveat socket connect ptrace tkill rt_sigqueueinfo process_vm_readv/writev
    # pidfd_send_signal io_uring_setup; kill tgkill
    "x86_64": (0xC000003E, (57, 58, 59, 322, 41, 42, 101, 200, 129, 310, 311, 424, 425), 56, 435, (62, 234)),
    "aarch64": (0xC00000B7, (221, 281, 198, 203, 117, 130, 138, 270, 271, 424, 425), 220, 435, (129, 131)),
}

Instruction = tuple[int, int, int, int]


def program(machine: str, pid: int) -> list[Instruction]:
    """The BPF program as (code, jump if true, jump if false, operand)."""
    arch, refused, clone, clone3, own_only = MACHINES[machine]
    refuse = (RETURN, 0, 0, ERRNO | errno.EPERM)
    code: list[Instruction] = [(LOAD, 0, 0, ARCH_OFFSET), (JUMP_EQUAL, 1, 0, arch), refuse]
    code += [(LOAD, 0, 0, NUMBER_OFFSET), (JUMP_AT_LEAST, 0, 1, X32_BIT), refuse]
    for number in refused:
        code += [(JUMP_EQUAL, 0, 1, number), refuse]
    code += [(JUMP_EQUAL, 0, 1, clone3), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]  # libc falls back to clone
    code += [(JUMP_EQUAL, 0, 4, clone), (LOAD, 0, 0, FIRST_ARGUMENT_OFFSET), (JUMP_BITS, 1, 0, CLONE_THREAD), refuse]
    code += [(RETURN, 0, 0, ALLOW)]
    for number in own_only:
        code += [(JUMP_EQUAL, 0, 4, number), (LOAD, 0, 0, FIRST_ARGUMENT_OFFSET), (JUMP_EQUAL, 1, 0, pid), refuse]
        code += [(RETURN, 0, 0, ALLOW)]
    return [*code, (RETURN, 0, 0, ALLOW)]


def install() -> bool:
    """Filter this process for good; False where the kernel or the machine has no such filter."""
    machine = platform.machine()
    if machine not in MACHINES:
        return False
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program(machine, os.getpid()))
    instructions = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HP", len(code) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0) == 0)
