"""The command line: ``depai-robot``."""
