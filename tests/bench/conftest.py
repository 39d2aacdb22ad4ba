"""Peers that run in an environment of their own cannot be imported here."""

collect_ignore = ["peers/quix.py", "peers/bytewax_flow.py"]
