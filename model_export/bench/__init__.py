"""Measures how fast the network runs, compared with torch: ``valuestream-model bench``."""
