"""The commands, the driver that ties the parts together, and the benchmarks."""
