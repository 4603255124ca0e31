"""What a pass proposes, how it is chosen, and how the stages of a pipeline run at a price."""
