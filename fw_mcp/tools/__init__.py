"""The tools, one module each; ``register(server, platform)`` adds a module's tool to a server."""
