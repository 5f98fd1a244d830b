"""A system call filter for a process that shall only compute: what is not listed here is refused.

The list has what the Python interpreter, numpy and threads need: files, memory, time, threads of the process itself.
Not on it: other processes (start, signal, inspect, limit), programs, sockets that lead out, asynchronous signals by
descriptors, modes and owners of files, mounts, namespaces, keys, io_uring, BPF. Where a library only probes for a
newer call the filter answers ENOSYS, so that it falls back.

Standard library only: it is read by ``evaluator_child.py``, which cannot import this package.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
X32_BIT = 0x40000000
FIRST_UNKNOWN = 463
"""Calls that are newer than this list (462 is Linux 6.10's): ENOSYS, as from the kernel they were made for."""

RETURN_ALLOW, RETURN_ERRNO = 0x7FFF0000, 0x00050000
NUMBER_OFFSET, ARCH_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16
LOAD, AND, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06

OWN_PID = -1
"""Stands for the pid of the process that is filtered."""


@dataclass(frozen=True)
class OneOf:
    """The low 32 bits of the argument ``index`` are one of ``values``."""

    index: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True)
class Without:
    """None of ``bits`` is set in one half of the argument ``index``; ``half`` is 0 for the low one."""

    index: int
    bits: int
    half: int = 0


Condition = OneOf | Without

ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range
open openat creat stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents getdents64
dup dup2 dup3 pipe pipe2 fsync fdatasync ftruncate truncate sendfile copy_file_range fadvise64 readahead
rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat symlink symlinkat link linkat umask getcwd chdir fchdir
statfs fstatfs getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
brk mmap munmap mprotect mremap madvise msync mincore membarrier get_mempolicy
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
recvfrom shutdown getsockopt setsockopt getsockname getpeername
exit exit_group wait4 waitid set_tid_address set_robust_list rseq futex futex_waitv sched_yield
sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min getpriority getcpu
getpid getppid gettid getuid geteuid getgid getegid getgroups getresuid getresgid getpgid getpgrp getsid
uname sysinfo times getrusage getrlimit setrlimit capget getrandom
time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack restart_syscall
pause alarm getitimer setitimer
"""

CLONE_THREAD = 0x00010000
THREAD_FLAGS = 0x007D0F00
"""What glibc and musl start a thread with; anything else could make a process, a namespace or a descriptor of one."""
F_SETFL, O_ASYNC = 4, 0x2000
SAFE_FCNTL = (0, 1, 2, 3, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""Duplicating, flags, locks, the size of a pipe; not F_SETOWN, F_SETSIG, F_SETLEASE, F_NOTIFY."""
SAFE_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
SAFE_PRCTL = (3, 15, 16, 23, 0x53564D41)
"""PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_CAPBSET_READ, PR_SET_VMA."""
AF_UNIX, SOCK_STREAM, SOCK_TYPE_MASK = 1, 1, 0xF

CONDITIONAL: dict[str, tuple[tuple[Condition, ...], ...]] = {
    "clone": ((Without(0, ~THREAD_FLAGS & 0xFFFFFFFF), OneOf(0, (CLONE_THREAD,), CLONE_THREAD)),),
    "fcntl": ((OneOf(1, SAFE_FCNTL),), (OneOf(1, (F_SETFL,)), Without(2, O_ASYNC))),
    "ioctl": ((OneOf(1, SAFE_IOCTL),),),
    "prctl": ((OneOf(0, SAFE_PRCTL),),),
    "prlimit64": ((OneOf(0, (0, OWN_PID)),),),
    "sched_setaffinity": ((OneOf(0, (0, OWN_PID)),),),
    "kill": ((OneOf(0, (OWN_PID,)),),),
    "tgkill": ((OneOf(0, (OWN_PID,)),),),
    # asyncio wakes its loop through a pair of sockets. A datagram socket could be sent elsewhere, by an address.
    "socketpair": ((OneOf(0, (AF_UNIX,)), OneOf(1, (SOCK_STREAM,), SOCK_TYPE_MASK)),),
    "sendto": ((Without(4, 0xFFFFFFFF), Without(4, 0xFFFFFFFF, half=1)),),
}
"""Calls that are allowed if all conditions of one of the alternatives hold."""

