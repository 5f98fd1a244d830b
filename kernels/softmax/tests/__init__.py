"""Tests of softmax with one order of every sum."""
