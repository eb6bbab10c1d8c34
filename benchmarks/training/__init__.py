"""What training costs, how fast it is, and the networks of the digits."""
