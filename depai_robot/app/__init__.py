"""Configuration, building the parts, the runner (queue, journal, step, effects) and recovery."""
