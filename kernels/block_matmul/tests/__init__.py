"""Tests of products with packed weights."""
