"""Evaluators and their confinement, evaluations over HTTP, statistics of scores and comparisons. Imports no torch."""
