"""Tests of the compiled decoder step."""
