"""The exactness check: log-probabilities sampled under random traffic, recomputed alone, must have the same bits.

python -m engine.inference.exactness --tokens 20000
"""
