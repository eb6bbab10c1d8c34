"""Benchmarks of certificates: exact truth beside the suites, and the sandwich on MNIST."""