ANSWERED = {
    "clone3": errno.ENOSYS,  # its flags lie in memory, where a filter cannot look; libc falls back to clone
    "openat2": errno.ENOSYS,
    "memfd_create": errno.ENOSYS,
    "memfd_secret": errno.ENOSYS,
    "fallocate": errno.EOPNOTSUPP,
    "setxattr": errno.EOPNOTSUPP,
    "lsetxattr": errno.EOPNOTSUPP,
    "fsetxattr": errno.EOPNOTSUPP,
}
"""Calls that are refused with the answer after which libraries try another way."""

X86_64 = """
read=0 write=1 readv=19 writev=20 pread64=17 pwrite64=18 preadv=295 pwritev=296 preadv2=327 pwritev2=328 lseek=8
close=3 close_range=436 open=2 openat=257 creat=85 stat=4 fstat=5 lstat=6 newfstatat=262 statx=332 access=21
faccessat=269 faccessat2=439 readlink=89 readlinkat=267 getdents=78 getdents64=217 dup=32 dup2=33 dup3=292 pipe=22
pipe2=293 fsync=74 fdatasync=75 ftruncate=77 truncate=76 sendfile=40 copy_file_range=326 fadvise64=221 readahead=187
rename=82 renameat=264 renameat2=316 mkdir=83 mkdirat=258 rmdir=84 unlink=87 unlinkat=263 symlink=88 symlinkat=266
link=86 linkat=265 umask=95 getcwd=79 chdir=80 fchdir=81 statfs=137 fstatfs=138 getxattr=191 lgetxattr=192
fgetxattr=193 listxattr=194 llistxattr=195 flistxattr=196 brk=12 mmap=9 munmap=11 mprotect=10 mremap=25 madvise=28
msync=26 mincore=27 membarrier=324 get_mempolicy=239 poll=7 ppoll=271 select=23 pselect6=270 epoll_create=213
epoll_create1=291 epoll_ctl=233 epoll_wait=232 epoll_pwait=281 epoll_pwait2=441 eventfd=284 eventfd2=290 recvfrom=45
shutdown=48 getsockopt=55 setsockopt=54 getsockname=51 getpeername=52 exit=60 exit_group=231 wait4=61 waitid=247
set_tid_address=218 set_robust_list=273 rseq=334 futex=202 futex_waitv=449 sched_yield=24 sched_getaffinity=204
sched_getparam=143 sched_getscheduler=145 sched_get_priority_max=146 sched_get_priority_min=147 getpriority=140
getcpu=309 getpid=39 getppid=110 gettid=186 getuid=102 geteuid=107 getgid=104 getegid=108 getgroups=115 getresuid=118
getresgid=120 getpgid=121 getpgrp=111 getsid=124 uname=63 sysinfo=99 times=100 getrusage=98 getrlimit=97 setrlimit=160
capget=125 getrandom=318 time=201 gettimeofday=96 clock_gettime=228 clock_getres=229 clock_nanosleep=230 nanosleep=35
rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130
sigaltstack=131 restart_syscall=219 pause=34 alarm=37 getitimer=36 setitimer=38 fcntl=72 ioctl=16 prctl=157
prlimit64=302 kill=62 tgkill=234 clone=56 clone3=435 socketpair=53 sendto=44 sched_setaffinity=203 openat2=437
memfd_create=319 memfd_secret=447 setxattr=188 lsetxattr=189 fsetxattr=190 fallocate=285
"""

AARCH64 = """
read=63 write=64 readv=65 writev=66 pread64=67 pwrite64=68 preadv=69 pwritev=70 preadv2=286 pwritev2=287 lseek=62
close=57 close_range=436 openat=56 fstat=80 newfstatat=79 statx=291 faccessat=48 faccessat2=439 readlinkat=78
getdents64=61 dup=23 dup3=24 pipe2=59 fsync=82 fdatasync=83 ftruncate=46 truncate=45 sendfile=71 copy_file_range=285
fadvise64=223 readahead=213 renameat=38 renameat2=276 mkdirat=34 unlinkat=35 symlinkat=36 linkat=37 umask=166 getcwd=17
chdir=49 fchdir=50 statfs=43 fstatfs=44 getxattr=8 lgetxattr=9 fgetxattr=10 listxattr=11 llistxattr=12 flistxattr=13
brk=214 mmap=222 munmap=215 mprotect=226 mremap=216 madvise=233 msync=227 mincore=232 membarrier=283 get_mempolicy=236
ppoll=73 pselect6=72 epoll_create1=20 epoll_ctl=21 epoll_pwait=22 epoll_pwait2=441 eventfd2=19 recvfrom=207
shutdown=210 getsockopt=209 setsockopt=208 getsockname=204 getpeername=205 exit=93 exit_group=94 wait4=260 waitid=95
set_tid_address=96 set_robust_list=99 rseq=293 futex=98 futex_waitv=449 sched_yield=124 sched_getaffinity=123
sched_getparam=121 sched_getscheduler=120 sched_get_priority_max=125 sched_get_priority_min=126 getpriority=141
getcpu=168 getpid=172 getppid=173 gettid=178 getuid=174 geteuid=175 getgid=176 getegid=177 getgroups=158 getresuid=148
getresgid=150 getpgid=155 getsid=156 uname=160 sysinfo=179 times=153 getrusage=165 getrlimit=163 setrlimit=164
capget=90 getrandom=278 gettimeofday=169 clock_gettime=113 clock_getres=114 clock_nanosleep=115 nanosleep=101
rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 rt_sigpending=136 rt_sigtimedwait=137 rt_sigsuspend=133
sigaltstack=132 restart_syscall=128 getitimer=102 setitimer=103 fcntl=25 ioctl=29 prctl=167 prlimit64=261 kill=129
tgkill=131 clone=220 clone3=435 socketpair=199 sendto=206 sched_setaffinity=122 openat2=437 memfd_create=279
memfd_secret=447 setxattr=5 lsetxattr=6 fsetxattr=7 fallocate=47
"""


