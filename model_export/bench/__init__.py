"""``valuestream-model bench``: how fast the network runs, beside torch."""
