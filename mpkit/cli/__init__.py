"""The command line: see ``mpkit --help`` and ``mpkit COMMAND --help``."""
