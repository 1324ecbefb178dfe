"""The ports on the real world, one library per file. Wraps that library's errors with ``from``."""
