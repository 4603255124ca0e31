"""What can be done to a model: curvature, the passes that propose changes by it, and the planner that chooses."""
