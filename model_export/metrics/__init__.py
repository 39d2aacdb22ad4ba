"""Measures how good predictions are, with intervals."""
