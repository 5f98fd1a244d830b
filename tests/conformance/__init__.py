"""The official MCP conformance suites and inspector, run against our server with fixtures that never ship."""
