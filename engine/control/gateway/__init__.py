"""Inference requests relayed to workers, and the tokens counted on the way."""
