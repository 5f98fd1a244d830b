"""Tests of products with matrices in few bits."""
