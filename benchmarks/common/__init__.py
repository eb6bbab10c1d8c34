"""Records and meters that several benchmarks share."""
