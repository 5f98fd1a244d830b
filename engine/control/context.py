"""What every room may work with: the home, the settings, and the store."""

from __future__ import annotations

from dataclasses import dataclass

from engine.control.settings import Settings
from engine.control.store import Store
from fw_sdk.types.home import Home


@dataclass(frozen=True)
class Context:
    """The floor of the control plane; rooms further up add their own services to it.

    Attributes:
        home: where things are kept.
        settings: what the starter of the daemon chose.
        store: what the daemon remembers.
    """

    home: Home
    settings: Settings
    store: Store
