"""The loop and its faults, through every surface, with real processes and the small real model."""
