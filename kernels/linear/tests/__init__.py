"""Tests of products with one order of every sum."""
