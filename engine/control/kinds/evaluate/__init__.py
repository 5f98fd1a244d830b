"""Evaluations: a model's answers to a dataset's rows, scored by an evaluator."""
