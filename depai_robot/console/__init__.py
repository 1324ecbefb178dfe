"""The operators' console ``depai-fleet``: a picture of the fleet from MQTT, on a terminal, in a browser, for scripts.

``vda``, ``fleet``, ``alert``, ``station``, ``query``, ``diff``, ``command`` and ``plot`` are pure; ``history`` writes
SQLite; ``hub`` joins them to a broker; the other modules show it. Nothing here holds a robot's key: robots do what
their owners signed, whatever a console says.
"""
