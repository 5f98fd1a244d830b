"""One folder for each kind of job: its record, its creation, and what its end means."""
