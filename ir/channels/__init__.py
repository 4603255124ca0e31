"""Channels that go together: which they are, what carries them through a graph, and their removal."""
