"""Tests of AdamW."""
