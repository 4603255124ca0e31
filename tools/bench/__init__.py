"""The benchmarks: each is run by one command, and fills its section of docs/benchmarks.md."""
