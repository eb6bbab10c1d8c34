"""Networks and attacks that fail in known ways, and problems with known answers."""
