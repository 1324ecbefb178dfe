"""The robot as a fleet sees it: VDA 5050 messages and the agent that speaks them. Pure: no I/O, no clock, no keys.

A stranger to perception, docking and charging: what they know comes in as a Status, what a fleet wants goes out as an
intent. Nothing here can spend; the wallet's own policy decides what becomes of an intent.
"""
