"""Tests of functions of single values."""
