"""Weights and activations in few bits: grids, rounding, ranges, and what they cost."""
