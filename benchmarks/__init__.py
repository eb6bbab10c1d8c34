"""Longer measurements, each one command; their records lie in book/results/."""
