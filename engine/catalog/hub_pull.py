"""Pulling a model from a hub: what an attempt fetched is there for the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.catalog.digests import PREFIX, digest_file, digest_of_files
from engine.catalog.embedding_config import check_architecture
from engine.catalog.hub import INDEX, HubFile, HubSource, choose_files, of_index
from engine.catalog.hub_client import HubClient
from engine.catalog.staging import check_room, is_whole, publish, reporter
from engine.jobs.program import JobContext
from engine.jobs.specs import PullSpec
from fw_sdk.types import FwError

HUB_DIR = ".hub"
STALE_S = 14 * 24 * 3600
PROGRESS_S = 0.5


def pull_hub(context: JobContext[PullSpec], source: HubSource, models_dir: Path) -> tuple[Path, str | None]:
    """Pull from a hub; where the model is, and its licence as its card states it.

    What was fetched stays in ``.hub`` until the model is whole, so that the next attempt goes on from there.

    Raises:
        FwError: as ``HubClient``, ``choose_files`` and ``read_config``.
        Cancelled: when asked to stop.
    """
    client = HubClient()
    repository = client.repository(source)
    weights, others = choose_files(repository.files, source)
    key = "--".join([*source.repo.split("/"), repository.commit[:12], *(file.digest[-12:] for file in weights[:1])])
    staged = models_dir / HUB_DIR / key
    _forget_stale(staged.parent)
    staged.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(staged):
        for file in others:
            client.fetch(source.repo, repository.commit, file, staged / file.name, lambda _: context.check_cancelled())
        if (staged / INDEX).is_file():
            weights = of_index(weights, (staged / INDEX).read_bytes())
        final = models_dir / _digest_to_come(staged, weights, others).removeprefix(PREFIX)
        if is_whole(final, PREFIX + final.name):
            context.message(f"{source.repo} is already here")
            shutil.rmtree(staged)
            return final, repository.licence
        if others:
            check_architecture(staged)
        _fetch_weights(context, client, source.repo, repository.commit, weights, staged)
        model = publish(context, staged, models_dir)
        shutil.rmtree(staged, ignore_errors=True)
        return model, repository.licence


def _fetch_weights(
    context: JobContext[PullSpec],
    client: HubClient,
    repo: str,
    commit: str,
    weights: tuple[HubFile, ...],
    staged: Path,
) -> None:
    total = sum(file.size for file in weights)
    targets = [staged / Path(file.name).name for file in weights]
    names = {target.name for target in targets}
    have = sum(path.stat().st_size for path in staged.iterdir() if path.name.removesuffix(".part") in names)
    check_room(staged, total - have)
    progress, done, said = reporter(context, f"downloading {repo}"), 0, 0.0
    for file, target in zip(weights, targets, strict=True):

        def report(now: int, before: int = done, size: int = file.size) -> None:
            nonlocal said
            context.check_cancelled()
            if now == size or time.monotonic() - said > PROGRESS_S:
                said = time.monotonic()
                progress(before + now, total)

        client.fetch(repo, commit, file, target, report)
        done += file.size


def _digest_to_come(staged: Path, weights: tuple[HubFile, ...], others: tuple[HubFile, ...]) -> str:
    """The digest that the model will have, known before its weights are here."""
    if not others:
        return weights[0].digest
    known = {file.name: digest_file(staged / file.name) for file in others}
    return digest_of_files(known | {file.name: file.digest for file in weights})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other pull works on this folder meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        message = "Another job is pulling this model."
        raise FwError("failed_precondition", message, not_done="Nothing was pulled.", hint="wait for it") from None
    finally:
        os.close(descriptor)


def _forget_stale(hub_dir: Path) -> None:
    """Parts of downloads that nobody went on with are not kept for ever."""
    for folder in hub_dir.glob("*"):
        with suppress(FileNotFoundError):  # another pull has finished with it
            if time.time() - folder.stat().st_mtime > STALE_S:
                shutil.rmtree(folder, ignore_errors=True)
