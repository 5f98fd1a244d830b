"""What pulling a model would take: bytes to fetch, room on the disk. Nothing is fetched but a hub's list of files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.catalog.hub import SCHEME, HubSource, choose_files
from engine.catalog.hub_client import HubClient
from engine.catalog.model_files import find_model_files
from engine.catalog.staging import SPARE_BYTES
from engine.catalog.starters import STARTERS
from engine.control.context import Context
from engine.control.kinds.pull.creation import default_id, requested_source
from fw_sdk.types import ModelState, PullEstimate, PullModel, resource_id


@dataclass(frozen=True)
class _Needs:
    """Bytes that come over the network, bytes that the disk must have, and the licence as far as it is stated."""

    download: int
    disk: int
    licence: str | None = None


def estimate(context: Context, request: PullModel) -> PullEstimate:
    """What ``pulls.pull`` with the same request would take.

    Raises:
        FwError: as ``pulls.pull``; for a hub as ``HubClient.repository`` and ``choose_files``.
    """
    source = requested_source(context.store, request.source)
    identifier = resource_id(request.model_id or default_id(source), "models")
    known = context.store.models.find(identifier)
    here = known is not None and known.state is ModelState.READY and known.source == source
    needs = _Needs(0, 0, known.licence if known else None) if here else _needs(source)
    free = shutil.disk_usage(context.home.models).free
    return PullEstimate(
        source=source,
        model_id=identifier,
        present=here,
        download_bytes=needs.download,
        disk_bytes=needs.disk,
        disk_free_bytes=free,
        fits=here or free >= needs.disk + SPARE_BYTES,
        licence=needs.licence,
    )


def _needs(source: str) -> _Needs:
    starter = STARTERS.get(source)
    if starter is not None:
        return _Needs(starter.wheel_bytes, 2 * starter.wheel_bytes, starter.licence)
    if source.startswith(SCHEME):
        hub = HubSource.parse(source)
        repository = HubClient().repository(hub)
        weights, others = choose_files(repository.files, hub)
        size = sum(file.size for file in (*weights, *others))
        return _Needs(size, size, repository.licence)
    return _Needs(0, find_model_files(Path(source)).bytes)
