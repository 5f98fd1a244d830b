"""Operators: one folder each, with the float64 truth in ``reference.py``.

``cpu.py`` is plain torch, so it runs on any device torch knows; it is tuned for the CPU. ``*.c`` and ``*.h`` are
compiled by ``kernels.native``: ``native`` has the vectors and the threads, ``block_matmul`` products with weights in 4
or 8 bits, ``paged_attention`` attention over pages, and ``decoder`` puts them together into a whole step.
"""
