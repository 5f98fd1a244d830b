"""Supervised fine-tunes."""
