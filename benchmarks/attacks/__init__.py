"""Settings of attacks, measured on networks trained on MNIST."""
