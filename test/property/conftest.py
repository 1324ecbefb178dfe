"""A shared machine stalls for longer than any honest deadline of one example; pytest's own time-out stays."""

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