def _numbers(table: str) -> dict[str, int]:
    return {name: int(number) for name, number in (entry.split("=") for entry in table.split())}


MACHINES = {"x86_64": (0xC000003E, _numbers(X86_64)), "aarch64": (0xC00000B7, _numbers(AARCH64))}
"""machine: (audit architecture, system call numbers)"""

Instruction = tuple[int, int, int, int]


def program(machine: str, pid: int) -> list[Instruction]:
    """The BPF program for a process ``pid`` as (code, jump if true, jump if false, operand)."""
    arch, numbers = MACHINES[machine]
    code: list[Instruction] = [(LOAD, 0, 0, ARCH_OFFSET), (JUMP_EQUAL, 1, 0, arch), _answer(errno.EPERM)]
    code += [(LOAD, 0, 0, NUMBER_OFFSET), (JUMP_AT_LEAST, 0, 1, X32_BIT), _answer(errno.EPERM)]
    for name in ALLOWED.split():
        code += _for_call(numbers.get(name), [(RETURN, 0, 0, RETURN_ALLOW)])
    for name, number in ANSWERED.items():
        code += _for_call(numbers.get(name), [_answer(number)])
    for name, alternatives in CONDITIONAL.items():
        body = [step for conditions in alternatives for step in _alternative(conditions, pid)]
        code += _for_call(numbers.get(name), [*body, _answer(errno.EPERM)])
    return [*code, (JUMP_AT_LEAST, 0, 1, FIRST_UNKNOWN), _answer(errno.ENOSYS), _answer(errno.EPERM)]


def _answer(number: int) -> Instruction:
    return (RETURN, 0, 0, RETURN_ERRNO | number)


def _for_call(number: int | None, body: list[Instruction]) -> list[Instruction]:
    """``body``, which ends by returning, for one system call; nothing if the machine has no such call."""
    return [] if number is None else [(JUMP_EQUAL, 0, len(body), number), *body]


def _alternative(conditions: tuple[Condition, ...], pid: int) -> list[Instruction]:
    """Allow if all conditions hold, else go on behind."""
    code: list[Instruction] = [(RETURN, 0, 0, RETURN_ALLOW)]
    for condition in reversed(conditions):
        code = [*_test(condition, pid, len(code)), *code]
    return code


def _test(condition: Condition, pid: int, behind: int) -> list[Instruction]:
    """Fall through if the condition holds, else jump over the ``behind`` instructions that follow."""
    offset = ARGUMENTS_OFFSET + 8 * condition.index
    if isinstance(condition, Without):
        return [(LOAD, 0, 0, offset + 4 * condition.half), (JUMP_BITS, behind, 0, condition.bits)]
    values = [pid if value == OWN_PID else value for value in condition.values]
    code: list[Instruction] = [(LOAD, 0, 0, offset), (AND, 0, 0, condition.mask)]
    for left, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
        code.append((JUMP_EQUAL, left, 0 if left else behind, value))
    return code


def install() -> bool:
    """Filter this thread, and those it starts, for good; False where the kernel or the machine has no such filter."""
    machine = platform.machine()
    if machine not in MACHINES or platform.system() != "Linux":
        return False
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program(machine, os.getpid()))
    instructions = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HP", len(code) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0) == 0)
