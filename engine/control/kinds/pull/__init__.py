"""Pulls: base models brought to this machine."""
