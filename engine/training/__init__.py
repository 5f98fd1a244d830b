"""LoRA fine-tuning: rows become packed batches, batches become optimiser steps, steps become an adapter.

``job`` is the program that the control plane starts; ``estimates``, ``examples``, ``packing``, ``preview`` and
``schedule`` import no torch.
"""
