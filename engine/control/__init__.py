"""The control plane: store, datasets, models, jobs, deployments, pipelines, gateway and their HTTP app; no torch."""
