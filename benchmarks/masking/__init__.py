"""The doctor on networks trained on MNIST."""
