"""Markdown pages written for agents and people; the one source of ``docs_search`` and the ``docs://`` resources."""
