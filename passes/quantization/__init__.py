"""Numbers in few bits: weights and the curvature of their layer in, codes and the values they stand for out."""
