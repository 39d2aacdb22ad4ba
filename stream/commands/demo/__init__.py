"""``valuestream demo``: runs a broker, a worker and simulated shoppers on this machine, with a live page."""
