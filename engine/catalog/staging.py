"""What every way of pulling shares: progress, room on the disk, and the step from staged files to a model.

Files are staged below the models folder and renamed to their digest once they are whole.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.catalog.digests import PREFIX, digest_model
from engine.catalog.embedding_config import read_any_config
from engine.catalog.wheels import Progress
from engine.jobs.program import JobContext
from engine.jobs.specs import PullSpec
from fw_sdk.types import FwError

SPARE_BYTES = 64 << 20


def reporter(context: JobContext[PullSpec], message: str) -> Progress:
    """A function of (bytes done, bytes in all) that reports progress, and raises ``Cancelled`` once asked to stop."""

    def report(done: int, total: int) -> None:
        context.check_cancelled()
        context.progress(done, total, message, unit="bytes")

    return report


def publish(context: JobContext[PullSpec], staged: Path, models_dir: Path) -> Path:
    """Check what was staged and give it its final name; another pull that was faster wins."""
    read_any_config(staged)
    digest = digest_model(staged)
    final = models_dir / digest.removeprefix(PREFIX)
    context.check_cancelled()
    if is_whole(final, digest):
        return final
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    return final


def is_whole(folder: Path, digest: str) -> bool:
    """Whether the model of that digest is at ``folder``."""
    try:
        return folder.is_dir() and digest_model(folder) == digest
    except FwError:
        return False


def check_room(models_dir: Path, needed: int) -> None:
    """Raise ``resource_exhausted`` unless ``needed`` bytes and some to spare fit on the disk."""
    if shutil.disk_usage(models_dir).free < needed + SPARE_BYTES:
        raise disk_full(models_dir, needed)


def disk_full(models_dir: Path, needed: int | None = None) -> FwError:
    """The error for a disk without room for ``needed`` bytes."""
    wanted = f" {needed >> 20} MiB are needed." if needed else ""
    return FwError(
        "resource_exhausted",
        f"The disk of '{models_dir}' is full.{wanted}",
        not_done="Nothing was pulled.",
        hint="free some space, or put FW_HOME on a larger disk, then resume the job",
    )
