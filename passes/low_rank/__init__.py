"""What `svd` and `project` stand on: weighted low-rank approximation."""
