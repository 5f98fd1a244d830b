"""What the person who starts the daemon may choose."""

from __future__ import annotations

from dataclasses import dataclass

from fw_sdk.types.home import DEFAULT_PORT


@dataclass(frozen=True)
class Settings:
    """Choices of one daemon.

    Attributes:
        base_url: where this daemon is reached; job programs and clients get it.
        tick_s: how often running jobs are looked at, in seconds.
        cancel_grace_s: how long a cancelled program may take to save its work, in seconds.
        max_json_bytes: the largest JSON body.
        max_upload_bytes: the largest uploaded dataset file.
    """

    base_url: str = f"http://127.0.0.1:{DEFAULT_PORT}"
    tick_s: float = 0.4
    cancel_grace_s: float = 20.0
    max_json_bytes: int = 64 * 1024**2
    max_upload_bytes: int = 1024**3
