"""The control plane in rooms, each importing only those below it; `docs/architecture.md` says which."""
