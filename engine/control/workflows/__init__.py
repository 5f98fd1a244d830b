"""Work in declared steps that the daemon carries forward; the pipeline is one."""
