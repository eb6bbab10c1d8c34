"""What moves from one processor to another."""
