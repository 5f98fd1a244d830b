"""Tests of evaluators, evaluations and their statistics."""
