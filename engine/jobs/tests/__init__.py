"""Tests of the job contract."""
