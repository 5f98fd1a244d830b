"""The daemon's process and its HTTP: app, bodies, errors, routes."""
