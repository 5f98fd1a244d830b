"""Operators: one folder each, with the float64 truth in ``reference.py`` and what runs in ``cpu.py``.

``cpu.py`` is plain torch, so it runs on any device torch knows; it is tuned for the CPU.
"""
