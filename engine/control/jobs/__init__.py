"""The queue, the supervision of processes, their events and how they ended."""
