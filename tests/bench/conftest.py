"""Pytest settings: skip the peers that need an environment of their own, as they cannot be imported here."""

collect_ignore = ["peers/quix.py", "peers/bytewax_flow.py"]
