"""From the dock's pose to drive commands: search, staging, approach, contact, retry, undock. Pure.

May import values only; time arrives as a field of its inputs.
"""
