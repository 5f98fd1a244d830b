"""Which process a pid really is, for the engine; clients find the daemon by the same rule."""

from fw_sdk.types.process import ProcessId

__all__ = ["ProcessId"]
