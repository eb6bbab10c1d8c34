"""A sweep by several workers, and a plan for a thousand networks."""
