"""What the daemon remembers: one SQLite file, documents of the wire types, jobs with leases and ordered events."""

from engine.control.store.collection import Collection
from engine.control.store.job_table import JobTable, ProgramEvent
from engine.control.store.store import Store

__all__ = ["Collection", "JobTable", "ProgramEvent", "Store"]
