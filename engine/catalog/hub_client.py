"""Asking a hub for a repository's files, and fetching one: resumed where it stopped, checked against its digest.

The hub's address and the token are those of huggingface-hub: ``HF_ENDPOINT``, ``HF_TOKEN``, or what ``hf auth login``
left. The token goes into request headers and nowhere else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from engine.catalog.digests import digest_file, digest_git_blob
from engine.catalog.hub import NOT_DONE, HubFile, HubSource
from fw_sdk.types import FwError

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT = httpx.Timeout(30.0)
ATTEMPTS = 5
PAUSE_S = 1.0
LOGIN_HINT = (
    "accept its terms on its page, then run 'hf auth login', or set HF_TOKEN before 'fw up'; then resume the job"
)


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        commit: its hash.
        files: all of them.
        licence: SPDX identifier as its card states it, or None.
    """

    commit: str
    files: tuple[HubFile, ...]
    licence: str | None


class HubClient:
    """One hub, reached over HTTP."""

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface-hub is imported
        self.endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")

    def repository(self, source: HubSource) -> Repository:
        """What is in the repository.

        Raises:
            FwError: ``not_found``, ``permission_denied`` (gated), ``unavailable`` (offline, unreachable, overloaded).
        """
        from huggingface_hub import HfApi

        try:
            info = HfApi(self.endpoint, library_name="fw").model_info(
                source.repo, revision=source.revision, files_metadata=True, timeout=TIMEOUT.read
            )
        except Exception as error:  # which HTTP library it uses changes with huggingface-hub's version
            raise self._api_error(error, source) from error
        files = tuple(
            HubFile(
                item.rfilename,
                item.lfs.size if item.lfs else int(item.size or 0),
                f"sha256:{item.lfs.sha256}" if item.lfs else f"git:{item.blob_id}",
            )
            for item in info.siblings or ()
        )
        licence = getattr(info.card_data, "license", None)
        return Repository(str(info.sha), files, licence if isinstance(licence, str) else None)

    def fetch(self, repo: str, commit: str, file: HubFile, target: Path, report: Callable[[int], None]) -> None:
        """Have ``file`` at ``target``, whole and checked; what ``target``.part holds already is not fetched again.

        Args:
            repo: ``org/name``.
            commit: of the repository.
            file: which.
            target: where to; what has this name is taken for checked.
            report: called with bytes of this file so far; may raise to stop, and a later call goes on from there.

        Raises:
            FwError: ``unavailable`` if it breaks off again and again, ``model_unsupported`` if its content is not what
                the hub promised, ``permission_denied``.
        """
        if target.is_file():
            return report(file.size)
        part = target.with_name(target.name + ".part")
        part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        left = ATTEMPTS
        while left:
            before = _size(part)
            try:
                self._stream(repo, commit, file, part, report)
                break
            except (httpx.RequestError, _BrokenOffError) as error:
                left = ATTEMPTS if _size(part) > before else left - 1
                if not left:
                    raise self._unreachable(str(error) or type(error).__name__) from error
                time.sleep(PAUSE_S)
        found = digest_file(part) if file.digest.startswith("sha256:") else digest_git_blob(part)
        if found != file.digest:
            part.unlink()
            raise _untrusted(f"'{file.name}' has the digest {found}, the hub promised {file.digest}")
        part.replace(target)

    def _stream(self, repo: str, commit: str, file: HubFile, part: Path, report: Callable[[int], None]) -> None:
        """One request for what is still missing."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not in __all__

        if _size(part) > file.size:
            part.unlink()
        have = _size(part)
        report(have)
        if have == file.size:
            return part.touch()
        url = hf_hub_url(repo, file.name, revision=commit, endpoint=self.endpoint)
        headers = build_hf_headers(library_name="fw") | {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            if response.status_code not in (200, 206):
                raise self._refused(response, repo)
            with part.open("ab" if response.status_code == 206 else "wb") as out:
                for chunk in response.iter_bytes():
                    out.write(chunk)
                    report(out.tell())
        if _size(part) < file.size:
            raise _BrokenOffError(f"'{file.name}' ended after {_size(part)} of {file.size} bytes")

    def _refused(self, response: httpx.Response, repo: str) -> Exception:
        status = response.status_code
        if status in (401, 403):
            return _gated(repo)
        if status == 416 or status == 429 or status >= 500:
            return _BrokenOffError(f"the hub answered {status}")
        return FwError("not_found", f"The hub answered {status} for a file of '{repo}'.", not_done=NOT_DONE)

    def _api_error(self, error: Exception, source: HubSource) -> Exception:
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            return _gated(source.repo)
        if isinstance(error, errors.RevisionNotFoundError):
            message = f"'{source.repo}' has no revision '{source.revision}'."
            return FwError("not_found", message, not_done=NOT_DONE, hint="give a branch, tag or commit", param="source")
        if isinstance(error, errors.RepositoryNotFoundError):
            return FwError(
                "not_found",
                f"The hub knows no model '{source.repo}', or it is private.",
                not_done=NOT_DONE,
                hint="check the name; for a private one run 'hf auth login', or set HF_TOKEN before 'fw up'",
                param="source",
            )
        if isinstance(error, errors.HFValidationError):
            return FwError(
                "invalid_argument", f"'{source.repo}' is no repository's name.", not_done=NOT_DONE, param="source"
            )
        if isinstance(error, errors.OfflineModeIsEnabled):
            message = "HF_HUB_OFFLINE is set, so the hub was not asked."
            return FwError("unavailable", message, not_done=NOT_DONE, hint="unset it and start the daemon again")
        if isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            return _gated(source.repo) if status in (401, 403) else self._unreachable(f"it answered {status}")
        if isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            return self._unreachable(str(error) or type(error).__name__)
        return error

    def _unreachable(self, reason: str) -> FwError:
        return FwError(
            "unavailable",
            f"The hub at {self.endpoint} does not answer: {reason}.",
            not_done="The model is not here; what was fetched is kept.",
            hint="check the network and HF_ENDPOINT, then resume the job",
        )


class _BrokenOffError(Exception):
    """A transfer that ended early and may be tried again."""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _gated(repo: str) -> FwError:
    return FwError(
        "permission_denied",
        f"The hub does not let us read '{repo}': it is gated or private.",
        not_done=NOT_DONE,
        hint=LOGIN_HINT,
        param="source",
    )


def _untrusted(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"What was downloaded cannot be trusted: {reason}.",
        not_done="The file was thrown away, and nothing was pulled.",
        hint="resume the job to fetch it again; if that does not help, tell its publisher",
    )
