"""Tests of attention with one order of every sum."""
