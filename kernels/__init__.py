"""Operators: one folder each, with the float64 truth in ``reference.py``.

``op.py`` is what callers use: it asks ``registry`` which implementation answers a problem. ``cpu.py`` is plain torch,
so it runs on any device torch knows. ``kernel.py`` is Triton and ``gpu.py`` launches it, with configurations from
``configs/``; ``spec.py`` says what must hold for all of them, and ``testing`` checks it without a GPU too
(``python -m kernels``). ``*.c`` and ``*.h`` are compiled by ``kernels.native``: ``native`` has the vectors and the
threads, ``block_matmul`` products with weights in 4 or 8 bits, ``paged_attention`` attention over pages, and
``decoder`` puts them together into a whole step.
"""
