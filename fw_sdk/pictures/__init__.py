"""Pictures of what came out, as PNG: of a pipeline, of a comparison."""
