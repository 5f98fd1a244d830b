"""What the daemon remembers: one SQLite file, documents of the wire types, jobs with leases and ordered events."""

from engine.control.store.collection import Collection
from engine.control.store.job_table import COLLECTIONS, JobTable, ProgramEvent
from engine.control.store.store import Store

__all__ = ["COLLECTIONS", "Collection", "JobTable", "ProgramEvent", "Store"]
