"""``valuestream plan``: computes what a load needs from measured unit costs."""
