"""The `fw` command."""
