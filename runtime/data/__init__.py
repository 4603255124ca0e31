"""Samples: what a person names in; checked batches of feeds out."""
