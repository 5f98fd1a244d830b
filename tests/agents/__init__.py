"""How agents fare with the MCP server: a recording session, tasks that a script solves, records of real attempts."""
