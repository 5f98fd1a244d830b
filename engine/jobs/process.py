"""Which process a pid really is, and what one of ours starts with; clients and the daemon follow the same rules."""

from fw_sdk.types.process import ProcessId, python_environment

__all__ = ["ProcessId", "python_environment"]
