"""One command that checks a GPU against the CPU and times everything on it."""
