"""The MCP server of fw: eight workflow tools over the daemon's HTTP API, for coding agents."""
