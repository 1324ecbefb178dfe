"""depai_robot: agent firmware of a robot that keeps itself powered and pays its own way.

The folders form layers (docs/architecture.md); a folder imports only from lines below its own.
"""

__version__ = "0.1.0"
