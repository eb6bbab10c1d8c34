"""Our attacks beside those of other libraries, and over the bare loop."""
