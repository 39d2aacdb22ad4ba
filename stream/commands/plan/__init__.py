"""``valuestream plan``: what a load needs, from measured unit costs."""
