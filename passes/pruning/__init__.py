"""What `prune` stands on: which channels and blocks go, and what that costs."""
