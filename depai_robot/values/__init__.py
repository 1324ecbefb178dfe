"""Money, energy, geometry, identity and errors: values that every layer shares.

Imports nothing of ours; does no I/O.
"""
