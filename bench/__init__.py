"""Benchmarks: figures for docs/benchmarks.md, never timed tests."""
