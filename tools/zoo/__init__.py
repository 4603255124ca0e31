"""Real models with real data, out of ordinary packages, for benchmarks and tests."""
