"""``python -m fw_sdk.cli``: the same as ``fw``."""

from fw_sdk.cli import main

main()
