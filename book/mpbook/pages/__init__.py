"""From chapters to pages: parameters, execution, rendering and sweeps."""
