"""``python -m mpkit``: the same as the command ``mpkit``."""

from mpkit.cli.main import main

if __name__ == "__main__":
    main()
