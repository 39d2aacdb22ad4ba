"""``valuestream demo``: broker, worker and simulated shoppers on this machine, with a live page in the terminal."""
