"""Development contracts: our own stand-ins, for development chains only."""
