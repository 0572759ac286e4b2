"""Pages of the benchmarks."""
