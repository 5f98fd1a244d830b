"""Datasets, evaluators and models: what is stored, under which names, and what a name stands for."""
