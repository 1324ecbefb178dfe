"""Cheats by name, and the arena in which each meets the honest other side. For development chains only."""
