"""Tests, and what they share: ``builders`` (valid values with one thing changed), ``pretend`` (a world in memory)."""
