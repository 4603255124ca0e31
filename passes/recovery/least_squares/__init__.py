"""Least squares, layer by layer, on what the compressed model really reads."""
