"""Deployments, the workers behind them, and the probe that both must pass."""
