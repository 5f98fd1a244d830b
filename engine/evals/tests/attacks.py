"""What an evaluator must not be able to do, tried for real against a decoy: ``python -m engine.evals.tests.attacks``.

Prints one JSON object: for every attack what came of it, and whether the decoy lives untouched. Run by the tests as
the account they have and as one without rights; the decoy belongs to the same account, so nothing but the confinement
stands between the two.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.evals.evaluators import EvaluatorProcess

PRELUDE = """
import ctypes, fcntl, mmap, os, resource, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {"x86_64": (297, 129, 434, 438, 424, 101, 272, 425, 321, 57, 310, 319), "aarch64":
           (240, 138, 434, 438, 424, 117, 97, 425, 280, 1079, 270, 279)}[os.uname().machine]
(TGSIGQUEUE, SIGQUEUE, PIDFD_OPEN, PIDFD_GETFD, PIDFD_SIGNAL, PTRACE, UNSHARE, IO_URING, BPF, FORK, VM_READV,
 MEMFD) = NUMBERS
INFO = ctypes.create_string_buffer(128); struct.pack_into("iii", INFO, 0, 9, 0, -1)

def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

def evaluate(messages, ground_truth=None, *, decoy, secret, outside):
"""

ATTACKS = {
    "kill": "os.kill(decoy, 9)",
    "kill the group": "os.killpg(os.getpgid(decoy), 9)",
    "kill everybody": "os.kill(-1, 0)",
    "kill the parent": "os.kill(os.getppid(), 0)",
    "tkill": "call({'x86_64': 200, 'aarch64': 130}[os.uname().machine], decoy, 9)",
    "rt_tgsigqueueinfo": "call(TGSIGQUEUE, decoy, decoy, 9, INFO)",
    "rt_sigqueueinfo": "call(SIGQUEUE, decoy, 9, INFO)",
    "F_SETOWN": "r, w = os.pipe(); fcntl.fcntl(r, 8, decoy)",
    "F_SETSIG": "r, w = os.pipe(); fcntl.fcntl(r, 10, 9)",
    "O_ASYNC": "r, w = os.pipe(); fcntl.fcntl(r, 4, fcntl.fcntl(r, 3) | 0x2000)",
    "FIOASYNC": "r, w = os.pipe(); fcntl.ioctl(r, 0x5452, struct.pack('i', 1))",
    "prlimit": "resource.prlimit(decoy, resource.RLIMIT_CPU, (1, 1))",
    "setpriority": "os.setpriority(os.PRIO_PROCESS, decoy, 19)",
    "sched_setaffinity": "os.sched_setaffinity(decoy, {0})",
    "pidfd_open": "call(PIDFD_OPEN, decoy, 0)",
    "pidfd_getfd": "call(PIDFD_GETFD, 3, 1, 0)",
    "pidfd_send_signal": "call(PIDFD_SIGNAL, 3, 9, None, 0)",
    "ptrace": "call(PTRACE, 16, decoy, 0, 0)",
    "process_vm_readv": "call(VM_READV, decoy, None, 0, None, 0, 0)",
    "memory of the decoy": "open(f'/proc/{decoy}/mem', 'r+b', 0)",
    "environment of the decoy": "open(f'/proc/{decoy}/environ').read()",
    "environment of the parent": "open(f'/proc/{os.getppid()}/environ').read()",
    "descriptors of the parent": "os.readlink(f'/proc/{os.getppid()}/fd/0')",
    "root of the parent": "open(f'/proc/{os.getppid()}/root{secret}').read()",
    "fork": "os.fork()",
    "fork by number": "call(FORK)",
    "fork in the other ABI": "call(0x40000000 + 57)",
    "clone": "call({'x86_64': 56, 'aarch64': 220}[os.uname().machine], 17, 0, 0, 0, 0)",
    "clone with a namespace": "call({'x86_64': 56, 'aarch64': 220}[os.uname().machine], 0x10010000, 0, 0, 0, 0)",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "execve": "os.execv('/bin/true', ['true'])",
    "unshare": "call(UNSHARE, 0x10000000)",
    "io_uring": "call(IO_URING, 1, INFO)",
    "bpf": "call(BPF, 0, 0, 0)",
    "memfd_create": "call(MEMFD, b'x', 0)",
    "socket": "socket.socket()",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "datagram pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "sendto": "a, b = socket.socketpair(); a.sendto(b'x', '/dev/log')",
    "raise a limit": "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "read the token": "open(secret).read()",
    "read the token by a link": "os.symlink(secret, 'link'); open('link').read()",
    "read a disk": "open(next(f'/dev/{name}' for name in os.listdir('/dev') if name.startswith(('vd', 'sd', 'nvme'))))",
    "write outside": "open(outside, 'w').write('x')",
    "append to the library": "open(os.__file__, 'ab')",
    "make a file outside": "open(os.path.join(os.path.dirname(outside), 'new'), 'w')",
    "remove a file outside": "os.unlink(outside)",
    "truncate a file outside": "os.truncate(outside, 0)",
    "move a file outside": "os.rename(outside, 'mine')",
    "link a file outside": "os.link(outside, 'mine')",
    "change a mode": "os.chmod(outside, 0o777)",
    "change a time": "os.utime(outside, (0, 0))",
    "lock a file": "fcntl.flock(os.open(outside, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "make a fifo": "os.mkfifo('pipe')",
    "leave a shared segment": "call({'x86_64': 29, 'aarch64': 194}[os.uname().machine], 0, 4096, 0o1600)",
    "change the parent's death": "call({'x86_64': 157, 'aarch64': 167}[os.uname().machine], 4, 1, 0, 0, 0)",
}


def attempt(folder: Path, body: str, row: dict[str, object]) -> str:
    """``score``, or the evaluator's error."""
    path = folder / "attack.py"
    path.write_text(f"{PRELUDE}    {body}\n    return 1.0\n")
    with EvaluatorProcess(path, row_timeout_s=20.0) as process:
        scored = process.score([{"role": "assistant", "content": "x"}], None, row)
    return "score" if scored.error is None else scored.error


def main() -> None:
    """Try every attack against a sleeping process of our own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        os.environ["FW_HOME"] = str(home)
        (home / "token").write_text("secret")
        (folder / "outside").write_text("precious")
        decoy = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        limits = resource.prlimit(decoy.pid, resource.RLIMIT_CPU)
        row = {"decoy": decoy.pid, "secret": str(home / "token"), "outside": str(folder / "outside")}
        found = {attack: attempt(folder, body, row) for attack, body in ATTACKS.items()}
        untouched = decoy.poll() is None and resource.prlimit(decoy.pid, resource.RLIMIT_CPU) == limits
        decoy.kill()
        decoy.wait()
        whole = (folder / "outside").read_text() == "precious"
    json.dump({"uid": os.getuid(), "attacks": found, "untouched": untouched, "whole": whole}, sys.stdout)


if __name__ == "__main__":
    main()
