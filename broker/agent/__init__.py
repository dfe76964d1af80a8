"""The agent's side: the standard library and the grammar, nothing else."""
